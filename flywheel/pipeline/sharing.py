"""What a home brings to a root that it is given later, or that lost it: models, evaluation records, vectors."""

import logging

from flywheel.errors import FlywheelError, TryAgainError
from flywheel.models.cache import share
from flywheel.models.vectors import FEATURES_NAME
from flywheel.pipeline.workspace import Workspace
from flywheel.training.model import finished_models

log = logging.getLogger(__name__)


def bring(workspace: Workspace) -> None:
    """Upload what this home made and the root has not; where it has all, that takes a listing or two.

    A damaged model is left out with a warning.
    """
    root = workspace.root
    if root.uri is None:
        return
    there = workspace.trained.shared_names()
    for folder in finished_models(workspace.home.models):
        if folder.name not in there:
            log.info("Uploading the model %s to %s.", folder.name, root.models)
            try:
                workspace.trained.share(workspace.trained.load(folder.name))
            except TryAgainError:
                raise
            except FlywheelError as error:
                log.warning("A model is left out: %s", error)
    workspace.records.push_all()
    for folder in sorted(workspace.home.cache.glob("*")):
        made = FEATURES_NAME.fullmatch(folder.name)
        if made is None or (made["dtype"] and not made["layer"]):  # an API's, or vectors of this version
            share(folder, f"{root.cache}/{folder.name}")
