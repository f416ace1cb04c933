"""A model folder in MLflow: a run with its files, a version of a registered model, and an alias."""

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from flywheel.errors import FlywheelError, needs_extra, one_line
from flywheel.models.exports.folder import copy_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"


def log_to_mlflow(folder: Path, name: str, figures: Mapping[str, float], tags: Mapping[str, str], is_champion: bool) -> str:
    """Log a model folder at `MLFLOW_TRACKING_URI` and register it as the next version of `name`.

    The champion's version gets the alias `champion`. Returns the address that downloads it. Raises FlywheelError when no
    address is set and when the server refuses or is not reached.
    """
    with needs_extra("mlflow", "Export to MLflow"):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    place = os.environ.get("MLFLOW_TRACKING_URI")
    if not place:
        raise FlywheelError("MLFLOW_TRACKING_URI is not set. Set it to your MLflow server's address, such as http://host:5000.")
    client = MlflowClient(place, os.environ.get("MLFLOW_REGISTRY_URI", place))
    try:
        with redirect_stdout(sys.stderr):  # MLflow prints addresses of its pages
            version = _log(client, folder, name, figures, tags)
            if is_champion:
                client.set_registered_model_alias(name, ALIAS, version)
    except MlflowException as error:
        raise FlywheelError(
            f"MLflow at {place} refused the model ({one_line(error)}). Check MLFLOW_TRACKING_URI and your rights there."
        ) from error
    return f"models:/{name}@{ALIAS}" if is_champion else f"models:/{name}/{version}"


def _log(client: "MlflowClient", folder: Path, name: str, figures: Mapping[str, float], tags: Mapping[str, str]) -> str:
    """The version that is made."""
    experiment = client.get_experiment_by_name(name)
    run = client.create_run(
        experiment.experiment_id if experiment else client.create_experiment(name), run_name=folder.name, tags=dict(tags)
    )
    for key, value in figures.items():
        client.log_metric(run.info.run_id, key, value)
    with TemporaryDirectory() as copy:
        copy_model(folder, Path(copy))
        client.log_artifacts(run.info.run_id, copy, "model")
    client.set_terminated(run.info.run_id)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    made = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, tags=dict(tags))
    return str(made.version)
