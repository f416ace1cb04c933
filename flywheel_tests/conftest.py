"""Homes for tests: temporary, separate, with every model from local files only."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flywheel.models.catalogue import CATALOGUE
from flywheel.models.encoder import load_encoder
from flywheel.pairs.store.duckdb_file import Store
from flywheel.settings import Settings, load_settings
from flywheel_tests.helpers.endpoint import endpoint, plain_environment, secret_key

__all__ = ["endpoint", "plain_environment", "secret_key"]  # fixtures of every test that asks for them

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

os.environ["HF_HUB_OFFLINE"] = "1"
for name in [name for name in os.environ if name.startswith("FLYWHEEL_") or name in ("DAGSTER_HOME", "OPENAI_API_KEY")]:
    del os.environ[name]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.database)


def flywheel(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flywheel.cli", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **environment}, timeout=600, check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def encoder() -> "SentenceTransformer":
    """MiniLM on the CPU, in float32; loaded once for all that only read it."""
    return load_encoder(CATALOGUE["all-MiniLM-L6-v2"], {}, "cpu")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A home after one `flywheel demo`, and what the demo printed. Tests that change the home copy it (`copy_home`)."""
    home = tmp_path_factory.mktemp("demo") / "home"
    return home, flywheel("demo", "--home", home)


def copy_home(home: Path, target: Path) -> Path:
    """A copy of a home that keeps the hard links between its model folders."""
    subprocess.run(["cp", "-a", home, target], check=True)
    return target
