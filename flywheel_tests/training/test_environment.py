"""A training is one process on one device, whatever a launcher has left in the environment."""

import os
import subprocess
from pathlib import Path

import pytest

from flywheel.compute.launch import choose_compute
from flywheel.compute.options import ComputeOptions
from flywheel.compute.places import Places
from flywheel.compute.process import training_environment
from flywheel.training.environment import only_what_training_needs
from flywheel.training.progress import Progress
from flywheel_tests.conftest import copy_home, flywheel
from flywheel_tests.helpers.clumps import World, clump_world
from flywheel_tests.helpers.leftovers import EVERY_LEFTOVER

NEEDED = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "AWS_REGION": "us-east-1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def _leftovers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**EVERY_LEFTOVER, **NEEDED, "OPENAI_API_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=30, evaluation={"min_components": 5})


@pytest.mark.usefixtures("_leftovers")
def test_inline_training_sees_what_a_training_process_is_given(world: World) -> None:
    seen: list[dict[str, str]] = []

    def look(event: Progress) -> None:
        seen.append(dict(os.environ))

    before = dict(os.environ)
    places = Places(world.snapshot.folder, world.workspace.home.models, world.workspace.home.cache)
    choose_compute(ComputeOptions(run_in="inline"))(world.job(), places, world.workspace.settings.encoding, look)
    assert seen
    expected = training_environment(before, "cpu")
    for each in seen:  # libraries add some of their own
        assert {name: each[name] for name in each.keys() & before.keys()} == expected
    assert NEEDED.items() <= seen[0].items()
    assert not {*EVERY_LEFTOVER, "OPENAI_API_KEY"} & seen[0].keys()
    assert before.items() <= os.environ.items()


@pytest.mark.usefixtures("_leftovers")
def test_what_a_library_sets_for_one_training_is_gone_after_it() -> None:
    before = dict(os.environ)
    with pytest.raises(ValueError, match="as it was"), only_what_training_needs():  # noqa: PT012
        os.environ.update(ACCELERATE_MIXED_PRECISION="bf16", LOCAL_RANK="5")
        raise ValueError("as it was")
    assert dict(os.environ) == before


@pytest.mark.long
@pytest.mark.slow
def test_the_recipe_top_trains_beside_the_leftovers_of_launchers(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    command = ["train", "all-MiniLM-L6-v2@256", "100", "--recipe", "top", "--home", copy_home(demo[0], tmp_path / "home")]
    done = flywheel(*command, **EVERY_LEFTOVER)  # a training that waits for others is ended after ten minutes
    assert done.returncode == 0, done.stderr
    assert "model in" in done.stdout
