"""Forgetting everywhere: what a user, a batch or a text left, in the store, snapshots, caches and kept deliveries."""

from dataclasses import dataclass

from flywheel.pairs.forget import Selection, finish, remove_deliveries
from flywheel.pairs.forget import forget as forget_pairs
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot
from flywheel.pipeline.cleanup import forget_texts, remove_layers, texts_of_pairs
from flywheel.pipeline.workspace import Workspace
from flywheel.training.starts import direction_pairs


@dataclass(frozen=True)
class ForgetReport:
    """What `forget` deleted, and which models were trained or calibrated on it; `unknown` are those that cannot be checked,
    because the snapshot they were trained on is deleted or their folder cannot be read.
    """

    observations: int
    pairs: int
    quarantined: int
    models: tuple[str, ...]
    unknown: tuple[str, ...]
    champion: bool
    snapshots: tuple[str, ...]
    deliveries: tuple[str, ...]


def forget(workspace: Workspace, selection: Selection) -> ForgetReport:
    """Delete what a selection holds for good: from store, snapshots, caches and the deliveries kept in the inbox."""
    forgotten = forget_pairs(workspace.store, selection)
    snapshots = workspace.snapshots.holding(forgotten.pair_ids)
    models, unknown = models_trained_on(workspace, snapshots, forgotten.pair_ids)
    forget_texts(workspace, texts_of_pairs(snapshots, forgotten.pair_ids))
    remove_layers(workspace, set(snapshots))
    for snapshot_id in snapshots:
        workspace.snapshots.remove(snapshot_id)
    deliveries = remove_deliveries(workspace.home.inbox, forgotten.batch_ids)
    finish(workspace.store)
    champion = workspace.registry.champion()
    return ForgetReport(
        observations=forgotten.observations,
        pairs=len(forgotten.pair_ids),
        quarantined=forgotten.quarantined,
        models=tuple(models),
        unknown=tuple(unknown),
        champion=champion is not None and champion.model in models,
        snapshots=tuple(snapshots),
        deliveries=tuple(deliveries),
    )


def models_trained_on(
    workspace: Workspace, snapshots: dict[str, Snapshot], pair_ids: frozenset[str]
) -> tuple[list[str], list[str]]:
    """The model folders that hold something of one of these pairs, and those that cannot be checked."""
    models, unknown = [], []
    for name, model in workspace.trained.records():
        if model is None:
            unknown.append(name)
            continue
        job = model.job
        snapshot = snapshots.get(job.snapshot_id)
        if snapshot is not None:
            used = [
                # Of several folds' heads, each was trained on other pairs of a numbered size.
                snapshot.training_pairs(ALL if snapshot.is_cross_fitted else job.size, job.random_seed, job.interaction_share),
                direction_pairs(snapshot),
                snapshot.pairs("calibration"),
            ]
            if any(not pair_ids.isdisjoint(frame["pair_id"]) for frame in used):
                models.append(name)
        elif not (workspace.home.snapshots / job.snapshot_id).exists():
            unknown.append(name)
    return models, unknown
