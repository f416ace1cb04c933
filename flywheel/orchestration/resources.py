"""The one resource: the opened home that assets and sensors work on."""

from pathlib import Path

import dagster as dg
from pydantic import Field, ValidationError

from flywheel.errors import FlywheelError, one_line
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import load_settings


class WorkspaceResource(dg.ConfigurableResource[Workspace]):
    """Opens a home. Every run reads its settings again; what is set here takes their place in that run."""

    home: str = Field(description="The folder that holds all state; an absolute path.")
    random_seed: int | None = Field(default=None, description="In place of training.random_seed: redraws the training pairs.")
    interaction_share: float | None = Field(default=None, description="In place of training.interaction_share.")
    device: str | None = Field(default=None, description="In place of encoding.device: auto, cpu, cuda, cuda:N or mps.")
    run_in: str | None = Field(default=None, description="In place of compute.run_in: process or inline.")
    baseline: str | None = Field(default=None, description="In place of baseline.source: auto, openai, local or guess.")

    @classmethod
    def at(cls, root: Path) -> "WorkspaceResource":
        """The resource of the home `root`; a run that sets a value need not name it again."""

        class HomeResource(cls):  # type: ignore[valid-type, misc]  # Dagster takes defaults from the class alone
            home: str = Field(default=str(root), description="The folder that holds all state; an absolute path.")

        return HomeResource()

    def create_resource(self, context: dg.InitResourceContext) -> Workspace:
        """The workspace. Raises FlywheelError for a value that the setting would not take."""
        workspace = Workspace(load_settings(Path(self.home)))
        places = {
            "random_seed": ("training", "random_seed"),
            "interaction_share": ("training", "interaction_share"),
            "device": ("encoding", "device"),
            "run_in": ("compute", "run_in"),
            "baseline": ("baseline", "source"),
        }
        for field, (group, name) in places.items():
            if (value := getattr(self, field)) is not None:
                options = getattr(workspace.settings, group)
                try:
                    type(options).model_validate({name: value})
                except ValidationError as error:
                    said = one_line(ValueError(error.errors()[0]["msg"]))
                    raise FlywheelError(f"{field} of this run's workspace cannot be {value!r}: {said}.") from error
                workspace = workspace.with_options(group, **{name: value})
        return workspace
