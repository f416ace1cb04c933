"""The page answers what was asked, from what was measured, and says what it cannot say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flywheel.cli.verdict import _why_unjudged
from flywheel.errors import FlywheelError
from flywheel.evaluation.evaluate import decisions
from flywheel.evaluation.records import evaluation_folder
from flywheel.evidence.cost import Prices, api_corpus, model_cost
from flywheel.evidence.page import Facts, Page, Picture, Table, Text, as_plain
from flywheel.evidence.sections import costs
from flywheel.models.api.vectors import api_vectors
from flywheel.models.catalogue import Variant
from flywheel.models.vectors import vectors_of
from flywheel.orchestration import findings, steps
from flywheel.pairs.events.lines import Batch, json_lines
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.pairs.store.ducklake import open_store
from flywheel.settings import Settings
from flywheel.training.progress import ignore_progress
from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.clumps import World, clump_world, embed, embed_features, take_world
from flywheel_tests.pairs.test_ingest import line

V32 = Variant.parse("all-MiniLM-L6-v2@32")
SIZES = ("50", "100", "200", "400")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home with a snapshot and nothing trained; its local baseline is untuned."""
    return clump_world(tmp_path_factory.mktemp("empty"), clumps=200, baseline_local="all-MiniLM-L6-v2@32", compute="inline")


@pytest.fixture(scope="module")
def trained(empty: World, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The same with a line of cells, and no decision."""
    settings = elsewhere(empty.settings, tmp_path_factory.mktemp("trained") / "home")
    for size in SIZES:
        steps.train_cell(settings, V32, size, "head", ignore_progress)
        steps.evaluate_cell(settings, V32, size, "head")
    return settings


@pytest.fixture(scope="module")
def decided(trained: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The same with a champion."""
    settings = elsewhere(trained, tmp_path_factory.mktemp("decided") / "home")
    assert steps.decide_champion(settings)[0].action == "promoted"
    return settings


def elsewhere(settings: Settings, home: Path, **changed: object) -> Settings:
    return settings.model_copy(update={"home": copy_home(settings.home, home), **changed})


def made(settings: Settings) -> Page:
    return findings.save_page(settings)[0]


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
    page = made(elsewhere(empty.settings, tmp_path / "home"))
    assert page.tone == "open"
    assert page.answer.startswith("No model has been evaluated")
    assert page.command == "flywheel grid"


def test_before_the_decision_it_is_not_decided_and_the_next_step_is_to_decide(trained: Settings) -> None:
    page = made(trained)
    assert (page.tone, page.sign) == ("not decided", "? Not decided yet")
    assert page.answer.startswith("The best candidate, all-MiniLM-L6-v2@32 trained on 400 pairs, is wrong on")
    assert page.command == "flywheel champion promote"


def test_after_it_the_answer_holds_the_figures_of_the_decision(decided: Settings) -> None:
    page = made(decided)
    entry = steps.registry(decided).history()[-1]
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


def test_asking_again_for_a_decision_says_why_nothing_was_judged_and_on_which_test_set_it_was(decided: Settings) -> None:
    entry, new = steps.decide_champion(decided)
    assert not new
    assert entry.champion
    assert entry.verdict
    already = "The champion is already the best candidate of this snapshot: nothing was judged."
    assert _why_unjudged(decided, entry) == already
    rolled_back = replace(entry, action="rolled back", number=9, verdict=None, champion=replace(entry.champion, test_id="t0"))
    assert _why_unjudged(decided, rolled_back) == (
        f"{already} The decision below was made on the test set t0, which is not the present one."
    )
    lost = replace(entry, number=9, verdict=replace(entry.verdict, challenger_name="a", reference_name="b"))
    assert _why_unjudged(decided, lost) == "a was judged against b before: nothing was judged anew."


def test_flipped_pairs_stand_there_word_for_word(decided: Settings) -> None:
    board = steps.leaderboard(decided)
    champion = next(row for row in board.rows if row.record_id == steps.champion_id(decided))
    ours, theirs = (decisions(decided.evaluations, row) for row in (champion, steps.measure_baseline(decided).evaluation))
    broken = ours[ours["wrong"] & ~theirs["wrong"]]
    assert len(broken) > 0
    surest = (broken["probability"] - 0.5).abs().idxmax()
    pair = board.snapshot.pairs("test").set_index("pair_id").loc[surest]
    words = said(made(decided), "What breaks and what is mended")
    assert f"{len(broken)} pairs break" in words
    assert f"{pair['text_a']} | {pair['text_b']} | {'same' if pair['label'] else 'different'}" in words


def test_the_file_opens_with_the_answer_and_programs_get_plain_values(decided: Settings) -> None:
    page, file = findings.save_page(decided)
    assert file == decided.home / "evidence.html"
    html = file.read_text()
    assert "The champion, all-MiniLM-L6-v2@32" in html
    plain = json.loads(json.dumps(as_plain(page)))
    assert plain["answer"] == page.answer
    assert [section["title"] for section in plain["sections"]][:3] == [
        "At a glance", "Error against training pairs", "Leaderboard",
    ]  # fmt: skip


def test_under_another_target_prior_the_board_says_where_the_other_rows_are(decided: Settings, tmp_path: Path) -> None:
    settings = elsewhere(decided, tmp_path / "home", target_prior=0.1)
    before = steps.leaderboard(settings)
    assert not before.rows
    assert before.on_other_terms == len(steps.leaderboard(decided).rows)
    page, board = made(settings), steps.leaderboard(settings)  # the page measures the baseline and the champion anew
    assert board.on_other_terms == before.on_other_terms - len(board.rows) > 0
    assert f"{board.on_other_terms} more rows were made under another target_prior" in said(page, "Leaderboard")


def test_on_quoras_pairs_every_name_carries_the_mark(decided: Settings, tmp_path: Path) -> None:
    settings = elsewhere(decided, tmp_path / "home", seed="none")  # the data says it, not the setting
    manifest = steps.current_snapshot(settings).folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "seeds": ["quora"]}))
    page = made(settings)
    assert "all-MiniLM-L6-v2@32\u00a0† trained on 400 pairs" in page.answer
    for title in ("At a glance", "Leaderboard", "Kinds of pairs", "Where the errors come from", "What each training took"):
        words = said(page, title)
        assert words.count("all-MiniLM-L6-v2@32") == words.count("all-MiniLM-L6-v2@32\u00a0†")
    for title in ("At a glance", "Leaderboard", "The decision"):
        assert "† The base model had trained on the data" in said(page, title)


