"""Who becomes champion, who does not, and what a rollback, a kill or a crowd of processes leaves behind."""

import json
import multiprocessing
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.metrics import pair_metrics
from flywheel.evaluation.paired import alpha_for
from flywheel.evaluation.records import Evaluation, Terms, evaluation_folder
from flywheel.evaluation.sanity import Finding
from flywheel.evaluation.scores import SCORES
from flywheel.evaluation.statistics import ErrorParts, reason_no_verdict
from flywheel.evidence.sections import decision_section
from flywheel.registry import decisions
from flywheel.registry.champions import Champion, Entry, Registry, Verdict
from flywheel.registry.decisions import alpha_left, choose_challenger, count_decisions, judge, spending, was_decided
from flywheel.registry.options import PromotionOptions
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.retrieval import Retrieval
from flywheel.scoring.thresholds import ScoreFit

SPAWN = multiprocessing.get_context("spawn")
RULES = PromotionOptions(max_broken_share=0.1, max_retrieval_loss=0.005)
pair = np.arange(300)
component = pair // 3
NAMES = {"kind": "tuned", "variant": "all-MiniLM-L6-v2@256", "size": "400", "recipe": "head", "snapshot_id": "s1"}
FIGURES = {"calibration_set_error": 0.1, "retrieval": Retrieval(0.8, 0.9, 50), "components": 100, "slices": (), "rough": False}
FIGURES |= {"parts": ErrorParts(0.1, 0.0, 0.0), "terms": Terms(40), "findings": ()}
FIGURES |= dict.fromkeys(
    [
        "interval",
        "own_labels",
        "no_verdict",
        "contamination",
        "train_seconds",
        "random_seed",
        "start",
        "place",
        "kept_start",
    ]
)


def model(home: Path, name: str, wrong: np.ndarray, at: float = 0.5, first_pair: int = 0, **fields: Any) -> Evaluation:
    """A record with threshold `at` whose decisions `wrong` (300,) are wrong on `test`; on `calibration` all the others are."""
    rows = pd.DataFrame({"pair_id": [f"p{first_pair + i:03}" for i in pair], "label": pair % 2, "component": component})
    test, calibration = (at - 0.1 * ((pair % 2 == 1) == errs) for errs in (wrong, ~wrong))
    metrics = pair_metrics(test, pair % 2, test >= at, np.where(test >= at, 0.9, 0.1))
    fit = ScoreFit((0.0, 1.0), at, 0.1, 0.5, 0.0, 1.0, at)
    given = {"record_id": name, "test_id": "t1", "metrics": metrics, "train_pairs": 400}
    given |= {"rule": DecisionRule(fit, fit), "error": metrics.error}
    record = Evaluation(**{**NAMES, **FIGURES, **given, **fields})
    folder = evaluation_folder(home / "evaluations", record.test_id, name)
    folder.mkdir(parents=True)
    both = (rows.assign(score=scores, split=split, fold=0) for scores, split in ((test, "test"), (calibration, "calibration")))
    table = pd.concat([each.assign(same=each["score"] >= at, probability=0.5) for each in both])
    # Whatever order the rows lie in, the pairs must find each other.
    table.sample(frac=1.0, random_state=sum(name.encode())).to_parquet(folder / SCORES)
    return record


def step(home: Path, better: int, name: str = "step", **fields: Any) -> Evaluation:
    """A model that errs in 96 components, less 12 a step: p = 2^-12 of one step wins any of the first 11 decisions."""
    return model(home, f"{name}{better}", (pair % 3 == 0) & (component < 96 - 12 * better), **fields)


def registry(home: Path) -> Registry:
    return Registry(home / "registry")


def ask(home: Path, challenger: Evaluation, reference: Evaluation) -> tuple[Entry, bool]:
    reigning = reference.record_id if reference.kind == "tuned" else None
    return decisions.decide(registry(home), challenger, reference, home / "evaluations", RULES, reigning, "s1")


def decide(home: Path, challenger: Evaluation, reference: Evaluation) -> Verdict:
    entry, new = ask(home, challenger, reference)
    assert new
    assert entry.action == ("promoted" if entry.verdict.promoted else "kept")
    return entry.verdict


def reigning(home: Path) -> str | None:
    present = registry(home).current()
    return present.champion.model if present and present.champion else None


def dynasty(home: Path, length: int) -> list[Evaluation]:
    """The baseline and `length` champions, each promoted over the one before by entries 1, 2, ..."""
    models = [step(home, 0, kind="baseline"), *(step(home, better) for better in range(1, length + 1))]
    assert all(decide(home, new, old).promoted for old, new in pairwise(models))
    return models


