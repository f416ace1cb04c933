"""The spec of a training job: its JSON, its identity, and what is refused before anything is trained."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE
from flywheel.training.job import TUNING, HeadRecipe, TrainingJob, head_recipe, tuning_recipe

JOB = TrainingJob(
    "all-MiniLM-L6-v2@384", "100", "head", 0, 0.0, "snapshot", CATALOGUE["all-MiniLM-L6-v2"], "weights", HeadRecipe()
)
OTHERS = [
    *({"variant": "all-MiniLM-L6-v2@256"}, {"size": "all"}, {"random_seed": 1}, {"interaction_share": 0.5}),
    *({"snapshot_id": "s"}, {"weights": "w"}, {"recipe": "other"}),
    *({"head": replace(JOB.head, **{name: getattr(JOB.head, name) / 2})} for name in ("learning_rate", "ranking_scale")),
    *(
        {"head": replace(JOB.head, **{name: getattr(JOB.head, name) * 2})}
        for name in ("epochs", "batch_size", "ranking_weight", "min_steps")
    ),
    *({"poolings": "all"}, {"tuning": TUNING["top"]}, {"dims": (256, 384)}, {"target_prior": 0.4}, {"version": 0}),
]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_every_field_of_a_spec_counts_in_its_id(change: dict[str, Any]) -> None:
    assert replace(JOB, **change).job_id != JOB.job_id


def test_what_is_only_said_of_the_base_model_does_not_count() -> None:
    assert replace(JOB, base=replace(JOB.base, licence="another", contamination="none")).job_id == JOB.job_id


def test_a_spec_survives_json_and_equal_specs_share_an_id() -> None:
    shuffled = json.dumps(dict(reversed(json.loads(JOB.to_json()).items())), indent=2)
    assert TrainingJob.from_json(JOB.to_json()) == JOB
    assert TrainingJob.from_json(shuffled).job_id == JOB.job_id == TrainingJob.from_json(shuffled.encode()).job_id


SPEC = json.loads(JOB.to_json())
LAYERS = SPEC | {"recipe": "top", "tuning": asdict(TUNING["top"]), "dims": [256, 384]}
GARBAGE = {
    "no json": "{",
    "no text": b"\xff\xfe",
    "no object": "[1]",
    "null": "null",
    "empty": "{}",
    "no head": json.dumps({k: v for k, v in SPEC.items() if k != "head"}),
    "unknown field": json.dumps(SPEC | {"extra": 1}),
    "unknown field of the head": json.dumps(SPEC | {"head": {"rate": 1}}),
    "size as number": json.dumps(SPEC | {"size": 100}),
    "size 0": json.dumps(SPEC | {"size": "0"}),
    "size in words": json.dumps(SPEC | {"size": "many"}),
    "another base model": json.dumps(SPEC | {"base": SPEC["base"] | {"name": "another"}}),
    "unknown recipe": json.dumps(SPEC | {"recipe": "half"}),
    "full without tuning": json.dumps(SPEC | {"recipe": "full"}),
    "full of two layers": json.dumps(LAYERS | {"recipe": "full"}),
    "top of all layers": json.dumps(LAYERS | {"tuning": LAYERS["tuning"] | {"layers": None}}),
    "top of no dimension": json.dumps(LAYERS | {"dims": []}),
    "top of other dimensions": json.dumps(LAYERS | {"dims": [256]}),
    "a dimension twice": json.dumps(LAYERS | {"dims": [384, 384]}),
    "a dimension beyond the width": json.dumps(LAYERS | {"dims": [384, 512]}),
    "head with dimensions": json.dumps(SPEC | {"dims": [384]}),
    "seed in words": json.dumps(SPEC | {"random_seed": "0"}),
    "no epochs": json.dumps(SPEC | {"head": {"epochs": 0}}),
    "no batch": json.dumps(SPEC | {"head": {"batch_size": 0}}),
    "rate in words": json.dumps(SPEC | {"head": {"learning_rate": "fast"}}),
    **{f"rate {rate}": json.dumps(SPEC | {"head": {"learning_rate": rate}}) for rate in (float("nan"), 0, -1, 2)},
    "share of two": json.dumps(SPEC | {"interaction_share": 2}),
    **{f"prior {prior}": json.dumps(SPEC | {"target_prior": prior}) for prior in (0, 1, -0.5, "0.4", float("nan"))},
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_spec_is_refused_in_one_line(text: str | bytes) -> None:
    with pytest.raises(FlywheelError, match=r"not a training job|is not a size|Unknown recipe|out of range") as caught:
        TrainingJob.from_json(text)
    assert "\n" not in str(caught.value)


def test_a_spec_of_layers_survives_json() -> None:
    job = TrainingJob.from_json(json.dumps(LAYERS))
    assert TrainingJob.from_json(job.to_json()) == job
    assert job.tuning == TUNING["top"]


@pytest.mark.parametrize("change", [{"variant": "all-MiniLM-L6-v2@256"}, {"target_prior": 0.4}], ids=str)
def test_jobs_that_differ_in_their_dimension_or_decision_rule_alone_share_their_layers(change: dict[str, Any]) -> None:
    wide = TrainingJob.from_json(json.dumps(LAYERS))
    other = replace(wide, **change)
    assert wide.job_id != other.job_id
    assert wide.tuning_id == other.tuning_id
    assert replace(wide, random_seed=1).tuning_id != wide.tuning_id


def test_settings_change_fields_of_a_recipe_and_nothing_else() -> None:
    usual = TUNING["full"]
    assert usual is not None
    assert tuning_recipe("full", {"lora_rank": 8, "learning_rate": 2e-5}) == replace(usual, lora_rank=8, learning_rate=2e-5)
    assert tuning_recipe("head", {}) is None
    assert head_recipe({"epochs": 3}) == HeadRecipe(epochs=3)


@pytest.mark.parametrize("changes", [{"rate": 1}, {"learning_rate": -1.0}, {"epochs": 0}, {"lora_rank": 1.5}])
def test_a_wrong_field_of_a_recipe_is_named(changes: dict[str, float]) -> None:
    with pytest.raises(FlywheelError, match=rf"The setting training\.recipes\.full is invalid: {next(iter(changes))}"):
        tuning_recipe("full", changes)
