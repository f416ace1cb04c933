"""The spec of a training job: its JSON, its identity, and what is refused before anything is trained."""

import json
from dataclasses import replace
from typing import Any

import pytest

from flywheel.errors import FlywheelError
from flywheel.training.job import HeadRecipe, TrainingJob

JOB = TrainingJob("all-MiniLM-L6-v2@384", "100", "head", 0, 0.0, "snapshot", "weights", HeadRecipe())
OTHERS = [
    *({"variant": "all-MiniLM-L6-v2@256"}, {"size": "all"}, {"random_seed": 1}, {"interaction_share": 0.5}),
    *({"snapshot_id": "s"}, {"weights": "w"}, {"recipe": "other"}),
    *({"head": replace(JOB.head, **{name: getattr(JOB.head, name) / 2})} for name in ("learning_rate", "ranking_scale")),
    *(
        {"head": replace(JOB.head, **{name: getattr(JOB.head, name) * 2})}
        for name in ("epochs", "batch_size", "ranking_weight")
    ),
]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_every_field_of_a_spec_counts_in_its_id(change: dict[str, Any]) -> None:
    assert replace(JOB, **change).job_id != JOB.job_id


def test_a_spec_survives_json_and_equal_specs_share_an_id() -> None:
    shuffled = json.dumps(dict(reversed(json.loads(JOB.to_json()).items())), indent=2)
    assert TrainingJob.from_json(JOB.to_json()) == JOB
    assert TrainingJob.from_json(shuffled).job_id == JOB.job_id == TrainingJob.from_json(shuffled.encode()).job_id


SPEC = json.loads(JOB.to_json())
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
    "unknown recipe": json.dumps(SPEC | {"recipe": "full"}),
    "seed in words": json.dumps(SPEC | {"random_seed": "0"}),
    "no epochs": json.dumps(SPEC | {"head": {"epochs": 0}}),
    "no batch": json.dumps(SPEC | {"head": {"batch_size": 0}}),
    "rate in words": json.dumps(SPEC | {"head": {"learning_rate": "fast"}}),
    **{f"rate {rate}": json.dumps(SPEC | {"head": {"learning_rate": rate}}) for rate in (float("nan"), 0, -1, 2)},
    "share of two": json.dumps(SPEC | {"interaction_share": 2}),
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_spec_is_refused_in_one_line(text: str | bytes) -> None:
    with pytest.raises(FlywheelError, match=r"not a training job|is not a size|no recipe") as caught:
        TrainingJob.from_json(text)
    assert "\n" not in str(caught.value)
