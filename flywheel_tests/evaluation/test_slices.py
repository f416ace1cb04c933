"""Kinds of pairs are told apart by what stands in the texts."""

import pandas as pd
import pytest

from flywheel.evaluation.slices import slices_of

WORD = "word"


def kinds(text_a: str, text_b: str = "plain text", source: str = "seed") -> set[str]:
    pairs = pd.DataFrame({"text_a": [text_a], "text_b": [text_b], "source": [source]})
    return {name for name, mask in slices_of(pairs).items() if mask[0]} - {"seed pairs", "short texts"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("can I open 2 files", {"numbers"}),
        ("Why is iOS9 slow?", {"numbers"}),
        ("why can't I log in", {"negation"}),
        ("why can’t I log in", {"negation"}),
        ("Nothing works", {"negation"}),
        ("open a notebook, please note the knot", set()),
        ("How do I visit Paris", {"names"}),
        ("How do I log in", set()),
        ("Is it I who pays? Who else? I'm lost. Help", set()),
        ('who wrote "Emma"', {"names"}),
        ("", set()),
        (" ".join([WORD] * 17), {"long texts"}),
    ],
)
def test_what_stands_in_a_text_tells_its_kind(text: str, expected: set[str]) -> None:
    assert kinds(text) == kinds("plain text", text) == expected


def test_short_means_both_texts_and_source_is_told_apart() -> None:
    pairs = pd.DataFrame(
        {
            "text_a": [" ".join([WORD] * 8), WORD, WORD],
            "text_b": [WORD, " ".join([WORD] * 9), WORD],
            "source": ["seed", "seed", "interaction"],
        }
    )
    found = slices_of(pairs)
    assert list(found["short texts"]) == [True, False, True]
    assert list(found["seed pairs"]) == [True, True, False]
    assert list(found["interaction pairs"]) == [False, False, True]