def test_challenger_has_the_lowest_calibration_error_even_when_another_is_better_on_test(tmp_path: Path) -> None:
    modest, brilliant = step(tmp_path, 1, calibration_set_error=0.10), step(tmp_path, 5, calibration_set_error=0.11)
    untuned = step(tmp_path, 2, "untuned", kind="untuned", calibration_set_error=0.01)
    assert choose_challenger([brilliant, untuned, modest]) == modest
    narrow = step(tmp_path, 1, "z", variant="all-MiniLM-L6-v2@64", train_pairs=1600)
    assert choose_challenger([modest, narrow]) == narrow
    with pytest.raises(FlywheelError, match="No cell of this snapshot has been evaluated"):
        choose_challenger([untuned])


@pytest.mark.parametrize(
    ("interaction", "sentence"),
    [
        (0.7, "pairs, threshold 0.7000."),
        (0.9, "threshold 0.9000 for interaction pairs and 0.7000 for seed pairs, each judged at its own."),
    ],
)
def test_a_champion_names_the_threshold_of_each_source_where_they_differ(
    tmp_path: Path, interaction: float, sentence: str
) -> None:
    winner = step(tmp_path, 2, at=0.7)
    rule = replace(winner.rule, interaction=replace(winner.rule.interaction, threshold=interaction))
    decide(tmp_path, replace(winner, rule=rule), step(tmp_path, 0, kind="baseline"))
    [entry] = registry(tmp_path).history()
    assert entry.champion == registry(tmp_path).champion()
    assert (entry.champion.threshold, entry.champion.seed_threshold) == (interaction, 0.7)
    assert sentence in decision_section(entry, entry, False).blocks[0].text


def test_clear_winner_is_promoted_with_pointer_and_history(tmp_path: Path) -> None:
    winner = step(tmp_path, 2, at=0.7, interval=Interval(0.1, 0.3))
    verdict = decide(tmp_path, winner, step(tmp_path, 0, kind="baseline", at=0.2))
    assert verdict.difference == pytest.approx(-24 / 300)
    assert verdict.ci_low < verdict.difference < verdict.ci_high < 0
    [entry] = registry(tmp_path).history()
    assert registry(tmp_path).current() == entry
    assert (entry.number, entry.previous, entry.verdict) == (1, None, verdict)
    assert entry.champion == Champion("step2", winner.variant, "400", "head", 0.7, "s1", "t1", winner.error, 0.1, 0.3, 300, 0.7)


def test_equal_and_worse_models_are_kept_out(tmp_path: Path) -> None:
    _, champion = dynasty(tmp_path, 1)
    shuffled = np.random.default_rng(0).permutation((pair % 3 == 0) & (component < 84))
    for challenger in (step(tmp_path, 1, "twin"), model(tmp_path, "equal", shuffled), step(tmp_path, 0, "worse")):
        assert "not provably better" in decide(tmp_path, challenger, champion).reason
    assert [entry.action for entry in registry(tmp_path).history()] == ["promoted", "kept", "kept", "kept"]
    assert reigning(tmp_path) == "step1"


@pytest.mark.parametrize(("mrr", "recall", "wins"), [(0.796, 0.896, True), (0.794, 0.95, False), (0.85, 0.894, False)])
def test_winner_that_loses_retrieval_is_kept_out(tmp_path: Path, mrr: float, recall: float, wins: bool) -> None:
    verdict = decide(tmp_path, step(tmp_path, 2, retrieval=Retrieval(mrr, recall, 50)), step(tmp_path, 0, kind="baseline"))
    assert (verdict.promoted, "retrieval got worse" in verdict.reason) == (wins, not wins)


@pytest.mark.parametrize(("kind", "broken", "wins"), [("tuned", 19, True), ("tuned", 21, False), ("baseline", 60, True)])
def test_winner_that_breaks_a_champions_right_pairs_is_kept_out(tmp_path: Path, kind: str, broken: int, wins: bool) -> None:
    reference = model(tmp_path, "reference", pair % 3 == 0, kind=kind)
    if kind == "tuned":
        decide(tmp_path, reference, model(tmp_path, "hopeless", pair >= 0, kind="baseline"))
    verdict = decide(tmp_path, model(tmp_path, "challenger", (pair % 3 == 1) & (pair < 3 * broken)), reference)
    assert verdict.broken_share == (broken / 200 if kind == "tuned" else None)
    assert (verdict.promoted, "breaks" in verdict.reason) == (wins, not wins)