def test_against_the_apis_own_vectors_the_answer_is_about_the_api(decided: Settings, tmp_path: Path) -> None:
    settings = elsewhere(decided, tmp_path / "home", baseline_dimensions=384)
    on = steps.current_snapshot(settings)
    api_vectors(settings).cache.get(unique_texts(on.pairs("train"), on.pairs("calibration"), on.pairs("test")), embed)
    steps.evaluate_cell(settings, V32, "400", "head")
    page = made(settings)
    assert "text-embedding-3-small@384 on" in page.answer
    assert "has not been measured" not in page.answer
    assert "OPENAI_API_KEY" not in page.next_step
    board = said(page, "Leaderboard")
    assert "text-embedding-3-small@384 | baseline" in board
    assert "text-embedding-3-small@32 + head | 400" in board


def test_a_challenger_that_lost_is_not_offered_again(trained: Settings, tmp_path: Path) -> None:
    settings = elsewhere(trained, tmp_path / "home", max_retrieval_loss=0.0)
    worse = {"mrr_at_10": 0.0, "recall_at_10": 0.0}
    best = steps.next_match(settings, lambda: steps.measure_baseline(settings).evaluation)
    assert best is not None
    file = evaluation_folder(settings.evaluations, best[0].test_id, best[0].record_id) / "evaluation.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "retrieval": {**record["retrieval"], **worse}}))
    assert steps.decide_champion(settings)[0].action == "kept"
    page = made(settings)
    assert page.command != "flywheel champion promote"
    assert page.answer.startswith("The best candidate")
    assert page.tone == "not proven"
    assert "retrieval got worse" in said(page, "The decision")


def test_the_champion_stays_on_the_board_and_in_the_answer_when_its_cell_is_trained_anew(
    decided: Settings, tmp_path: Path
) -> None:
    settings = elsewhere(decided, tmp_path / "home")
    champion = steps.champion_id(settings)
    store = open_store(settings)
    known = steps.current_snapshot(settings).pairs("train")["text_a"][0]
    text = "clump0 intenta wording9"
    ingest(store, Batch("later", "seed", "quora (more of it)", json_lines(iter([line(known, text, 0)]))))
    vectors_of(V32.model, settings).cache.get([text], embed_features)
    steps.snapshot(settings)
    steps.train_cell(settings, V32, "400", "head", ignore_progress)
    steps.evaluate_cell(settings, V32, "400", "head")
    board = steps.leaderboard(settings)
    assert [row.record_id for row in board.rows if row.size == "400"].count(champion) == 1
    assert champion in board.stale
    page = made(settings)
    assert "★ all-MiniLM-L6-v2@32\u00a0†, older snapshot | 400" in said(page, "Leaderboard")
    assert page.answer.startswith("The champion, all-MiniLM-L6-v2@32\u00a0†")


def test_without_a_verdict_there_is_no_claim(decided: Settings, tmp_path: Path) -> None:
    settings = elsewhere(decided, tmp_path / "home", min_components=10_000)
    assert steps.leaderboard(settings).rows == ()
    for size in SIZES:
        steps.evaluate_cell(settings, V32, size, "head")
    page = made(settings)
    assert page.tone == "open"
    assert page.answer.startswith("No verdict is possible on these pairs")
    assert "points (95 %" not in page.answer
    assert page.command == "flywheel ingest FILE"


def test_another_target_prior_evaluates_anew_and_says_what_it_is_for(decided: Settings, tmp_path: Path) -> None:
    settings = elsewhere(decided, tmp_path / "home", target_prior=0.1)
    assert steps.leaderboard(settings).rows == ()
    record = steps.evaluate_cell(settings, V32, "400", "head")
    assert record.fits["interaction"].prior == 0.1
    assert record.fits["interaction"].threshold > record.fits["seed"].threshold
    assert "interaction | " in said(made(settings), "On whose data")
    assert "10.0 %" in said(made(settings), "On whose data")


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([line(f"a{n} x", f"b{n} x", n % 2) for n in range(20)], "There is no test split yet"),
        ([line(f"a{n} x", f"b{n} x", 1) for n in range(600)], "pairs in calibration have label 1: one label alone decides"),
    ],
)
def test_too_few_pairs_or_one_label_end_in_a_sentence_and_no_page(tmp_path: Path, lines: list[bytes], sentence: str) -> None:
    world = take_world(Settings(home=tmp_path, device="gone", baseline_local="all-MiniLM-L6-v2@32"), lines)
    texts = [f"{side}{n} x" for side in "ab" for n in range(len(lines))]
    world.vectors.cache.get(texts, lambda t: np.random.default_rng(0).normal(size=(len(t), 3 * 384)))
    with pytest.raises(FlywheelError, match=sentence):
        findings.save_page(world.settings)
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


def test_a_machine_never_costs_more_than_the_api_when_both_are_free(decided: Settings) -> None:
    evidence = findings.find_evidence(decided)
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
