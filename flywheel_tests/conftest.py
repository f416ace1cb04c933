"""Homes for tests: temporary, separate, with every model from local files only."""

import os
from pathlib import Path

import pytest

from flywheel.pairs.store import Store
from flywheel.settings import Settings, load_settings

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.database)