def test_alpha_falls_with_each_decision_on_a_test_and_starts_again_on_other_pairs_alone(tmp_path: Path) -> None:
    # Six components changed, all for the better: p = 2^-6 lies between the second alpha and the first.
    first_pair = {"t1": 0, "t2": 299, "t3": 599}  # t1 and t2 share a pair
    asked = [("worse", "t1", 300), ("late", "t1", 0), ("redrawn", "t2", 0), ("early", "t3", 0)]
    verdicts = []
    for name, test, errors in asked:
        drawn = {"test_id": test, "first_pair": first_pair[test]}
        reference = model(tmp_path, f"base of {name}", pair < 18, kind="baseline", **drawn)
        verdicts.append(decide(tmp_path, model(tmp_path, name, pair < errors, **drawn), reference))
    assert [verdict.alpha for verdict in verdicts] == [alpha_for(k) for k in (1, 2, 3, 1)]
    assert [verdict.p_value for verdict in verdicts[1:]] == pytest.approx([2**-6] * 3)
    assert [verdict.promoted for verdict in verdicts] == [False, False, False, True]


def test_decisions_on_a_test_of_which_nothing_is_left_count_on(tmp_path: Path) -> None:
    decide(tmp_path, step(tmp_path, 0, "worse"), model(tmp_path, "base", pair < 18, kind="baseline"))
    assert count_decisions(registry(tmp_path), "t1", tmp_path / "evaluations") == 1
    assert count_decisions(registry(tmp_path), "t2", tmp_path / "evaluations") == 0
    assert was_decided(registry(tmp_path), tmp_path / "evaluations", frozenset({"p001", "elsewhere"}))
    assert not was_decided(registry(tmp_path), tmp_path / "evaluations", frozenset({"elsewhere"}))
    shutil.rmtree(tmp_path / "evaluations" / "t1")
    assert count_decisions(registry(tmp_path), "t2", tmp_path / "evaluations") == 1
    assert was_decided(registry(tmp_path), tmp_path / "evaluations", frozenset({"elsewhere"}))


def test_a_verdict_says_what_it_could_have_found_and_on_how_much(tmp_path: Path) -> None:
    verdict = decide(tmp_path, step(tmp_path, 2), step(tmp_path, 0, kind="baseline"))
    assert (verdict.components, verdict.pairs) == (100, 300)
    # Of 100 components of 3 pairs, 24 lost one error: z of 0.0304 and of 0.8 are 1.874 and 0.842.
    error = np.sqrt(0.24 * 0.76 / 99) / 3
    assert verdict.detectable == pytest.approx((1.874 + 0.842) * error, rel=1e-3)


@pytest.mark.parametrize(
    ("part", "figure"),
    [("verdict", "detectable"), ("verdict", "components"), ("verdict", "pairs"), ("champion", "seed_threshold")],
)
def test_an_entry_that_lacks_a_figure_is_damaged_and_the_figure_named(tmp_path: Path, part: str, figure: str) -> None:
    dynasty(tmp_path, 1)
    [file] = (tmp_path / "registry" / "history").glob("*.json")
    entry = json.loads(file.read_text())
    del entry[part][figure]
    file.write_text(json.dumps(entry))
    with pytest.raises(FlywheelError, match=rf"is damaged, .* \({part}\.{figure}: Field required\)\. Put a copy of it back\."):
        registry(tmp_path).history()


@pytest.mark.parametrize(
    ("old", "new"), [('"verdict"', ""), ('"p_value": ', '"p_value": NaN, "was": '), ('"threshold": 0.5', '"threshold": "0.5"')]
)
def test_a_damaged_entry_is_named_and_the_pointer_is_not_blamed(tmp_path: Path, old: str, new: str) -> None:
    _, champion = dynasty(tmp_path, 1)
    file = tmp_path / "registry" / "history" / "000001.json"
    text = file.read_text()
    assert old in text
    file.write_text(text[: text.index(old)] if not new else text.replace(old, new))
    challenger = step(tmp_path, 2)
    for reads in (registry(tmp_path).history, registry(tmp_path).current, lambda: ask(tmp_path, challenger, champion)):
        with pytest.raises(FlywheelError, match=r"Put a copy of it back\. Without one, move .* begins a new history") as caught:
            reads()
        assert str(caught.value).startswith(f"{file} is damaged, or another version of flywheel wrote it (")
        assert "champion.json" not in str(caught.value)


