"""The page answers what was asked, from what was measured, and says what it cannot say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.cli.results import _reason_unjudged
from flywheel.errors import FlywheelError
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.records import evaluation_folder
from flywheel.evaluation.scores import decisions
from flywheel.evidence.build import build_page
from flywheel.evidence.cost import Prices, api_corpus, model_cost
from flywheel.evidence.cost_sections import costs
from flywheel.evidence.page import Facts, Page, Picture, Table, Text, as_plain
from flywheel.models.catalogue import Variant
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.pipeline.api_heads import evaluate_api_heads
from flywheel.pipeline.evaluation import evaluate_cell, leaderboard, measure_baseline, measure_champion, read_baseline
from flywheel.pipeline.ingest import take_snapshot
from flywheel.pipeline.promotion import decide_champion, next_match
from flywheel.pipeline.publish import find_evidence, save_page
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.clumps import World, clump_world, embed, take_world
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.pairs.test_ingest import line

V32 = Variant.parse("all-MiniLM-L6-v2@32")
SIZES = ("50", "100", "200", "400")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home with a snapshot and nothing trained; its local baseline is untuned."""
    home = tmp_path_factory.mktemp("empty")
    return clump_world(home, clumps=240, baseline={"local_variant": str(V32)}, compute={"run_in": "inline"})


