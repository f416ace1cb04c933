"""The one resource: which home the assets work on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field

from flywheel.errors import FlywheelError
from flywheel.orchestration.instance import PROCESS_TAG, process_tag
from flywheel.settings import Settings, load_settings


class Workbench(dg.ConfigurableResource):
    """The home whose settings the assets follow; read anew by every run."""

    home: str
    overrides: dict[str, str] = Field(default={}, description="Settings that differ from flywheel.toml and environment.")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Say in the run's tags which process it is, so that a killed one can be told from a slow one."""
        if context.run is not None and context.instance is not None:
            context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: process_tag()})

    def settings(self) -> Settings:
        """The settings of the home."""
        return load_settings(Path(self.home)).model_copy(update=self.overrides)


@contextmanager
def explained() -> Iterator[None]:
    """Show a FlywheelError in the UI as its one sentence, and do not retry what would fail again."""
    try:
        yield
    except FlywheelError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