def test_alpha_that_is_left_is_what_all_later_decisions_may_spend() -> None:
    assert alpha_left(0) == pytest.approx(0.05)
    for made in (1, 3, 52):
        later = sum(alpha_for(k) for k in range(made + 1, 100_000))
        assert alpha_left(made) == pytest.approx(later, abs=1e-6)


def test_spending_is_told_in_percent_and_a_fresh_test_advised_when_little_is_left(tmp_path: Path) -> None:
    _, champion = dynasty(tmp_path, 1)
    verdicts = [decide(tmp_path, step(tmp_path, 0, f"worse{k}-"), champion) for k in (2, 3)]
    assert spending(verdicts[0]) == (
        "Decision 2 on pairs of this test set: 0.76 % of the 5 % was to spend on it, 1.2 % is left for all later ones; "
        "the next one may spend 0.34 %."
    )
    assert spending(verdicts[1]) == (
        "Decision 3 on pairs of this test set: 0.34 % of the 5 % was to spend on it, 0.86 % is left for all later ones; "
        "the next one may spend 0.19 %. "
        "For a fresh test set: Ingest labelled pairs of new questions, then run `flywheel snapshot --new-test` before any "
        "other snapshot; it says how many are missing."
    )


def test_the_same_two_are_judged_once_and_a_rolled_back_winner_stays_out(tmp_path: Path) -> None:
    _, first, second = dynasty(tmp_path, 2)
    promotion = registry(tmp_path).history()[1]
    assert ask(tmp_path, second, first) == (promotion, False)
    registry(tmp_path).rollback()
    assert ask(tmp_path, second, first) == (promotion, False)
    assert (reigning(tmp_path), len(registry(tmp_path).history())) == ("step1", 3)
    assert decide(tmp_path, step(tmp_path, 3), first).decision == 3


def test_refused_without_a_trace_where_no_verdict_is_possible(tmp_path: Path) -> None:
    api, few = step(tmp_path, 0, kind="baseline"), reason_no_verdict(pair % 39)
    with pytest.raises(FlywheelError, match=r"t2.*t1"):
        ask(tmp_path, step(tmp_path, 3, test_id="t2"), api)
    with pytest.raises(FlywheelError, match="39 components are fewer than the 40"):
        ask(tmp_path, step(tmp_path, 3, no_verdict=few), api)
    assert registry(tmp_path).history() == []


def test_a_reference_that_no_longer_reigns_is_refused(tmp_path: Path) -> None:
    api, first, _ = dynasty(tmp_path, 2)
    late = step(tmp_path, 3)
    for reference in (api, first):
        with pytest.raises(FlywheelError, match="champion has changed"):
            ask(tmp_path, late, reference)
    assert (reigning(tmp_path), len(registry(tmp_path).history())) == ("step2", 2)


def test_rollback_walks_back_one_champion_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(FlywheelError, match="no champion yet"):
        registry(tmp_path).rollback()
    *_, third = dynasty(tmp_path, 3)
    decide(tmp_path, step(tmp_path, 0, "worse"), third)
    for name in ("step2", "step1"):
        assert registry(tmp_path).rollback().action == "rolled back"
        assert reigning(tmp_path) == name
    with pytest.raises(FlywheelError, match="no earlier champion"):
        registry(tmp_path).rollback()
    assert registry(tmp_path).rollback(3).champion == registry(tmp_path).history()[2].champion
    assert registry(tmp_path).rollback().number == 8
    assert reigning(tmp_path) == "step2"
    for nothing in (4, 99, 0):
        with pytest.raises(FlywheelError, match=f"Entry {nothing} made no champion"):
            registry(tmp_path).rollback(nothing)


def die_asking(home: Path, challenger: Evaluation, reference: Evaluation, doomed: str) -> None:
    move = os.replace
    os.replace = lambda old, new: os.kill(os.getpid(), signal.SIGKILL) if Path(new).name == doomed else move(old, new)
    ask(home, challenger, reference)


@pytest.mark.parametrize("doomed", ["000002.json", "champion.json"])
def test_a_kill_before_the_swap_leaves_the_old_champion_and_asking_again_ends_it(tmp_path: Path, doomed: str) -> None:
    _, old = dynasty(tmp_path, 1)
    winner = step(tmp_path, 2)
    child = SPAWN.Process(target=die_asking, args=(tmp_path, winner, old, doomed))
    child.start()
    child.join()
    assert (child.exitcode, reigning(tmp_path)) == (-signal.SIGKILL, "step1")
    decide(tmp_path, step(tmp_path, 0, "worse"), old)
    assert ask(tmp_path, winner, old)[0].action == "promoted"
    assert reigning(tmp_path) == "step2"
    assert [entry.number for entry in registry(tmp_path).history()] == [1, 2, 3]
    assert registry(tmp_path).rollback().champion == registry(tmp_path).history()[0].champion