@pytest.fixture(scope="module")
def trained(empty: World, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same with a baseline and a line of cells, and no decision."""
    workspace = elsewhere(empty.workspace, tmp_path_factory.mktemp("trained") / "home")
    measure_cells(workspace, *SIZES)
    measure_references(workspace)
    return workspace


@pytest.fixture(scope="module")
def decided(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same with a champion."""
    workspace = elsewhere(trained, tmp_path_factory.mktemp("decided") / "home")
    assert decide_champion(workspace, workspace.current_snapshot())[0].action == "promoted"
    measure_references(workspace)
    return workspace


def elsewhere(workspace: Workspace, home: Path, **groups: dict[str, Any]) -> Workspace:
    """A copy of the home, with some settings changed."""
    settings = workspace.settings.model_copy(update={"home": copy_home(workspace.home.root, home)})
    return with_options(Workspace(settings), **groups)


def measure_cells(workspace: Workspace, *sizes: str) -> None:
    """Train and evaluate cells on the current snapshot."""
    snapshot = workspace.current_snapshot()
    for size in sizes:
        evaluate_cell(workspace, train_cell(workspace, snapshot, Cell(V32, size), "head"), snapshot)


def measure_references(workspace: Workspace) -> None:
    """Measure what cells are compared with, as the verbs do before they decide; nothing is paid for."""
    snapshot = workspace.current_snapshot()
    measure_baseline(workspace, snapshot, pay=False)
    measure_champion(workspace, snapshot)
    evaluate_api_heads(workspace, snapshot)


def board_of(workspace: Workspace) -> Leaderboard:
    return leaderboard(workspace, workspace.current_snapshot())


def champion_of(workspace: Workspace) -> str:
    champion = workspace.registry.champion()
    assert champion is not None
    return champion.model


def made(workspace: Workspace) -> Page:
    return save_page(workspace, workspace.current_snapshot())[0]


def said(page: Page, title: str) -> str:
    """The words of a section."""
    (section,) = (each for each in page.sections if each.title == title)
    words = []
    for block in section.blocks:
        match block:
            case Text(text):
                words.append(text)
            case Facts(facts):
                words += [f"{fact.label} {fact.value} {fact.note}" for fact in facts]
            case Table(columns=columns, rows=rows):
                words += [" | ".join(row) for row in (columns, *rows)]
            case Picture(alt=alt):
                words.append(alt)
    return "\n".join(words)


def test_with_nothing_trained_it_says_so_and_what_to_do(empty: World, tmp_path: Path) -> None:
    workspace = elsewhere(empty.workspace, tmp_path / "home")
    with pytest.raises(FlywheelError, match=r"The baseline has not been measured on snapshot .* Run `flywheel grid`"):
        made(workspace)
    measure_references(workspace)
    with pytest.raises(FlywheelError, match=r"No model has been evaluated on snapshot .* Run `flywheel grid`"):
        made(workspace)
    assert not workspace.home.evidence_page.exists()
    measure_cells(workspace, "50")
    assert made(workspace).command == "flywheel champion promote"


def test_before_the_decision_it_is_not_decided_and_the_next_step_is_to_decide(trained: Workspace) -> None:
    page = made(trained)
    assert (page.tone, page.sign) == ("not decided", "? Not decided yet")
    assert page.answer.startswith("The best candidate, all-MiniLM-L6-v2@32 trained on 400 pairs, is wrong on")
    assert page.command == "flywheel champion promote"


def test_after_it_the_answer_holds_the_figures_of_the_decision(decided: Workspace) -> None:
    page = made(decided)
    entry = decided.registry.history()[-1]
    assert entry.verdict is not None
    assert page.tone == "proven"
    assert f"{100 * entry.verdict.difference:+.1f} points" in page.answer
    assert "the untuned all-MiniLM-L6-v2@32" in page.answer
    assert page.answer.endswith("Whether it beats text-embedding-3-small has not been measured.")
    assert "OPENAI_API_KEY" in page.next_step
    assert "Twice the pairs (800 instead of 400)" in page.next_step
    assert "Decision 1 on pairs of this test set" in said(page, "The decision")
    assert "★ all-MiniLM-L6-v2@32 | 400" in said(page, "Leaderboard")
    assert "†" not in json.dumps(as_plain(page), ensure_ascii=False).replace("mind what base models", "")


def test_asking_again_for_a_decision_says_why_nothing_was_judged_and_on_which_test_set_it_was(decided: Workspace) -> None:
    snapshot = decided.current_snapshot()
    entry, new = decide_champion(decided, snapshot)
    assert not new
    assert entry.champion
    assert entry.verdict
    already = "The champion is already the best candidate of this snapshot: nothing was judged."
    assert _reason_unjudged(decided, entry, snapshot.test_id) == already
    rolled_back = replace(entry, action="rolled back", number=9, verdict=None, champion=replace(entry.champion, test_id="t0"))
    assert _reason_unjudged(decided, rolled_back, snapshot.test_id) == (
        f"{already} The decision below was made on the test set t0, which is not the present one."
    )
    lost = replace(entry, number=9, verdict=replace(entry.verdict, challenger_name="a", reference_name="b"))
    assert _reason_unjudged(decided, lost, snapshot.test_id) == "a was judged against b before: nothing was judged again."


def test_flipped_pairs_stand_there_word_for_word(decided: Workspace) -> None:
    board = board_of(decided)
    champion = next(row for row in board.rows if row.record_id == champion_of(decided))
    baseline = read_baseline(decided, board.snapshot).evaluation
    ours, theirs = (decisions(decided.home.evaluations, row) for row in (champion, baseline))
    broken = ours[ours["wrong"] & ~theirs["wrong"]]
    assert len(broken) > 0
    surest = (broken["probability"] - 0.5).abs().idxmax()
    pair = board.snapshot.pairs("test").set_index("pair_id").loc[surest]
    words = said(made(decided), "What breaks and what is fixed")
    assert f"{len(broken)} pairs break" in words
    assert f"{pair['text_a']} | {pair['text_b']} | {'same' if pair['label'] else 'different'}" in words


def test_the_file_opens_with_the_answer_and_programs_get_plain_values(decided: Workspace) -> None:
    page, file = save_page(decided, decided.current_snapshot())
    assert file == decided.home.root / "evidence.html"
    html = file.read_text()
    assert "The champion, all-MiniLM-L6-v2@32" in html
    plain = json.loads(json.dumps(as_plain(page)))
    assert plain["answer"] == page.answer
    assert [section["title"] for section in plain["sections"]][:3] == [
        "At a glance", "Error against training pairs", "Leaderboard",
    ]  # fmt: skip


def test_under_another_target_prior_the_board_says_where_the_other_rows_are(decided: Workspace, tmp_path: Path) -> None:
    workspace = elsewhere(decided, tmp_path / "home", evaluation={"target_prior": 0.1})
    before = board_of(workspace)
    assert not before.rows
    assert before.on_other_terms == len(board_of(decided).rows)
    with pytest.raises(FlywheelError, match=r"The baseline has not been measured .* Run `flywheel grid`"):
        made(workspace)
    measure_references(workspace)
    page, board = made(workspace), board_of(workspace)
    assert board.on_other_terms == before.on_other_terms - len(board.rows) > 0
    assert f"{board.on_other_terms} more rows were made under other settings of [evaluation]" in said(page, "Leaderboard")


def test_on_quoras_pairs_every_name_carries_the_mark(decided: Workspace, tmp_path: Path) -> None:
    workspace = elsewhere(decided, tmp_path / "home", pairs={"seed_pairs": "none"})  # the data says it, not the setting
    manifest = workspace.current_snapshot().folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "seeds": ["quora"]}))
    page = made(workspace)
    assert "all-MiniLM-L6-v2@32\u00a0† trained on 400 pairs" in page.answer
    for title in ("At a glance", "Leaderboard", "Kinds of pairs", "Where the errors come from", "Each training"):
        words = said(page, title)
        assert words.count("all-MiniLM-L6-v2@32") == words.count("all-MiniLM-L6-v2@32\u00a0†")
    for title in ("At a glance", "Leaderboard", "The decision"):
        assert "† The base model has trained, or may have, on the data" in said(page, title)


