"""What a step works on: the snapshot that its run began with, and the model that its cell's training made."""

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.workspace import Workspace
from flywheel.training.model import TrainedModel

MODEL = "model"  # metadata of a trained cell: the name of its model folder
_TRAINING = dg.AssetKey("finetuned_model")
_ON_THE_RUNS_SNAPSHOT = {"snapshot", "finetuned_model", "baseline_scores", "leaderboard"}
_RECENT_TRAININGS = 20


def snapshot_of_run(context: dg.AssetExecutionContext, workspace: Workspace) -> Snapshot:
    """The snapshot that an earlier step of this run made or worked on, or else the current one.

    Somebody else may take a snapshot while a run goes on; the run stays on its own.
    """
    done = context.instance.get_records_for_run(context.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    for record in done:
        materialisation = record.asset_materialization
        if materialisation and materialisation.asset_key.path[-1] in _ON_THE_RUNS_SNAPSHOT:
            return workspace.snapshots.load(str(materialisation.metadata["snapshot_id"].value))
    return workspace.current_snapshot()


def trained_model(context: dg.AssetExecutionContext, workspace: Workspace) -> TrainedModel:
    """The model that this run trained for its cell, or else the one that the cell's last materialisation names."""
    wanted = dg.AssetRecordsFilter(asset_key=_TRAINING, asset_partitions=[context.partition_key])
    records = context.instance.fetch_materializations(wanted, limit=_RECENT_TRAININGS).records
    if not records:
        raise FlywheelError(f"The cell {context.partition_key} has no trained model. Materialise its `finetuned_model` first.")
    record = next((record for record in records if record.run_id == context.run_id), records[0])
    materialisation = record.asset_materialization
    assert materialisation is not None
    return TrainedModel.load(workspace.home.models / str(materialisation.metadata[MODEL].value))
