"""What a step works on: the snapshot that its run began with, and the model that its cell's training made."""

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.orchestration.flywheel import Context, Flywheel
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.workspace import Workspace
from flywheel.training.model import TrainedModel

MODEL = "model"  # metadata of what was trained: the name of its model folder, or of several, separated by spaces
_ON_THE_RUNS_SNAPSHOT = ("snapshot", "finetuned_model", "retrained_model", "challengers", "baseline_scores", "leaderboard")
_RECENT_TRAININGS = 20
_MOST_MODELS = 200


def snapshot_of_run(flywheel: Flywheel, context: Context, workspace: Workspace) -> Snapshot:
    """The snapshot that an earlier step of this run made or worked on, or else the current one.

    Somebody else may take a snapshot while a run goes on; the run stays on its own.
    """
    ours = flywheel.keys(*_ON_THE_RUNS_SNAPSHOT)
    done = context.instance.get_records_for_run(context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    for record in done:
        materialisation = record.asset_materialization
        if materialisation and materialisation.asset_key in ours:
            return workspace.snapshots.load(str(materialisation.metadata["snapshot_id"].value))
    return workspace.current_snapshot()


def trained_model(training: dg.AssetKey, context: dg.AssetExecutionContext, workspace: Workspace) -> TrainedModel:
    """The model that this run trained for its cell, or else the one that the cell's last materialisation names."""
    wanted = dg.AssetRecordsFilter(asset_key=training, asset_partitions=[context.partition_key])
    records = context.instance.fetch_materializations(wanted, limit=_RECENT_TRAININGS).records
    if not records:
        raise FlywheelError(f"The cell {context.partition_key} has no trained model. Materialise its `finetuned_model` first.")
    record = next((record for record in records if record.run_id == context.run.run_id), records[0])
    (model,) = _models(record, workspace)
    return model


def models_of_run(training: dg.AssetKey, context: Context, workspace: Workspace) -> list[TrainedModel] | None:
    """What this run trained, if it did."""
    records = context.instance.fetch_materializations(training, limit=_RECENT_TRAININGS).records
    return next((_models(record, workspace) for record in records if record.run_id == context.run.run_id), None)


def models_of(training: dg.AssetKey, context: Context, workspace: Workspace) -> list[TrainedModel]:
    """What each cell's last materialisation names; without cells, the last one."""
    records = context.instance.fetch_materializations(training, limit=_MOST_MODELS).records
    newest = {record.partition_key: record for record in reversed(records)}
    return [model for record in newest.values() for model in _models(record, workspace)]


def _models(record: dg.EventLogRecord, workspace: Workspace) -> list[TrainedModel]:
    materialisation = record.asset_materialization
    assert materialisation is not None
    return [workspace.trained.load(name) for name in str(materialisation.metadata[MODEL].value).split()]
