"""The one resource: the opened home that assets and sensors work on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.orchestration.instance import PROCESS_TAG, process_tag
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import load_settings


class WorkspaceResource(dg.ConfigurableResource[Workspace]):
    """Opens a home; its settings are read again by every run."""

    home: str

    def create_resource(self, context: dg.InitResourceContext) -> Workspace:
        """The workspace. The run's tags then say which process it is, so that a killed run is not taken for a slow one."""
        if context.run is not None and context.instance is not None:
            context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: process_tag()})
        return Workspace(load_settings(Path(self.home)))


@contextmanager
def explained() -> Iterator[None]:
    """Show a FlywheelError in the UI as its one sentence, and do not retry what would fail again."""
    try:
        yield
    except FlywheelError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
