"""What became of a turn: every snapshot leaves an entry in the history, and the board outlasts a change of the test pairs."""

from pathlib import Path

import dagster as dg
import pytest

from flywheel.errors import NoVerdictError
from flywheel.evaluation.curve import LearningCurve
from flywheel.evaluation.records import Evaluation
from flywheel.models.catalogue import Variant
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.failures import sentence_of
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.evaluation import carry_along, evaluate_cell, leaderboard, measure_baseline, measure_champion
from flywheel.pipeline.ingest import take_snapshot
from flywheel.pipeline.promotion import decide_champion
from flywheel.pipeline.publish import find_evidence, save_page
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.pipeline.worth import Worth, expected_worth
from flywheel.registry.decisions import count_decisions, in_words
from flywheel.training.job import Cell
from flywheel_tests.helpers.clumps import clump_lines, clump_world, embed, six_texts
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.pairs.test_ingest import line

V32 = Variant.parse("all-MiniLM-L6-v2@32")
SIZES = ("50", "100", "200", "400")


@pytest.fixture
def undecided(tmp_path: Path) -> Workspace:
    """A home with a snapshot."""
    return clump_world(tmp_path, clumps=240, baseline={"local_variant": str(V32)}, compute={"run_in": "inline"}).workspace


@pytest.fixture
def workspace(undecided: Workspace) -> Workspace:
    """The same with a champion: the best of a line of cells."""
    snapshot = undecided.current_snapshot()
    measure(undecided, snapshot, *SIZES)
    assert decide_champion(undecided, snapshot)[0].action == "promoted"
    return undecided


def measure(workspace: Workspace, snapshot: Snapshot, *sizes: str) -> list[Evaluation]:
    measure_baseline(workspace, snapshot, pay=False)
    measure_champion(workspace, snapshot)
    return [evaluate_cell(workspace, train_cell(workspace, snapshot, Cell(V32, size), "head"), snapshot) for size in sizes]


def bring(workspace: Workspace, clumps: range, new_test: bool = False) -> Snapshot:
    """The next snapshot, with the pairs of some more clumps."""
    take_in(workspace, clumps)
    return take_snapshot(workspace, new_test)


def take_in(workspace: Workspace, clumps: range) -> None:
    """The pairs of some more clumps, which are in no snapshot yet."""
    ingest(workspace.store, json_batch(f"later {clumps}", "interaction", "test", clump_lines(clumps)))
    texts = [text for clump in clumps for text in six_texts(clump)]
    workspace.vectors(V32.base).cache.get(texts, embed)


def bring_one(workspace: Workspace) -> Snapshot:
    """The next snapshot, with one more pair that trains."""
    known, text = workspace.current_snapshot().pairs("train")["text_a"][0], "clump0 intenta wording9"
    ingest(workspace.store, json_batch("one more", "seed", "test", [line(known, text, 0)]))
    workspace.vectors(V32.base).cache.get([text], embed)
    return take_snapshot(workspace)


def test_a_turn_whose_model_is_not_to_be_judged_leaves_an_entry_and_spends_nothing(workspace: Workspace) -> None:
    before = workspace.registry.current()
    snapshot = bring_one(workspace)
    (record,) = measure(workspace, snapshot, "50")  # a worse one
    spent = count_decisions(workspace.registry, snapshot.test_id, workspace.home.evaluations)
    entry, new = decide_champion(workspace, snapshot)
    assert new
    assert (entry.action, entry.champion, entry.verdict, entry.snapshot_id) == ("not judged", None, None, snapshot.snapshot_id)
    assert entry.turn is not None
    assert entry.turn.candidate == record.record_id
    champion = measure_champion(workspace, snapshot)
    assert champion is not None
    assert in_words(entry) == (
        f"all-MiniLM-L6-v2@32 | 50, trained on 50 pairs: {100 * record.error:.1f} %. The champion has "
        f"{100 * champion.error:.1f} % on the same pairs. It has the lower error on calibration pairs: nothing was judged."
    )
    assert workspace.registry.current() == before
    assert count_decisions(workspace.registry, snapshot.test_id, workspace.home.evaluations) == spent
    assert decide_champion(workspace, snapshot) == (entry, False)
    assert len(workspace.registry.history()) == 2
    page, _ = save_page(workspace, snapshot)
    said = [text.text for section in page.sections if section.title == "The decision" for text in section.blocks]
    assert said[0] == in_words(entry)
    assert any("Decision 1 on pairs of this test set" in text for text in said)


def test_a_snapshot_that_brought_no_new_model_leaves_no_entry(workspace: Workspace) -> None:
    snapshot = bring_one(workspace)
    measure(workspace, snapshot)
    assert decide_champion(workspace, snapshot) == (workspace.registry.current(), False)
    assert len(workspace.registry.history()) == 1