def test_against_the_apis_own_vectors_the_answer_is_about_the_api(decided: Workspace, tmp_path: Path) -> None:
    workspace = elsewhere(decided, tmp_path / "home", baseline={"dimensions": 384})
    snapshot = workspace.current_snapshot()
    workspace.api.cache.get(unique_texts(*map(snapshot.pairs, ("train", "calibration", "test"))), embed)
    measure_references(workspace)
    page = made(workspace)
    assert "text-embedding-3-small@384 on" in page.answer
    assert "has not been measured" not in page.answer
    assert "OPENAI_API_KEY" not in page.next_step
    board = said(page, "Leaderboard")
    assert "text-embedding-3-small@384 | baseline" in board
    assert "text-embedding-3-small@32 + head | 400" in board


def test_where_the_api_failed_too_often_the_next_step_is_another_try(trained: Workspace, tmp_path: Path) -> None:
    workspace = elsewhere(trained, tmp_path / "home", baseline={"dimensions": 384})
    snapshot, cache = workspace.current_snapshot(), workspace.api.cache
    cache.get(unique_texts(*map(snapshot.pairs, ("calibration", "test"))), embed)
    lost = list(snapshot.pairs("test").groupby("component")["text_a"].first())
    cache.drop(lost)
    for text in lost:
        workspace.api.set_aside.add(text, "NaN")
    measure_references(workspace)
    page = made(workspace)
    assert page.answer.startswith("No verdict is possible on these pairs: the API could not embed a text of ")
    assert page.next_step.endswith(
        "Run `flywheel baseline embed --retry`, which asks for them again, or choose another baseline.model."
    )
    assert page.command == "flywheel baseline embed --retry"
    cache.get(lost, embed)
    measure_references(workspace)
    assert made(workspace).command == "flywheel champion promote"


def test_a_challenger_that_lost_is_not_offered_again(trained: Workspace, tmp_path: Path) -> None:
    workspace = elsewhere(trained, tmp_path / "home", promotion={"max_retrieval_loss": 0.0})
    worse = {"mrr_at_10": 0.0, "recall_at_10": 0.0}
    snapshot = workspace.current_snapshot()
    match = next_match(workspace, board_of(workspace), read_baseline(workspace, snapshot).evaluation, None)
    assert match is not None
    best = match.challenger
    file = evaluation_folder(workspace.home.evaluations, best.test_id, best.record_id) / "evaluation.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "retrieval": {**record["retrieval"], **worse}}))
    assert decide_champion(workspace, snapshot)[0].action == "kept"
    page = made(workspace)
    assert page.command != "flywheel champion promote"
    assert page.answer.startswith("The best candidate")
    assert page.tone == "not proven"
    assert "retrieval got worse" in said(page, "The decision")


