"""The catalogue names exact weights, and a variant that exists can be trained."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE, UNKNOWN, Models, Variant
from flywheel.models.vectors import Vectors

variants = st.sampled_from(sorted(CATALOGUE)).flatmap(lambda base: st.builds(Variant, st.just(base), st.integers(1, 768)))


@given(variants)
def test_a_variant_reads_back_from_its_own_text(variant: Variant) -> None:
    assert Variant.parse(str(variant)) == variant


@given(st.text(alphabet="alMin-6v2@0159 /.", max_size=24))
def test_parse_either_refuses_with_one_of_our_errors_or_gives_the_same_text_back(text: str) -> None:
    try:
        variant = Variant.parse(text)
    except FlywheelError:
        return
    assert str(variant) == text


def test_every_base_model_says_where_it_is_and_what_it_may_have_seen() -> None:
    for name, model in CATALOGUE.items():
        assert model.name == name
        assert model.hub_id is not None
        assert model.hub_id.endswith(f"/{name}")
        assert re.fullmatch(r"[0-9a-f]{40}|main", model.revision or "")
        assert re.fullmatch(r"[0-9a-f]{64}", model.weights_sha256 or "0" * 64)
        assert "Quora" in model.contamination
        assert model.licence != UNKNOWN
        assert model.width
        assert model.reads


def test_a_base_model_that_was_met_is_held_against_a_published_vector() -> None:
    for model in CATALOGUE.values():
        if model.published is not None:
            assert model.published.text
            assert len(model.published.numbers) in (5, model.width)
            assert any(model.published.numbers)
        assert model.published or not model.met


def test_an_unknown_base_model_is_refused_with_the_known_ones_named_and_how_to_describe_it() -> None:
    with pytest.raises(FlywheelError) as caught:
        Models().find("text-embedding-3-small")
    assert "'text-embedding-3-small'" in str(caught.value)
    assert all(name in str(caught.value) for name in CATALOGUE)
    assert '[models."text-embedding-3-small"]' in str(caught.value)
    assert Models.of({"text-embedding-3-small": {"hub_id": "a/b"}}).find("text-embedding-3-small").hub_id == "a/b"


def test_a_table_of_a_known_name_changes_what_it_says_and_nothing_else() -> None:
    known = CATALOGUE["all-MiniLM-L6-v2"]
    told = Models.of({known.name: {"path": Path("/models/minilm"), "contamination": "none"}}).find(known.name)
    assert told == replace(known, path=Path("/models/minilm"), contamination="none")
    assert Models().find(known.name) == known


def test_the_models_of_two_homes_do_not_see_each_other() -> None:
    here, there = Models.of({"ours": {"hub_id": "a/ours"}}), Models.of({"theirs": {"hub_id": "a/theirs"}})
    assert here.find("ours").hub_id == "a/ours"
    with pytest.raises(FlywheelError, match="no base model 'ours'"):
        there.find("ours")


@pytest.mark.parametrize("dim", ["0", "-7"])
def test_a_dimension_below_1_is_refused(dim: str) -> None:
    with pytest.raises(FlywheelError, match=f"Dimension {dim} of all-MiniLM-L6-v2 is out of range"):
        Variant.parse(f"all-MiniLM-L6-v2@{dim}")
    assert Variant.parse("all-MiniLM-L6-v2@1").dim == 1


def test_a_dimension_beyond_the_models_width_is_refused_with_both_numbers(tmp_path: Path) -> None:
    vectors = Vectors(CATALOGUE["all-MiniLM-L6-v2"], tmp_path, "cpu")
    vectors.check_dim(384)
    with pytest.raises(FlywheelError, match=r"Dimension 385 .* from 1 to 384"):
        vectors.check_dim(385)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@256",
        "all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2@",
        "all-MiniLM-L6-v2@x",
        "all-MiniLM-L6-v2@0256",
        "all-MiniLM-L6-v2@256@384",
        " all-MiniLM-L6-v2@256",
        "all-MiniLM-L6-v2@256\n",
        "all-MiniLM-L6-v2@" + "9" * 5000,
    ],
)
def test_a_malformed_variant_is_refused_with_an_example_of_the_form(text: str) -> None:
    with pytest.raises(FlywheelError, match="all-MiniLM-L6-v2@256"):
        Variant.parse(text)


def test_importing_the_models_room_loads_no_heavy_library() -> None:
    heavy = ("torch", "transformers", "sentence_transformers", "datasets", "huggingface_hub", "dagster", "duckdb")
    code = (
        "import sys, flywheel.models.catalogue, flywheel.models.weights, flywheel.models.encoder, flywheel.models.cache;"
        "import flywheel.models.vectors;"
        f"print(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