def test_a_turn_on_which_no_verdict_is_possible_says_so_in_the_history(undecided: Workspace) -> None:
    strict = with_options(undecided, evaluation={"min_components": 10_000})
    snapshot = strict.current_snapshot()
    measure(strict, snapshot, "400")
    with pytest.raises(NoVerdictError) as refused:
        decide_champion(strict, snapshot)
    with pytest.raises(NoVerdictError):
        decide_champion(strict, snapshot)
    (entry,) = strict.registry.history()
    assert entry.turn is not None
    assert entry.turn.champion_error is None
    assert in_words(entry).endswith(str(refused.value))


def test_the_board_and_the_learning_curve_outlast_a_new_test_set(workspace: Workspace) -> None:
    older = workspace.current_snapshot()
    snapshot = bring(workspace, range(240, 480), new_test=True)
    assert snapshot.test_id != older.test_id
    measure(workspace, snapshot, "400")
    assert len(leaderboard(workspace, snapshot).trained) == 2  # the champion, and the new model
    damaged = workspace.home.models / "damaged" / "flywheel.json"
    damaged.parent.mkdir()
    damaged.write_text("{}")
    assert carry_along(workspace, snapshot) == len(SIZES) - 1  # the largest has a newer model
    board = leaderboard(workspace, snapshot)
    assert {row.size for row in board.trained if row.record_id in board.stale} >= {"50", "100", "200"}
    assert [row.size for row in board.tuned] == ["400"]
    assert isinstance(find_evidence(workspace, snapshot).curve, LearningCurve)


def test_cells_whose_texts_would_have_to_be_encoded_are_not_carried_along(workspace: Workspace) -> None:
    ingest(workspace.store, json_batch("unknown", "interaction", "test", clump_lines(range(500, 740))))
    snapshot = take_snapshot(workspace, new_test=True)
    assert carry_along(workspace, snapshot) == 0


def test_what_new_pairs_are_worth_is_read_from_the_champions_learning_curve(workspace: Workspace) -> None:
    priced = with_options(workspace, retraining={"point_dollars": 100.0}, compute={"price_per_hour": 3600.0})
    some, many = (expected_worth(priced, new) for new in (100, 10_000))
    assert isinstance(some, Worth)
    assert isinstance(many, Worth)
    assert 0 <= some.points < many.points < 100
    assert many.dollars == pytest.approx(100 * many.points)
    champion = workspace.registry.champion()
    assert champion is not None
    assert many.cost == pytest.approx(workspace.trained.load(champion.model).seconds)
    assert expected_worth(workspace, 100) == "retraining.point_dollars needs compute.price_per_hour beside it"
    strict = with_options(priced, evaluation={"min_components": 10_000})
    measure(strict, strict.current_snapshot(), *SIZES)
    assert str(expected_worth(strict, 100)).startswith("no verdict: ")


def test_an_operators_jobs_judge_restore_a_champion_and_draw_a_new_test_set(workspace: Workspace) -> None:
    made = build_defs(workspace.settings, workspace=workspace, executor=dg.in_process_executor)
    first, test_id = workspace.registry.history()[-1], workspace.current_snapshot().test_id

    def launch(job: str, **configs: dict[str, object]) -> dg.ExecuteInProcessResult:
        run = {"ops": {asset: {"config": config} for asset, config in configs.items()}}
        with dg.DagsterInstance.ephemeral() as instance:
            return made.resolve_job_def(job).execute_in_process(
                run if configs else None, instance=instance, raise_on_error=False
            )

    assert launch("promote").success
    assert workspace.registry.history()[-1] == first, "the champion is the best candidate already"
    assert not launch("roll_back").success, "there is no earlier champion"
    assert launch("roll_back", champion={"roll_back": True, "to_entry": first.number}).success
    restored = workspace.registry.history()[-1]
    assert (restored.action, restored.champion) == ("rolled back", first.champion)

    take_in(workspace, range(240, 420))
    drawn = launch("new_test_set")
    assert drawn.success, [said for event in drawn.all_events if (said := sentence_of(event))]
    assert workspace.current_snapshot().test_id != test_id
    assert leaderboard(workspace, workspace.current_snapshot()).rows


def test_a_decision_that_is_asked_for_again_is_said_again_and_called_no_new_one(workspace: Workspace) -> None:
    entries = len(workspace.registry.history())
    measure(workspace, bring(workspace, range(240, 420)), *SIZES)
    promote = build_defs(workspace.settings, workspace=workspace, executor=dg.in_process_executor).resolve_job_def("promote")
    with dg.DagsterInstance.ephemeral() as instance:
        runs = [promote.execute_in_process(instance=instance) for _ in range(2)]
    said = [run.asset_materializations_for_node("champion")[0].metadata for run in runs]
    first, again = ({key: each.value for key, each in metadata.items()} for metadata in said)
    history = workspace.registry.history()
    assert len(history) == entries + 1
    assert first["what_became_of_it"] == again["what_became_of_it"] == in_words(history[-1])
    assert (first["outcome"], again["outcome"]) == (history[-1].action, "no new decision")
    assert (first["judged"], again["judged"]) == (history[-1].verdict is not None, False)