def test_the_champion_stays_on_the_board_and_in_the_answer_when_its_cell_is_trained_anew(
    decided: Workspace, tmp_path: Path
) -> None:
    workspace = elsewhere(decided, tmp_path / "home")
    champion = champion_of(workspace)
    known = workspace.current_snapshot().pairs("train")["text_a"][0]
    text = "clump0 intenta wording9"
    ingest(workspace.store, json_batch("later", "seed", "quora (more of it)", [line(known, text, 0)]))
    workspace.vectors(V32.base).cache.get([text], embed)
    take_snapshot(workspace)
    measure_cells(workspace, "400")
    measure_references(workspace)
    board = board_of(workspace)
    assert [row.record_id for row in board.rows if row.size == "400"].count(champion) == 1
    assert champion in board.stale
    page = made(workspace)
    assert "★ all-MiniLM-L6-v2@32\u00a0†, older snapshot | 400" in said(page, "Leaderboard")
    assert page.answer.startswith("The champion, all-MiniLM-L6-v2@32\u00a0†")


def test_without_a_verdict_there_is_no_claim(decided: Workspace, tmp_path: Path) -> None:
    workspace = elsewhere(decided, tmp_path / "home", evaluation={"min_components": 10_000})
    assert board_of(workspace).rows == ()
    measure_cells(workspace, *SIZES)
    measure_references(workspace)
    page = made(workspace)
    assert page.tone == "open"
    assert page.answer.startswith("No verdict is possible on these pairs")
    assert "points (95 %" not in page.answer
    assert page.command == "flywheel ingest FILE"


def test_under_another_target_prior_cells_have_another_rule_and_the_page_says_what_it_is_for(
    trained: Workspace, tmp_path: Path
) -> None:
    workspace = elsewhere(trained, tmp_path / "home", evaluation={"target_prior": 0.1})
    assert board_of(workspace).rows == ()
    measure_cells(workspace, "400")
    measure_references(workspace)
    (record,) = board_of(workspace).tuned
    assert record.record_id not in {row.record_id for row in board_of(trained).tuned}
    assert record.rule.interaction.prior == 0.1
    assert record.rule.interaction.threshold > record.rule.seed.threshold
    words = said(made(workspace), "On whose data")
    assert f"interaction | {record.rule.interaction.threshold:.4f} | 10.0 %" in words
    assert words.count("theirs is that of seed pairs, moved to 10.0 % of duplicates (evaluation.target_prior).") == 1


def test_under_another_target_prior_a_champion_keeps_its_rule_and_the_page_says_how_to_train_for_the_new_one(
    decided: Workspace, tmp_path: Path
) -> None:
    workspace = elsewhere(decided, tmp_path / "home", evaluation={"target_prior": 0.1})
    measure_references(workspace)
    (champion,) = (row for row in board_of(workspace).rows if row.record_id == champion_of(workspace))
    assert champion.terms.target_prior == 0.1
    assert champion.rule == TrainedModel.load(workspace.home.models / champion.record_id).rule
    assert champion.rule.interaction == champion.rule.seed
    words = said(made(workspace), "On whose data")
    assert f"interaction | {champion.rule.threshold:.4f} | {100 * champion.rule.seed.prior:.1f} %" in words
    assert "moved to" not in words
    assert "Now target_prior is 10.0 %: `flywheel grid` trains models for that." in words
    measure_cells(workspace, "400")  # what the verb does
    (renewed,) = (row for row in board_of(workspace).tuned if row.record_id != champion.record_id)
    assert (renewed.size, renewed.rule.moved_to) == ("400", 0.1)