def compete(home: Path, rivals: list[Evaluation], models: dict[str | None, Evaluation], together: Any) -> None:
    together.wait()
    for rival in rivals:
        for _ in range(100):
            with suppress(FlywheelError):  # the champion has changed
                ask(home, rival, models[reigning(home)])
                break
        registry(home).rollback(1)


@pytest.mark.slow
def test_many_processes_leave_consecutive_numbers_and_a_valid_pointer(tmp_path: Path) -> None:
    rivals = [step(tmp_path, better, name) for better in (1, 2) for name in "abcd"]
    models = {None: step(tmp_path, 0, kind="baseline"), **{rival.record_id: rival for rival in rivals}}
    together = SPAWN.Barrier(4)
    crowd = [SPAWN.Process(target=compete, args=(tmp_path, rivals[i::4], models, together)) for i in range(4)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
        assert process.exitcode == 0
    entries = registry(tmp_path).history()
    assert [entry.number for entry in entries] == list(range(1, 17))
    assert sorted(e.verdict.challenger for e in entries if e.verdict) == sorted(rival.record_id for rival in rivals)
    champion = None
    for entry in entries:
        assert entry.verdict is None or entry.verdict.reference == models[champion].record_id
        champion = entry.champion.model if entry.champion else champion
    assert reigning(tmp_path) == champion


def test_at_most_5_lives_in_100_see_a_false_promotion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: dict[str, pd.DataFrame] = {}
    # From memory, because thousands of verdicts would spend most of their time on files.
    monkeypatch.setattr(decisions, "decisions", lambda _, record: outcomes[record.record_id])
    champion, challenger = (step(tmp_path, 0, name) for name in ("champion", "challenger"))
    # Up to a twentieth of all pairs in one component; a model errs in few components, and there often.
    ids = np.repeat(np.arange(60), np.clip(60 // np.arange(1, 61), 1, 8))
    assert reason_no_verdict(ids) is None
    rng, lives = np.random.default_rng(0), 300

    def draw(model: Evaluation) -> None:
        outcomes[model.record_id] = pd.DataFrame(
            {"component": ids, "fold": 0, "wrong": rng.random(len(ids)) < rng.beta(0.2, 1, 60)[ids]}
        )

    def promotes_falsely() -> bool:
        draw(champion)
        for decision in range(1, 11):
            draw(challenger)
            if judge(
                challenger, champion, tmp_path, PromotionOptions(max_broken_share=1, max_retrieval_loss=1), decision, False
            ).promoted:
                return True
        return False

    # One standard error above: the seed is fixed, so luck is too.
    assert 0.0 < np.mean([promotes_falsely() for _ in range(lives)]) <= 0.05 + np.sqrt(0.05 * 0.95 / lives)


ALARM = Finding(True, "practically every text has the same vector", "the endpoint does not read the texts", "Put it right")


@pytest.mark.parametrize("side", ["challenger", "reference"])
@pytest.mark.parametrize("kind", ["baseline", "tuned"])
def test_refused_without_a_trace_and_with_the_cause_where_a_side_is_not_sane(tmp_path: Path, side: str, kind: str) -> None:
    *_, reference = dynasty(tmp_path, 0 if kind == "baseline" else 1)
    challenger, before = step(tmp_path, 3), len(registry(tmp_path).history())
    findings = {side: (ALARM,)}
    sides = [
        replace(each, findings=findings.get(name, ())) for name, each in (("challenger", challenger), ("reference", reference))
    ]
    with pytest.raises(FlywheelError, match=r"No verdict is possible: .* cannot be compared with anything: practically every"):
        ask(tmp_path, *sides)
    assert len(registry(tmp_path).history()) == before
    remarks = replace(challenger, findings=(replace(ALARM, alarm=False),))
    assert ask(tmp_path, remarks, reference)[0].action == "promoted"


def test_a_champion_that_cannot_be_compared_makes_way_for_who_beats_the_baseline(tmp_path: Path) -> None:
    api, champion = dynasty(tmp_path, 1)
    challenger = step(tmp_path, 3)
    entry, new = decisions.decide(
        registry(tmp_path), challenger, api, tmp_path / "evaluations", RULES, champion.record_id, "s1"
    )
    assert (new, entry.action, reigning(tmp_path)) == (True, "promoted", "step3")
    registry(tmp_path).rollback()
    assert reigning(tmp_path) == champion.record_id
