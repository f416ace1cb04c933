"""The package from outside: what an installed wheel holds, the names for notebooks, and packages that are extras."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import flywheel
from flywheel.errors import FlywheelError
from flywheel.models.api.vectors import ApiVectors
from flywheel.pairs.events.redaction import Redactor
from flywheel.training.job import TUNING
from flywheel.training.progress import ignore_progress
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import World, clump_world

PROJECT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_installed_without_the_sources_runs_the_demo(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, PROJECT]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("flywheel-*.whl")
    packed = {name.partition("/")[0].partition("-")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert packed == {"flywheel"}, "neither tests nor deployment files"
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True)
    # Every other package is the test environment's; its own finder of flywheel's sources is not among them.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))

    def run(*arguments: str | Path) -> str:
        command = [python, *arguments]
        environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment).stdout

    assert run("-c", "import flywheel; print(flywheel.__file__)").strip() == str(site / "flywheel" / "__init__.py")
    assert "Champion:" in run("-m", "flywheel.cli", "demo", "--home", tmp_path / "home")


def test_a_notebook_finds_its_names_and_no_others() -> None:
    assert {name: getattr(flywheel, name).__name__ for name in flywheel.__all__} == {name: name for name in flywheel.__all__}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = flywheel.nonsense


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("extras"), clumps=200, evaluation={"min_components": 20})


def test_a_package_that_only_one_feature_needs_is_named_with_its_extra(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("openai", "phonenumbers", "stdnum.luhn", "accelerate"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FlywheelError, match=r"needs the package openai\. .* 'flywheel\[openai\]'"):
        ApiVectors("text-embedding-3-small", 4, "http://127.0.0.1:9/v1", "sk-key", tmp_path).fill(["a"])
    for kind in ("phone", "card"):
        with pytest.raises(FlywheelError, match=rf"Redacting {kind} numbers needs the package \w+\. .* 'flywheel\[redact\]'"):
            Redactor([kind])
    job = world.job(recipe="top", tuning=TUNING["top"], dims=(32,))
    with pytest.raises(FlywheelError, match=r"recipe top needs the package accelerate\. .* 'flywheel\[tune\]'"):
        train(job, world.snapshot, world.vectors, tmp_path / "models", ignore_progress)
