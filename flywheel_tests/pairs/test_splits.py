"""Splits never leak, are drawn once and stay; sizes nest."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.errors import FlywheelError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.events.seeds import STARTER, seed_batch
from flywheel.pairs.events.starter import starter_lines
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pairs.store.components import FROZEN, reassign
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import count_pairs
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.conftest import examples
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.pairs.test_ingest import line, rows, write

Edge = tuple[int, int, str, str]
SPLITS: dict[str, Any] = {
    "seed_test_share": 0.3, "seed_calibration_share": 0.25, "interaction_test_share": 0.2,
    "interaction_calibration_share": 0.2, "max_component_pairs": 6, "frozen_from": 0,
}  # fmt: skip


edges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from(["seed", "interaction"]),
              st.sampled_from(["explicit", "explicit", "implied"])).filter(lambda e: e[0] != e[1]),
    max_size=60,
)  # fmt: skip


def label_of(a: int, b: int) -> int:
    return crc32(f"{min(a, b)} {max(a, b)}".encode()) % 2


class Graph:
    """A store that is fed edges between numbered questions, batch by batch."""

    def __init__(self, home: Path, min_components: int = 2, **splits: Any) -> None:
        self.workspace = make_workspace(home, splits={**SPLITS, **splits}, evaluation={"min_components": min_components})
        self.store = self.workspace.store
        self._batches = 0

    def add(self, edges: Sequence[Edge]) -> None:
        for source in ("seed", "interaction"):
            lines = [line(f"q{a:03}", f"q{b:03}", label_of(a, b), kind=kind) for a, b, of, kind in edges if of == source]
            self._batches += 1
            ingest(self.store, json_batch(f"batch {self._batches}", source, "test", lines))  # type: ignore[arg-type]

    def snapshot(self, **options: Any) -> Snapshot:
        rules = replace(self.workspace.split_rules, min_pairs=1, min_labels=1, max_component_share=1.0)
        return take_snapshot(self.store, self.workspace.snapshots, rules, **options)

    def pairs(self) -> pd.DataFrame:
        with self.store.transaction() as db:
            return db.execute(
                """SELECT hex_of(pair_id) AS pair_id, CAST(question_a AS VARCHAR) AS question_a,
                   CAST(question_b AS VARCHAR) AS question_b, kind, seed, split FROM pairs ORDER BY pair_id"""
            ).df()

    def states(self) -> dict[str, str]:
        return dict(rows(self.store, "SELECT CAST(question AS VARCHAR), state FROM assignments"))

    def components(self) -> list[tuple[Any, ...]]:
        return rows(self.store, "FROM assignments ORDER BY question")


def by_question(pairs: pd.DataFrame) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for a, b, split in zip(pairs["question_a"], pairs["question_b"], pairs["split"], strict=True):
        for question in (a, b):
            found.setdefault(question, set()).add(split)
    return found


@hypothesis_settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(edges, min_size=2, max_size=4))
def test_no_question_trains_and_tests_whatever_comes_later(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Edge]]
) -> None:
    graph = Graph(tmp_path_factory.mktemp("home"))
    frozen: dict[str, str] = {}
    for batch in batches:
        graph.add(batch)
        before = graph.states()
        pairs = graph.pairs()
        trains = set(pairs.loc[pairs["split"] == "train", ["question_a", "question_b"]].to_numpy().ravel())
        new = {question for question, state in before.items() if state not in ("train", *FROZEN)}
        for question in _reachable(pairs, set(frozen), through=new):
            assert question not in trains, f"{question} hangs on a frozen question and trains"
        graph.snapshot()
        states, pairs = graph.states(), graph.pairs()
        assert {question: states[question] for question in frozen} == frozen
        frozen = {question: state for question, state in states.items() if state in FROZEN}
        for question, where in by_question(pairs).items():
            assert len(where & {"train", *FROZEN}) <= 1, question
            assert not where & {"train"} or question not in frozen
        assert set(pairs.loc[pairs["split"].isin(FROZEN), "kind"]) <= {"explicit"}


@hypothesis_settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=edges, second=edges, third=edges)
def test_batch_by_batch_gives_what_all_at_once_gives(
    tmp_path_factory: pytest.TempPathFactory, first: list[Edge], second: list[Edge], third: list[Edge]
) -> None:
    steps, whole = (Graph(tmp_path_factory.mktemp("home")) for _ in range(2))
    for graph in (steps, whole):
        graph.add(first)
        graph.snapshot()
    steps.add(second)
    steps.add(third)
    whole.add([*second, *third])
    pd.testing.assert_frame_equal(steps.pairs(), whole.pairs())
    assert steps.components() == whole.components()
    pairs = steps.pairs()
    counted = (pairs["split"].isin(["train", "waiting"]) & ~pairs["seed"]).sum()
    assert rows(steps.store, "SELECT trainable FROM counters") == [(counted,)]
    with steps.store.transaction() as db:
        reassign(db)
    pd.testing.assert_frame_equal(steps.pairs(), whole.pairs())
    assert steps.components() == whole.components()


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


def test_a_giant_component_is_cut_and_the_pairs_across_the_cut_are_embargoed(tmp_path: Path) -> None:
    cliques = [[10 * c + i for i in range(4)] for c in range(30)]
    found = [(a, b, "seed", "explicit") for clique in cliques for a in clique for b in clique if a < b]
    found += [(a[0], b[0], "seed", "explicit") for a, b in pairwise(cliques)]
    graph = Graph(tmp_path)
    graph.add(found)
    graph.snapshot()
    pairs = graph.pairs()
    assert {"test", "calibration", "train", "embargoed"} == set(pairs["split"])
    assert (pairs["split"] == "test").sum() >= 0.3 * len(pairs)
    for where in by_question(pairs).values():
        assert len(where & {"train", *FROZEN}) <= 1


def test_a_hub_that_every_pair_touches_trains_and_pulls_nothing_with_it(tmp_path: Path) -> None:
    cliques = [[10 * c + i for i in range(1, 4)] for c in range(60)]
    found = [(a, b, "seed", "explicit") for clique in cliques for a in clique for b in clique if a < b]
    found += [(0, clique[0], "seed", "explicit") for clique in cliques]
    graph = Graph(tmp_path)
    graph.add(found)
    snapshot = graph.snapshot()
    assert min(snapshot.test.components or 0, snapshot.calibration.components or 0) >= 10
    assert "q000" in unique_texts(snapshot.pairs("train"))
    assert count_pairs(graph.store).embargoed <= 60


def test_implied_pairs_never_fill_a_draw(tmp_path: Path) -> None:
    graph = Graph(tmp_path)
    graph.add([(2 * i, 2 * i + 1, "interaction", "implied") for i in range(300)])
    graph.snapshot()
    assert set(graph.pairs()["split"]) == {"waiting"}
    graph.add([(1000 + 2 * i, 1001 + 2 * i, "interaction", "explicit") for i in range(20)])
    graph.snapshot()
    pairs = graph.pairs()
    drawn = pairs[pairs["split"].isin(FROZEN)]
    assert set(drawn["kind"]) == {"explicit"}
    assert len(drawn) == 8
    assert set(pairs.loc[pairs["kind"] == "implied", "split"]) == {"train"}


def test_a_new_test_version_is_drawn_from_what_does_not_train(tmp_path: Path) -> None:
    graph = Graph(tmp_path)
    graph.add([(2 * i, 2 * i + 1, "seed", "explicit") for i in range(100)])
    first = graph.snapshot()
    tested = first.pairs("test")
    trained = set(unique_texts(first.pairs("train")))
    graph.add([(int(text[1:]), 500 + i, "seed", "explicit") for i, text in enumerate(tested["text_a"])])
    assert count_pairs(graph.store).embargoed == len(tested)
    again = graph.snapshot(new_test=True)
    assert again.test_id != first.test_id
    held = {pair for split in FROZEN for pair in first.pairs(split)["pair_id"]}
    assert again.test.pairs >= 10
    assert not held & set(again.pairs("test")["pair_id"]), "what judged or calibrated tests again"
    assert held & set(again.pairs("calibration")["pair_id"])
    assert count_pairs(graph.store).embargoed == again.test.pairs  # the retired pairs of the same questions
    assert not trained & set(unique_texts(again.pairs("test"), again.pairs("calibration")))
    assert trained <= set(unique_texts(again.pairs("train")))


def test_a_new_test_version_wants_new_pairs_and_changes_nothing_without_them(tmp_path: Path) -> None:
    graph = Graph(tmp_path)
    graph.add([(2 * i, 2 * i + 1, "seed", "explicit") for i in range(200)])
    first, before = graph.snapshot(), graph.pairs()
    graph.add([(1000 + 2 * i, 1001 + 2 * i, "interaction", "explicit") for i in range(9)])
    with pytest.raises(FlywheelError, match=r"Nothing was changed\. .* labels .* in 9 components"):
        graph.snapshot(new_test=True)
    after = graph.pairs()
    assert after[after["seed"]].reset_index(drop=True).equals(before)
    assert graph.snapshot().test_id == first.test_id


def test_a_source_without_new_pairs_calibrates_while_another_tests(tmp_path: Path) -> None:
    graph = Graph(tmp_path)
    graph.add([(2 * i, 2 * i + 1, "seed", "explicit") for i in range(200)])
    first = graph.snapshot()
    graph.add([(1000 + 2 * i, 1001 + 2 * i, "interaction", "explicit") for i in range(200)])
    again = graph.snapshot(new_test=True)
    assert set(again.pairs("test")["source"]) == {"interaction"}
    assert set(again.pairs("calibration")["source"]) == {"seed", "interaction"}
    held = {pair for split in FROZEN for pair in first.pairs(split)["pair_id"]}
    assert not held & set(again.pairs("test")["pair_id"])
    assert again.shared_questions() == 0


@pytest.fixture
def starter(store: Store, workspace: Workspace) -> Snapshot:
    batch = seed_batch(workspace.settings.pairs)
    assert batch is not None
    ingest(store, batch)
    return take_snapshot(store, workspace.snapshots, workspace.split_rules)


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
        for text in unique_texts(starter.pairs(split)):
            where.setdefault(clump[text], set()).add(split)
    assert all(len(splits) == 1 for splits in where.values()), "a clump straddles two splits"
    assert list(starter_lines(STARTER / "questions.csv")) == list(starter_lines(STARTER / "questions.csv"))


def test_equal_data_gives_an_equal_snapshot_in_two_homes(starter: Snapshot, tmp_path: Path) -> None:
    other = make_workspace(tmp_path / "other")
    store = other.store
    batch = seed_batch(other.settings.pairs)
    assert batch is not None
    ingest(store, batch)
    twin = take_snapshot(store, other.snapshots, other.split_rules)
    assert (twin.snapshot_id, twin.test_id) == (starter.snapshot_id, starter.test_id)


def test_test_and_calibration_stay_frozen_and_what_hangs_on_them_is_embargoed(
    starter: Snapshot, store: Store, workspace: Workspace, tmp_path: Path
) -> None:
    tested, trained = (starter.pairs(split)["text_a"].iloc[0] for split in ("test", "train"))
    path = write(tmp_path, [
        line("quite new", tested), line("quite new", "hangs further off"), line("hangs further off", "end of the chain"),
        line("another new one", trained), line(tested, trained, 0),
    ])  # fmt: skip
    ingest_files(store, [path])
    counts = count_pairs(store)
    assert (counts.embargoed, counts.train) == (4, starter.train.pairs + 1)
    after = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert after.test_id == starter.test_id
    assert after.snapshot_id != starter.snapshot_id
    pd.testing.assert_frame_equal(after.pairs("test"), starter.pairs("test"))
    ingest_files(store, [write(tmp_path, [line("end of the chain", "one more")], "later.jsonl")])
    assert count_pairs(store).embargoed == 5


@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(small=st.integers(1, 2000), large=st.integers(1, 4104), seed=st.integers(0, 3))
def test_a_smaller_size_is_a_prefix_of_a_larger_one(starter: Snapshot, small: int, large: int, seed: int) -> None:
    small, large = sorted((small, large))
    prefix, whole = (list(starter.training_pairs(str(n), seed, 0.0)["pair_id"]) for n in (small, large))
    assert whole[:small] == prefix
    assert len(set(whole)) == large


def test_every_prefix_holds_the_set_share_of_interaction_pairs(
    starter: Snapshot, store: Store, workspace: Workspace, tmp_path: Path
) -> None:
    trained = unique_texts(starter.pairs("train"))
    ingest_files(store, [write(tmp_path, [line(f"new {i}", trained[i]) for i in range(60)])])
    snapshot = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    pairs = snapshot.training_pairs("200", 0, 0.25)
    assert [(pairs["source"][:n] == "interaction").sum() for n in (4, 40, 200)] == [1, 10, 50]
    assert (snapshot.training_pairs("200", 0, 0.0)["source"] == "seed").all()
    assert snapshot.largest_size(0.25) == 240
    with pytest.raises(FlywheelError, match="400 needs 100 interaction pairs, but `train` holds 60"):
        snapshot.training_pairs("400", 0, 0.25)
    assert len(snapshot.training_pairs("all", 0, 0.0)) == snapshot.train.pairs


def test_an_old_interaction_pair_leaves_training_when_a_window_is_set(
    starter: Snapshot, store: Store, workspace: Workspace, tmp_path: Path
) -> None:
    trained = unique_texts(starter.pairs("train"))
    ingest_files(store, [write(tmp_path, [
        line("new one", trained[0], time="2026-01-01"), line("new two", trained[1], time="2026-03-01"),
    ])])  # fmt: skip
    window = with_options(workspace, splits={"interaction_window_days": 30})
    assert take_snapshot(store, window.snapshots, window.split_rules).train.interaction == 1
    assert take_snapshot(store, workspace.snapshots, workspace.split_rules).train.interaction == 2


def test_the_rules_follow_the_settings() -> None:
    rules = make_workspace(
        Path("x"), splits={"seed_test_share": 0.1, "interaction_test_share": 0.2}, evaluation={"min_components": 7}
    ).split_rules
    assert (rules.seed.test, rules.interaction.test, rules.min_components) == (0.1, 0.2, 7)


def _leaks_nothing(store: Store) -> None:
    straddling = """
        SELECT count(*) FROM (SELECT question, split FROM (
            SELECT question_a AS question, split FROM pairs UNION ALL SELECT question_b, split FROM pairs)
        WHERE split IN ('train', 'calibration', 'test') GROUP BY question, split) GROUP BY question HAVING count(*) > 1"""
    assert rows(store, straddling) == []
    hanging = """
        SELECT count(*) FROM pairs JOIN assignments a ON a.question = question_a JOIN assignments b ON b.question = question_b
        WHERE split = 'train' AND list_has_any([a.state, b.state], ['test', 'calibration', 'embargoed'])
    """
    assert rows(store, hanging) == [(0,)]


@pytest.mark.slow
def test_four_hundred_thousand_pairs_with_one_giant_component_are_split_and_stay_split(tmp_path: Path) -> None:
    """As many pairs as Quora has: four in ten of them in one component, mostly duplicates, the others in small ones."""
    rng = np.random.default_rng(0)
    giant = rng.integers(0, 60_000, (161_716, 2))
    small = 60_000 + np.stack([np.arange(242_574), np.arange(242_574)], axis=1) * 2 + rng.integers(0, 4, (242_574, 2))
    edges, labels = np.concatenate([giant, small]), np.concatenate([rng.random(161_716) < 0.88, rng.random(242_574) < 0.36])
    kept = edges[:, 0] != edges[:, 1]
    lines = [line(f"question {a}", f"question {b}", int(c)) for (a, b), c in zip(edges[kept], labels[kept], strict=True)]
    workspace = make_workspace(tmp_path / "home", pairs={"seed_pairs": "none"})
    store = workspace.store
    ingest(store, json_batch("quora", "seed", "quora", lines))
    snapshot = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert (snapshot.test.pairs >= 10_000, snapshot.calibration.pairs >= 10_000) == (True, True)
    assert snapshot.shared_questions() == 0
    assert snapshot.train.prior > snapshot.test.prior + 0.1  # type: ignore[operator]
    _leaks_nothing(store)

    tested = snapshot.pairs("test")["text_a"].unique()[:50]
    later = [line(f"new {i}", f"new {i + 1}") for i in range(0, 400, 2)] + [
        line(f"new {2 * i}", text) for i, text in enumerate(tested)
    ]
    report = ingest_files(store, [write(tmp_path, later)])[0]
    assert report.embargoed == 100  # what hangs on a tested question, and what hangs on that
    assert rows(store, "SELECT count(*) FROM pairs WHERE split = 'embargoed' AND NOT seed") == [(100,)]
    assert take_snapshot(store, workspace.snapshots, workspace.split_rules).test_id == snapshot.test_id
    _leaks_nothing(store)


@pytest.mark.parametrize(("zipf", "cut_at_most"), [(False, 300_000), (True, 300_000), (False, 5_000)])
def test_click_logs_that_form_one_component_still_give_a_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipf: bool, cut_at_most: int
) -> None:
    """Topics of twenty questions; some clicks go astray, evenly or mostly to a few questions that everybody clicks."""
    monkeypatch.setattr("flywheel.pairs.snapshots.cut._CUT_AT_MOST", cut_at_most)
    rng = np.random.default_rng(0)
    topics, pairs = 400, 8000
    topic = rng.integers(0, topics, pairs)
    ends = topic[:, None] * 20 + rng.integers(0, 20, (pairs, 2))
    astray = rng.random(pairs) < 0.05
    anywhere = np.minimum(rng.zipf(1.3, pairs), topics * 20) - 1 if zipf else rng.integers(0, topics * 20, pairs)
    ends[:, 1] = np.where(astray, anywhere, ends[:, 1])
    graph = Graph(tmp_path, max_component_pairs=50, min_components=20)
    graph.add([(int(a), int(b), "interaction", "explicit") for a, b in ends if a != b])
    snapshot = graph.snapshot()
    largest = rows(graph.store, "SELECT count(*) FROM pairs WHERE split IN ('train', 'embargoed')")[0][0]
    assert snapshot.test.pairs >= 0.19 * count_pairs(graph.store).pairs
    assert min(snapshot.test.components or 0, snapshot.calibration.components or 0) >= 20
    assert snapshot.train.pairs > 0.2 * largest
    _leaks_nothing(graph.store)
