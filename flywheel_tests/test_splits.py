"""Splits never leak, are drawn once and stay; sizes nest."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.errors import FlywheelError
from flywheel.pairs.derive import derive_pairs, split_rules
from flywheel.pairs.ingest import ingest, ingest_files
from flywheel.pairs.seeds import STARTER, seed_batch
from flywheel.pairs.snapshots import Snapshot, questions_of, take_snapshot
from flywheel.pairs.splits import FROZEN, Shares, SplitRules, assign_splits
from flywheel.pairs.starter import starter_lines
from flywheel.pairs.store import Store
from flywheel.settings import Settings, load_settings
from flywheel_tests.test_ingest import line, write

RULES = SplitRules(Shares(0.3, 0.25), Shares(0.2, 0.2), max_split_pairs=1000, max_component_pairs=6, min_components=2)

edges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from(["seed", "interaction"]),
              st.sampled_from(["explicit", "explicit", "implied"])).filter(lambda e: e[0] != e[1]),
    max_size=60,
)  # fmt: skip


def frame(rows: list[tuple[int, int, str, str]]) -> pd.DataFrame:
    unique = {(min(a, b), max(a, b)): (source, kind) for a, b, source, kind in rows}
    return pd.DataFrame(
        [(f"q{a:03}", f"q{b:03}", source, kind) for (a, b), (source, kind) in sorted(unique.items())],
        columns=["question_a", "question_b", "source", "kind"],
    )


def by_question(pairs: pd.DataFrame, splits: pd.DataFrame) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for a, b, split in zip(pairs["question_a"], pairs["question_b"], splits["split"], strict=True):
        for question in (a, b):
            found.setdefault(question, set()).add(split)
    return found


@hypothesis_settings(max_examples=150, deadline=None)
@given(first=edges, later=edges)
def test_no_question_trains_and_tests_whatever_comes_later(
    first: list[tuple[int, int, str, str]], later: list[tuple[int, int, str, str]]
) -> None:
    pairs = frame(first)
    splits = assign_splits(pairs, {}, frozenset(), RULES)
    seen = by_question(pairs, splits)
    for question, where in seen.items():
        assert len(where & {"train", *FROZEN}) <= 1, question
    assert set(pairs.loc[splits["split"].isin(FROZEN), "kind"]) <= {"explicit"}

    assigned = {q: next(iter(w & {"train", *FROZEN})) for q, w in seen.items() if w & {"train", *FROZEN}}
    drawn = frozenset(pairs.loc[splits["split"].isin(FROZEN), "source"])
    grown = frame(first + later)
    again = assign_splits(grown, assigned, drawn | {"seed", "interaction"}, RULES)
    frozen = {q for q, split in assigned.items() if split in FROZEN}
    trains = set(grown.loc[again["split"] == "train", ["question_a", "question_b"]].to_numpy().ravel())
    assert not trains & frozen
    new = {q for q in set(grown["question_a"]) | set(grown["question_b"]) if q not in assigned}
    for q in _reachable(grown, frozen, through=new):
        assert q not in trains, f"{q} hangs on a frozen question and trains"


def _reachable(pairs: pd.DataFrame, start: set[str], through: set[str]) -> set[str]:
    reached: set[str] = set()
    border = set(start)
    while border:
        step = set()
        for a, b in zip(pairs["question_a"], pairs["question_b"], strict=True):
            step |= {b} if a in border else set()
            step |= {a} if b in border else set()
        border = (step & through) - reached
        reached |= border
    return reached


def test_a_giant_component_is_cut_and_the_pairs_across_the_cut_are_embargoed() -> None:
    cliques = [[10 * c + i for i in range(4)] for c in range(30)]
    rows = [(a, b, "seed", "explicit") for clique in cliques for a in clique for b in clique if a < b]
    rows += [(a[0], b[0], "seed", "explicit") for a, b in pairwise(cliques)]
    pairs = frame(rows)
    splits = assign_splits(pairs, {}, frozenset(), RULES)["split"]
    assert {"test", "calibration", "train", "embargoed"} == set(splits)
    assert (splits == "test").sum() >= 0.3 * len(pairs)
    for where in by_question(pairs, splits.to_frame()).values():
        assert len(where & {"train", *FROZEN}) <= 1


def test_pairs_wait_while_they_are_too_few_to_be_drawn(store: Store, settings: Settings, tmp_path: Path) -> None:
    ingest_files(store, [write(tmp_path, [line(f"a{i}", f"b{i}") for i in range(100)])])
    snapshot = take_snapshot(store, settings)
    assert (snapshot.test.pairs, snapshot.calibration.pairs) == (0, 0)
    assert derive_pairs(store, settings).waiting == 20


def test_implied_pairs_never_fill_a_draw() -> None:
    rows = [(2 * i, 2 * i + 1, "interaction", "implied") for i in range(300)]
    splits = assign_splits(frame(rows), {}, frozenset(), RULES)["split"]
    assert set(splits) == {"train"}
    few = [(1000 + 2 * i, 1001 + 2 * i, "interaction", "explicit") for i in range(10)]
    pairs = frame(rows + few)
    drawn = pairs[assign_splits(pairs, {}, frozenset(), RULES)["split"].isin(FROZEN)]
    assert set(drawn["kind"]) == {"explicit"}
    assert len(drawn) == 4


@pytest.fixture
def starter(store: Store, settings: Settings) -> Snapshot:
    batch = seed_batch(settings)
    assert batch is not None
    ingest(store, batch)
    return take_snapshot(store, settings)


def test_the_starter_set_keeps_its_promises(starter: Snapshot) -> None:
    questions = pd.read_csv(STARTER / "questions.csv")
    assert questions["text"].nunique() == len(questions) >= 1200
    assert questions.groupby(["topic", "clump", "intent"]).ngroups >= 300
    assert questions["topic"].nunique() == 16
    assert set(questions.groupby(["topic", "clump"])["intent"].nunique()) == {2, 3}
    assert min(starter.test.components or 0, starter.calibration.components or 0) >= 40
    clump = {text: (topic, name) for topic, name, _, text in questions.itertuples(index=False)}
    pairs = pd.concat([starter.pairs(s) for s in ("train", *FROZEN)])
    negatives = pairs[pairs["label"] == 0]
    siblings = [clump[a] == clump[b] for a, b in zip(negatives["text_a"], negatives["text_b"], strict=True)]
    assert sum(siblings) >= len(siblings) / 2
    where: dict[Any, set[str]] = {}
    for split in ("train", *FROZEN):
        for text in questions_of(starter.pairs(split)):
            where.setdefault(clump[text], set()).add(split)
    assert all(len(splits) == 1 for splits in where.values()), "a clump straddles two splits"
    assert list(starter_lines(STARTER / "questions.csv")) == list(starter_lines(STARTER / "questions.csv"))


def test_equal_data_gives_an_equal_snapshot_in_two_homes(starter: Snapshot, tmp_path: Path) -> None:
    other = load_settings(tmp_path / "other")
    store = Store(other.database)
    batch = seed_batch(other)
    assert batch is not None
    ingest(store, batch)
    twin = take_snapshot(store, other)
    assert (twin.snapshot_id, twin.test_id) == (starter.snapshot_id, starter.test_id)


def test_test_and_calibration_stay_frozen_and_what_hangs_on_them_is_embargoed(
    starter: Snapshot, store: Store, settings: Settings, tmp_path: Path
) -> None:
    tested, trained = (starter.pairs(split)["text_a"].iloc[0] for split in ("test", "train"))
    path = write(tmp_path, [
        line("quite new", tested), line("quite new", "hangs further off"), line("hangs further off", "end of the chain"),
        line("another new one", trained), line(tested, trained, 0),
    ])  # fmt: skip
    ingest_files(store, [path])
    counts = derive_pairs(store, settings)
    assert (counts.embargoed, counts.train) == (4, starter.train.pairs + 1)
    after = take_snapshot(store, settings)
    assert after.test_id == starter.test_id
    assert after.snapshot_id != starter.snapshot_id
    pd.testing.assert_frame_equal(after.pairs("test"), starter.pairs("test"))
    ingest_files(store, [write(tmp_path, [line("end of the chain", "one more")], "later.jsonl")])
    assert derive_pairs(store, settings).embargoed == 5


@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(small=st.integers(1, 2000), large=st.integers(1, 4104), seed=st.integers(0, 3))
def test_a_smaller_size_is_a_prefix_of_a_larger_one(starter: Snapshot, small: int, large: int, seed: int) -> None:
    small, large = sorted((small, large))
    prefix, whole = (list(starter.training_pairs(str(n), seed, 0.0)["pair_id"]) for n in (small, large))
    assert whole[:small] == prefix
    assert len(set(whole)) == large


def test_every_prefix_holds_the_set_share_of_interaction_pairs(
    starter: Snapshot, store: Store, settings: Settings, tmp_path: Path
) -> None:
    trained = questions_of(starter.pairs("train"))
    ingest_files(store, [write(tmp_path, [line(f"new {i}", trained[i]) for i in range(60)])])
    snapshot = take_snapshot(store, settings)
    pairs = snapshot.training_pairs("200", 0, 0.25)
    assert [(pairs["source"][:n] == "interaction").sum() for n in (4, 40, 200)] == [1, 10, 50]
    assert (snapshot.training_pairs("200", 0, 0.0)["source"] == "seed").all()
    assert snapshot.largest_size(0.25) == 240
    with pytest.raises(FlywheelError, match="400 needs 100 interaction pairs, but `train` holds 60"):
        snapshot.training_pairs("400", 0, 0.25)
    assert len(snapshot.training_pairs("all", 0, 0.0)) == snapshot.train.pairs


def test_an_old_interaction_pair_leaves_training_when_a_window_is_set(
    starter: Snapshot, store: Store, settings: Settings, tmp_path: Path
) -> None:
    trained = questions_of(starter.pairs("train"))
    ingest_files(store, [write(tmp_path, [
        line("new one", trained[0], time="2026-01-01"), line("new two", trained[1], time="2026-03-01"),
    ])])  # fmt: skip
    window = settings.model_copy(update={"interaction_window_days": 30})
    assert take_snapshot(store, window).train.interaction == 1
    assert take_snapshot(store, settings).train.interaction == 2


def test_the_rules_follow_the_settings() -> None:
    rules = split_rules(Settings(home=Path("x"), test_share=0.1, interaction_test_share=0.2))
    assert (rules.seed.test, rules.interaction.test) == (0.1, 0.2)
