"""A side that reads nothing, or the wrong thing, leaves no verdict and is told by its likely cause; an honest one passes.

The tests of chance are one-sided at 1 % each, over components: a side of pure chance has to pass three of them, two of which
look at the same scores. Of 200 such sides none may pass; of 200 weak but real ones at most 2 % may be taken for chance.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from flywheel.evaluation.comparison import compare, unsound_text
from flywheel.evaluation.deciding import decide, search_judging
from flywheel.evaluation.evaluate import evaluate
from flywheel.evaluation.records import Evaluation, Terms, list_evaluations
from flywheel.evaluation.sanity import Finding, Side, find_faults
from flywheel.evaluation.subjects import Embed, Subject, guess_subject
from flywheel.models.reading import Reader
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.workspace import Workspace
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.retrieval import search
from flywheel.settings import load_settings
from flywheel_tests.conftest import examples
from flywheel_tests.helpers.clumps import MINILM, World, clump_world, embed, take_world
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.pairs.test_ingest import line

Made = Callable[[list[str], Vectors], np.ndarray]
TERMS = Terms(40)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=250)


@pytest.fixture(scope="module")
def starter(demo: tuple[Path, object]) -> World:
    """The starter set's real questions, with MiniLM's vectors of them."""
    workspace = Workspace(load_settings(demo[0]))
    return World(workspace, workspace.current_snapshot(), workspace.vectors(MINILM.name))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@cache
def drawn(name: str, width: int = 64) -> np.ndarray:
    """Numbers that belong to a name."""
    return np.random.default_rng(list(hashlib.sha256(name.encode()).digest())).normal(size=width)


def reading(part: Callable[[str], str]) -> Made:
    """A vector for each different part of a text, unlike any other."""
    return lambda texts, _: unit(np.stack([drawn(part(text)) for text in texts]))


def bag(texts: list[str], _: Vectors) -> np.ndarray:
    """Words hashed into 256 numbers: crude, and honest."""
    return unit(np.stack([sum(drawn(word, 256) for word in re.findall(r"\w+", text.lower())) for text in texts]))


def trigrams(texts: list[str], _: Vectors) -> np.ndarray:
    """The same of three letters each."""
    return unit(np.stack([sum(drawn(text[i : i + 3].lower(), 256) for i in range(len(text) - 2)) for text in texts]))


def numbered(texts: list[str]) -> np.ndarray:
    """A number of each text that has nothing to do with what it says."""
    return np.array([drawn(text, 1)[0] for text in texts])


def some(texts: list[str], share: float, made: Embed, else_vector: np.ndarray) -> np.ndarray:
    """What is made of about this share of the texts, and one vector for the others."""
    return unit(np.where((np.abs(numbered(texts)) < norm.ppf(0.5 + share / 2))[:, None], made(texts), else_vector))


ONE = drawn("one")
READS_NOTHING = "the endpoint does not read the texts"
OTHERS = "the vectors belong to other texts, are made up for each request"
ONE_NUMBER = "one number, or one of two kinds, is all that depends on the text"
BEGINNING, PART = "only the beginning of a text is read", "only a part of each text is read"
INSANE: dict[str, tuple[Made, str]] = {
    "one vector": (lambda texts, _: unit(np.tile(ONE, (len(texts), 1))), READS_NOTHING),
    "one vector and noise": (lambda texts, _: unit(ONE + 1e-3 * np.stack([drawn(t) for t in texts])), READS_NOTHING),
    "one vector and rounding": (lambda texts, _: unit(ONE + 1e-7 * np.stack([drawn(t) for t in texts])), READS_NOTHING),
    "one vector for most": (lambda texts, _: some(texts, 0.05, lambda t: np.stack(list(map(drawn, t))), ONE), READS_NOTHING),
    "one vector for a fifth": (lambda texts, v: some(texts, 0.8, lambda t: trigrams(t, v), drawn("one", 256)), PART),
    "drawn for each text": (reading(str), OTHERS),
    "two kinds": (reading(lambda text: str(drawn(text, 1)[0] > 0)), ONE_NUMBER),
    "two lumps": (lambda texts, _: unit(np.stack([9 * drawn(str(drawn(t, 1)[0] > 0)) + drawn(t) for t in texts])), ONE_NUMBER),
    "one coordinate": (lambda texts, _: unit(np.column_stack([np.ones((len(texts), 63)), 5 * numbered(texts)])), ONE_NUMBER),
    "the first letter": (reading(lambda text: text[0].lower()), BEGINNING),
    "twenty characters": (lambda texts, v: trigrams([text[:20] for text in texts], v), BEGINNING),
    "ten characters": (reading(lambda text: text[:10]), BEGINNING),
    "the first word": (reading(lambda text: text.split()[0]), BEGINNING),
    "three words": (reading(lambda text: " ".join(text.split()[:3])), BEGINNING),
    "the last word": (reading(lambda text: text.split()[-1]), PART),
    "the length": (reading(lambda text: str(len(text))), PART),
}  # fmt: skip
SANE: dict[str, Made] = {
    "MiniLM": lambda texts, v: v.get(texts),
    "words hashed": bag,
    "letters hashed": trigrams,
    "all nearly alike": lambda texts, v: unit(0.02 * v.get(texts) + unit(np.ones((1, MINILM.width)))),
    "two numbers": lambda texts, v: unit(v.get(texts)[:, :2]),
    "eight numbers": lambda texts, v: unit(v.get(texts)[:, :8]),
    "none below zero": lambda texts, v: unit(np.maximum(v.get(texts), 0)),
    "signs alone": lambda texts, v: unit(np.sign(v.get(texts))),
    "sixteen bits": lambda texts, v: unit(v.get(texts).astype(np.float16)),
}


def faults(snapshot: Snapshot, embed: Embed, reader: Reader | None = None) -> tuple[Finding, ...]:
    """What an evaluation says of a side, without its intervals."""
    from flywheel.evaluation.evaluate import _findings

    subject = Subject("made up", "baseline", "made up", embed, reader=reader)
    decided = decide(subject, snapshot, None)
    return _findings(subject, decided, search_judging(subject, snapshot, decided.judging, decided.lost), judges=True)


@pytest.mark.parametrize("kind", INSANE)
def test_what_reads_nothing_or_the_wrong_thing_is_an_alarm_with_its_likely_cause(starter: World, kind: str) -> None:
    made_up, cause = INSANE[kind]
    alarm, *rest = faults(starter.snapshot, lambda texts: made_up(texts, starter.vectors))
    assert alarm.alarm
    assert alarm.cause.startswith(cause)
    assert "`flywheel baseline embed --again`" in alarm.remedy
    assert not any(each.alarm for each in rest)


def test_vectors_that_lost_their_order_are_an_alarm(starter: World) -> None:
    texts = unique_texts(*map(starter.snapshot.pairs, ("calibration", "test")))
    other = dict(zip(texts, np.random.default_rng(0).permutation(texts).tolist(), strict=True))
    [alarm] = faults(starter.snapshot, lambda some: starter.vectors.get([other[text] for text in some]))
    assert alarm.alarm
    assert alarm.cause.startswith(OTHERS)


@pytest.mark.parametrize("kind", SANE)
def test_a_weak_or_odd_but_honest_side_has_none(starter: World, kind: str) -> None:
    assert not alarms(faults(starter.snapshot, lambda texts: SANE[kind](texts, starter.vectors)))


def test_an_endpoint_that_reads_lower_case_is_sane_where_many_texts_differ_in_case_alone() -> None:
    given = side(np.random.default_rng(0), 3.0, 60)
    texts = [f"Is this text {number // 2}?" for number in range(len(given.texts))]
    texts[1::2] = [text.upper() for text in texts[1::2]]
    vectors = unit(np.stack([drawn(text.lower(), given.vectors.shape[1]) for text in texts]))
    assert not alarms(find_faults(replace(given, texts=texts, vectors=vectors.astype(np.float32)), judges=False))
    others = [f"{text} {number}" for number, text in enumerate(texts)]
    assert alarms(find_faults(replace(given, texts=others, vectors=vectors.astype(np.float32)), judges=False))


def test_every_model_of_the_demo_is_sane(starter: World) -> None:
    records = list_evaluations(starter.workspace.home.evaluations, starter.snapshot.test_id)
    assert {record.kind for record in records} == {"baseline", "untuned", "tuned"}
    assert all(record.findings == () for record in records)


def measured(world: World, embed: Embed, evaluations: Path, name: str = "made up") -> Evaluation:
    return evaluate(Subject(name, "baseline", name, embed), world.snapshot, evaluations, TERMS)


def one_vector(texts: list[str]) -> np.ndarray:
    return unit(np.tile(ONE, (len(texts), 1)))


def test_one_that_is_hardly_better_than_the_commoner_label_is_a_remark_and_compared(world: World, tmp_path: Path) -> None:
    def noisy(texts: list[str]) -> np.ndarray:
        return unit(embed(texts) + 2 * unit(np.stack([drawn(text, MINILM.width) for text in texts])))

    hard = measured(world, noisy, tmp_path)
    [remark] = hard.findings
    assert not remark.alarm
    assert (remark.cause, hard.alarm) == ("the pairs are hard for it", None)
    assert compare(measured(world, embed, tmp_path, "ours"), hard, world.snapshot, tmp_path, 3).test is not None


def test_an_alarm_leaves_no_verdict_on_either_side_nor_on_any_kind_of_pairs(world: World, tmp_path: Path) -> None:
    theirs, ours = measured(world, one_vector, tmp_path), measured(world, embed, tmp_path, "ours")
    assert theirs.alarm
    for sides in ((ours, theirs), (theirs, ours)):
        found = compare(*sides, world.snapshot, tmp_path, 3)
        assert found.test is None
        assert found.unsound == theirs
        assert all(each.test is None for each in found.slices)
    assert unsound_text(theirs).startswith(f"made up baseline cannot be compared with anything: {theirs.alarm.what}. Likely")
    assert compare(ours, ours, world.snapshot, tmp_path, 3).test is not None


def test_a_record_with_an_alarm_is_made_again_and_one_without_is_not(world: World, tmp_path: Path) -> None:
    assert measured(world, one_vector, tmp_path).alarm
    assert not measured(world, embed, tmp_path).alarm
    assert not measured(world, one_vector, tmp_path).alarm


def test_the_guess_says_of_itself_what_it_is_and_can_be_compared(world: World, tmp_path: Path) -> None:
    guess = evaluate(guess_subject(), world.snapshot, tmp_path, TERMS)
    labels = world.snapshot.pairs("test")["label"]
    assert guess.error == min(labels.mean(), 1 - labels.mean())
    assert (guess.findings, guess.retrieval.mrr_at_10, guess.name) == ((), 0.0, "commoner label baseline")
    found = compare(measured(world, embed, tmp_path), guess, world.snapshot, tmp_path, 3)
    assert found.test is not None
    assert found.test.p_value < 1e-6


def test_swapped_labels_are_told_from_vectors_that_know_nothing(starter: World, tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for split in ("calibration", "test"):
        pairs = starter.snapshot.pairs(split)
        pairs.assign(label=1 - pairs["label"]).to_parquet(folder / f"{split}.parquet")
    [alarm] = faults(replace(starter.snapshot, folder=folder), starter.vectors.get)
    assert alarm.alarm
    assert alarm.cause.startswith("the labels are swapped (1 must mean the same)")
    assert "`flywheel evidence` shows pairs with their labels" in alarm.remedy


def test_chance_is_not_tested_where_the_pairs_carry_no_verdict_but_vectors_are_looked_at(world: World, tmp_path: Path) -> None:
    for name, vectors, odd in (("chance", lambda texts: reading(str)(texts, world.vectors), False), ("one", one_vector, True)):
        record = evaluate(Subject(name, "baseline", name, vectors), world.snapshot, tmp_path, Terms(10_000))
        assert record.no_verdict
        assert bool(record.alarm) == odd


LONG = "why is the sky blue " * 60


@pytest.mark.parametrize(("cut", "alarm"), [(0, None), (12, False), (80, True)])
def test_pairs_beyond_a_local_models_reach_are_a_remark_and_most_of_them_an_alarm(
    tmp_path: Path, cut: int, alarm: bool | None
) -> None:
    begin = [LONG if number < cut else "" for number in range(120)]
    lines = [line(f"{n} {each} dogs", f"{n} {each} cats", n // 2 % 2) for n, each in enumerate(begin)]
    shares = {"seed_test_share": 0.4, "seed_calibration_share": 0.4}
    world = take_world(make_workspace(tmp_path, evaluation={"min_components": 2}, splits=shares), lines)
    reader = Reader(MINILM, world.vectors.weights)
    subject = Subject("local", "untuned", "local", lambda texts: embed_cut(texts, reader), reader=reader)
    [finding] = evaluate(subject, world.snapshot, tmp_path / "evaluations", Terms(10_000)).findings or [None]
    assert (finding.alarm if finding else None) == alarm
    if finding:
        assert (
            "of the calibration and test pairs differ only after 256 tokens, which is all that all-MiniLM-L6-v2 reads"
            in finding.what
        )
        assert finding.remedy.startswith("Use a model that reads more")


def embed_cut(texts: list[str], reader: Reader) -> np.ndarray:
    """A vector for each different text as the reader cuts it."""
    return unit(np.stack([drawn(str(reader._cut(ids))) for ids in reader._ids(texts)]))


def side(random: np.random.Generator, strength: float, components: int, priors: tuple[float, float] = (0.5, 0.5)) -> Side:
    """Made-up pairs, four a component, of questions that each has for itself; a pair's cosine knows its label by `strength`.

    Questions of a pair lie that much nearer if they are the same, in vectors of 32 numbers that are otherwise noise.
    """
    rows, vectors = [], []
    for split, prior in zip(("calibration", "test"), priors, strict=True):
        for component in range(components):
            for label in random.random(4) < prior:
                first = random.normal(size=32)
                second = random.normal(size=32) + strength * (first if label else 0)
                names = [f"text {len(vectors) + place} {split}" for place in (0, 1)]
                vectors += [first, second]
                rows.append((*names, int(label), "seed", f"{split} {component}", split))
    pairs = pd.DataFrame(rows, columns=["text_a", "text_b", "label", "source", "component", "split"])
    all_vectors = unit(np.stack(vectors))
    by_text = dict(zip([text for row in rows for text in row[:2]], all_vectors, strict=True))
    pairs["score"] = [float(by_text[a] @ by_text[b]) for a, b in zip(pairs["text_a"], pairs["text_b"], strict=True)]
    chosen = pairs[pairs["split"] == "calibration"]
    rule = DecisionRule.fit(chosen["score"].to_numpy(), chosen["label"].to_numpy(), chosen["source"].to_numpy(), None)
    pairs["same"] = rule.decide(pairs["score"].to_numpy(), pairs["source"].to_numpy())
    test = pairs[pairs["split"] == "test"]
    questions, texts = unique_texts(test), unique_texts(pairs)
    place = {text: row for row, text in enumerate(questions)}
    same = test[test["label"] == 1]
    found = search(
        np.stack([by_text[text] for text in questions]),
        [(place[a], place[b]) for a, b in zip(same["text_a"], same["text_b"], strict=True)],
    )
    component_of = {
        **dict(zip(test["text_a"], test["component"], strict=True)),
        **dict(zip(test["text_b"], test["component"], strict=True)),
    }
    return Side(
        "api", texts, np.stack([by_text[text] for text in texts]), pairs, found,
        np.array([component_of[questions[row]] for row in found.queries]), False, None,
    )  # fmt: skip


def alarms(findings: tuple[Finding, ...]) -> bool:
    return any(finding.alarm for finding in findings)


def test_of_200_sides_of_chance_none_passes_and_of_200_weak_ones_hardly_any_is_taken_for_chance() -> None:
    random = np.random.default_rng(0)
    chance = [alarms(find_faults(side(random, 0.0, 40 + n % 60), True)) for n in range(examples(200))]
    weak = [alarms(find_faults(side(random, 0.8, 40 + n % 60), True)) for n in range(examples(200))]
    assert np.mean(chance) == 1.0
    assert np.mean(weak) <= 0.02


def test_a_threshold_for_another_share_of_duplicates_is_a_remark_as_long_as_scores_say_something() -> None:
    shifted = side(np.random.default_rng(1), 0.5, 80, priors=(0.6, 0.12))
    [remark] = find_faults(shifted, True)
    assert not remark.alarm
    assert remark.cause == "its threshold is for another share of duplicates than the test pairs have"
    assert "always answering 'different'" in remark.what
    random = side(np.random.default_rng(1), 0.0, 80, priors=(0.6, 0.12))
    assert alarms(find_faults(random, True))