def test_where_the_encoder_cannot_be_loaded_a_cell_is_evaluated_and_has_no_cost(trained: Workspace) -> None:
    assert [row.size for row in board_of(trained).tuned] == list(SIZES)
    assert not trained.home.speeds.exists()
    assert find_evidence(trained, trained.current_snapshot()).costs == ()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([line(f"a{n} x", f"b{n} x", n % 2) for n in range(20)], "10 explicit labels that say same and 10 that say different"),
        ([line(f"a{n} x", f"b{n} x", 1) for n in range(600)], "600 explicit labels that say same and 0 that say different"),
    ],
)
def test_too_few_pairs_or_one_label_end_in_a_sentence_and_no_page(tmp_path: Path, lines: list[bytes], sentence: str) -> None:
    world = take_world(
        make_workspace(tmp_path, encoding={"device": "gone"}, baseline={"local_variant": "all-MiniLM-L6-v2@32"}), lines
    )
    texts = [f"{side}{n} x" for side in "ab" for n in range(len(lines))]
    world.vectors.cache.get(texts, lambda t: np.random.default_rng(0).normal(size=(len(t), 384)))
    with pytest.raises(FlywheelError, match=sentence):
        measure_baseline(world.workspace, world.snapshot, pay=False)
    with pytest.raises(FlywheelError, match=sentence):
        save_page(world.workspace, world.snapshot)
    assert not (tmp_path / "evidence.html").exists()


PRICES = Prices(machine_hour=0.36, api_million=0.02, corpus_texts=1_000_000, tokens_a_text=20, counted_by="hand")


def test_a_fast_machine_pays_from_some_traffic_on_and_a_slow_one_never() -> None:
    # 1,000 texts a second are 20,000 tokens: 0.36 dollars buy 72 million tokens an hour.
    fast = model_cost("m", 1000, PRICES)
    assert fast.million == pytest.approx(0.005)
    assert (fast.corpus_seconds, fast.corpus) == pytest.approx((1000, 0.1))
    # 730 hours cost 262.80 dollars, for which the API embeds 13,140 million tokens.
    assert fast.break_even == pytest.approx(13.14e9)
    free = model_cost("m", 1000, replace(PRICES, api_million=0.0))
    assert free.break_even is None
    slow = model_cost("m", 100, PRICES)
    assert slow.million == pytest.approx(0.05)
    assert slow.break_even is None
    assert api_corpus(PRICES) == pytest.approx(0.4)


def test_a_machine_never_costs_more_than_the_api_when_both_are_free(decided: Workspace) -> None:
    evidence = find_evidence(decided, decided.current_snapshot())
    for machine, words in (
        (0.0, "never: at full load this machine costs as much as the API"),
        (1.0, "costs more than the API"),
    ):
        prices = replace(PRICES, machine_hour=machine, api_million=0.0)
        _, table, _ = costs(replace(evidence, prices=prices, costs=(model_cost("m", 1000, prices),)))
        assert isinstance(table, Table)
        assert words in table.rows[0][-1]


def test_without_a_price_there_is_time_and_no_money() -> None:
    cost = model_cost("m", 1000, replace(PRICES, machine_hour=None))
    assert (cost.corpus_seconds, cost.million, cost.corpus, cost.break_even) == (1000, None, None, None)


def test_texts_that_the_model_has_not_read_to_their_end_are_told(decided: Workspace) -> None:
    evidence = find_evidence(decided, decided.current_snapshot())
    folder = decided.home.models / champion_of(decided)
    assert evidence.cut == TrainedModel.load(folder).cut == {}
    assert "longer than what" not in said(build_page(evidence, None, None), "Kinds of pairs")
    page = build_page(replace(evidence, cut={"interaction": 0.25}), None, None)
    assert "of the interaction texts are longer than what all-MiniLM-L6-v2 reads" in said(page, "Kinds of pairs")
