"""Homes for tests: opened ones, with some settings changed."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from flywheel.pipeline.workspace import Workspace
from flywheel.settings import Settings, load_settings


def make_workspace(home: Path, **groups: dict[str, Any]) -> Workspace:
    """The home opened with some settings changed: `splits={"seed_test_share": 0.2}`."""
    return with_options(Workspace(load_settings(home)), **groups)


def with_options(workspace: Workspace, **groups: dict[str, Any]) -> Workspace:
    """The same home with more settings changed, checked like those of a file."""
    values = workspace.settings.model_dump(exclude_unset=True)
    for group, changes in groups.items():
        values[group] = {**values.get(group, {}), **changes}
    settings = Settings(**{name: value for name, value in values.items() if name != "home"})
    return Workspace(settings.model_copy(update={"home": workspace.home.root}), workspace.listener)


def write_a_pair(workspace: Workspace) -> Path:
    """A file with a new pair that trains: one of its questions is in the current snapshot's train."""
    known = workspace.current_snapshot().pairs("train")["text_a"].iloc[0]
    file = workspace.home.root / f"{uuid4()}.jsonl"
    file.write_text(json.dumps({"text_a": f"{known} ({uuid4()})", "text_b": known, "label": 1}))
    return file
