"""What every verb shares: the home it works on, and how it prints JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flywheel.orchestration.instance import Session
    from flywheel.pipeline.workspace import Workspace
    from flywheel.settings import Settings

Home = Annotated[Path | None, typer.Option("--home", help="Folder that holds all state (default: data/).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def read_settings(home: Path | None) -> "Settings":
    """The settings of the home that was named; variables that look like settings and are none are named once."""
    from flywheel.settings import load_settings, warn_of_other_variables

    settings = load_settings(home)
    warn_of_other_variables()
    return settings


def open_workspace(home: Path | None) -> "Workspace":
    """The home without Dagster, for verbs that read or that no run records."""
    from flywheel.pipeline.workspace import Workspace

    workspace = Workspace(read_settings(home))
    workspace.home.refuse_others_files()
    return workspace


@contextmanager
def open_home(home: Path | None) -> "Iterator[Session]":
    """The home at work, with Dagster's own lines off the terminal."""
    from flywheel.orchestration.instance import open_session
    from flywheel.orchestration.materialise import silence_dagster

    settings = read_settings(home)
    silence_dagster()
    with open_session(settings) as session:
        yield session


def print_json(value: Any) -> None:
    """One document on stdout; what JSON does not know is printed as text."""
    print(json.dumps(value, indent=1, default=str))
