"""One rule decides: a fit for each source of pairs, stored as it is, and the same wherever it is read again."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.thresholds import ScoreFit, fit_by_source
from flywheel_tests.scoring.test_thresholds import two_sources

SEED = ScoreFit((0.0, 2.0), 0.6, 0.1, 0.25, 0.2, 0.9, 0.6)
INTERACTION = ScoreFit((1.0, 2.0, 0.0, 0.5), 0.7, 0.2, 0.7, 0.1, 1.0, 0.4)
RULE = DecisionRule(SEED, INTERACTION)
OWN, FEW = (700, 500), (700, 499)  # seed pairs and interaction pairs: enough of the latter for a fit of their own, and too few


def made(pairs: tuple[int, int], target_prior: float | None) -> DecisionRule:
    return DecisionRule.fit(*two_sources(*pairs), target_prior)


@pytest.mark.parametrize("pairs", [OWN, FEW])
@pytest.mark.parametrize("target_prior", [None, 0.6])
def test_a_rule_holds_the_fit_of_each_source_and_is_served_at_that_of_interaction_pairs(
    pairs: tuple[int, int], target_prior: float | None
) -> None:
    rule = made(pairs, target_prior)
    assert rule.by_source == fit_by_source(*two_sources(*pairs), target_prior)
    assert rule == DecisionRule(rule.by_source["seed"], rule.by_source["interaction"])
    assert rule.threshold == rule.interaction.threshold


def test_each_pair_is_decided_at_the_threshold_of_its_source_and_a_score_at_it_is_the_same() -> None:
    scores = np.array([0.4, 0.5, 0.6, 0.39, 0.4, 0.6])
    sources = np.repeat(["seed", "interaction"], 3)
    assert RULE.decide(scores, sources).tolist() == [False, False, True, False, True, True]
    assert RULE.decide(scores, np.roll(sources, 3)).tolist() == [True, True, True, False, False, True]


def test_each_pair_has_the_probability_of_its_source_and_it_crosses_one_half_at_the_threshold() -> None:
    scores, sources = np.array([0.6, 0.6, 0.05, 0.05, 2.0, 2.0]), np.array(["seed", "interaction"] * 3)
    # By hand: seed (0.6 - 0.6) / 0.1 = 0, a probability of one half; interaction x = (0.6 - 0.7) / 0.2 = -0.5, a logit of
    # 1 - 1 - 0.5 * 0.125. Scores beyond the range seen count as its edge.
    logits = [0.0, -0.0625, 2 * -4.0, 1 + 2 * -3.0 + 0.5 * -27.0, 2 * 3.0, 1 + 2 * 1.5 + 0.5 * 1.5**3]
    assert RULE.probability(scores, sources) == pytest.approx(1 / (1 + np.exp(-np.array(logits))))
    for pairs, target in ((OWN, None), (FEW, 0.6)):
        rule = made(pairs, target)
        for source, fit in rule.by_source.items():
            assert rule.probability(np.array([fit.threshold]), np.array([source])) == pytest.approx([0.5], abs=1e-9)


def test_decisions_and_probabilities_agree_on_the_pairs_a_rule_was_made_from() -> None:
    scores, labels, sources = two_sources(*OWN)
    rule = DecisionRule.fit(scores, labels, sources, None)
    same, likely = rule.decide(scores, sources), rule.probability(scores, sources) >= 0.5
    assert (same == likely).mean() > 0.99  # a cubic may cross one half again, far out
    assert (same != labels).mean() < 0.3


def test_a_rule_survives_json() -> None:
    for rule in (RULE, made(OWN, None), made(FEW, 0.6)):
        assert DecisionRule.from_json(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize("damage", [{"seed": None}, {"interaction": {"threshold": 0.5}}, {"seed": {**asdict(SEED), "more": 1}}])
def test_what_is_not_a_rule_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        DecisionRule.from_json({**RULE.to_json(), **damage})
    missing = RULE.to_json()
    del missing[next(iter(damage))]
    with pytest.raises(KeyError):
        DecisionRule.from_json(missing)


@pytest.mark.parametrize(
    ("pairs", "target_prior", "is_shared", "moved_to"),
    [
        (FEW, None, True, None),
        (FEW, 0.6, True, 0.6),
        (OWN, None, False, None),
        (OWN, 0.6, False, None),
        ((10, 60), 0.6, True, 0.6),
    ],
)
def test_a_rule_says_whether_interaction_pairs_share_the_seed_fit_and_to_what_it_was_moved(
    pairs: tuple[int, int], target_prior: float | None, is_shared: bool, moved_to: float | None
) -> None:
    rule = made(pairs, target_prior)
    assert (rule.is_shared, rule.moved_to) == (is_shared, moved_to)
    again = DecisionRule.from_json(json.loads(json.dumps(rule.to_json())))
    assert (again.is_shared, again.moved_to) == (is_shared, moved_to)


def test_pairs_of_another_source_or_without_one_are_refused() -> None:
    scores = np.array([0.1, 0.9])
    for ask in (RULE.decide, RULE.probability):
        with pytest.raises(FlywheelError, match="1 pairs have a source such as clicks: it must be seed or interaction"):
            ask(scores, np.array(["seed", "clicks"]))
        with pytest.raises(FlywheelError, match="There are 1 sources for 2 pairs"):
            ask(scores, np.array(["seed"]))
