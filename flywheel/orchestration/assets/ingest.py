"""The group `ingest`: pairs into the store, and out of it as a snapshot."""

import textwrap
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from flywheel.orchestration import checks, columns
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.lineage import snapshot_of_run
from flywheel.orchestration.metadata import rounded, table
from flywheel.pairs.inbox import OnDeliveries, rejected_deliveries
from flywheel.pairs.snapshots.leak_probe import probe_leaks
from flywheel.pairs.store.content import observations_id, pairs_id
from flywheel.pairs.store.contradictions import Contradiction, find_contradictions
from flywheel.pairs.store.labels import count_pairs
from flywheel.pairs.store.overview import newest_quarantine, overview

_STORE, _PAIRS, _SNAPSHOT = "1", "1", "1"
_TOLD = 20  # times at most
_TEXT_SHOWN = 70
_SCHEMA = "dagster/column_schema"


def ingest_assets(flywheel: Flywheel, fresh_days: float | None) -> list[dg.AssetsDefinition]:
    """The assets of this group; `fresh_days` is how long users may leave nothing before Dagster warns, None for ever."""
    return [_seed_pairs(flywheel), _interaction_pairs(flywheel, fresh_days), _pairs(flywheel), _snapshot(flywheel)]


def _seed_pairs(flywheel: Flywheel) -> dg.AssetsDefinition:
    @flywheel.asset(
        "seed_pairs", "ingest", kinds={"duckdb"}, pool=flywheel.pools.store, code_version=_STORE,
        metadata={_SCHEMA: columns.OBSERVATIONS},
    )  # fmt: skip
    def seed_pairs(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Seed pairs (the starter set or Quora duplicate questions), ingested into DuckDB once."""
        from flywheel.pipeline.ingest import ingest_seed

        with flywheel.at_work(context) as workspace:
            report = ingest_seed(workspace)
            version = dg.DataVersion(observations_id(workspace.store, "seed"))
        if report is None:
            return dg.MaterializeResult(metadata={"source": "none (setting `pairs.seed_pairs`)"}, data_version=version)
        rows = report.lines - report.quarantined
        return dg.MaterializeResult(metadata={**asdict(report), "dagster/row_count": rows}, data_version=version)

    return seed_pairs


def _interaction_pairs(flywheel: Flywheel, fresh_days: float | None) -> dg.AssetsDefinition:
    fresh = None
    if fresh_days is not None:
        fresh = dg.FreshnessPolicy.time_window(timedelta(days=fresh_days), warn_window=timedelta(days=fresh_days / 2))

    @flywheel.asset(
        "interaction_pairs", "ingest", kinds={"duckdb"}, pool=flywheel.pools.store, code_version=_STORE,
        checks=["all_lines_kept", "embargo_share"], freshness_policy=fresh, metadata={_SCHEMA: columns.OBSERVATIONS},
    )  # fmt: skip
    def interaction_pairs(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """What users left behind: the finished files of the inbox, ingested into DuckDB."""
        from flywheel.pipeline.ingest import ingest_inbox, unaccounted_lines

        with flywheel.at_work(context) as workspace:
            summary = ingest_inbox(workspace, _progress(context))
            wrong = unaccounted_lines(workspace, summary)
            overall = overview(workspace.store)
            version = dg.DataVersion(observations_id(workspace.store, "interaction"))
        for sentence in summary.rejected:
            context.log.warning(sentence)
        counts = {k: v for k, v in asdict(summary).items() if isinstance(v, int)}
        return dg.MaterializeResult(
            metadata={
                **counts,
                "files": table([{k: v for k, v in asdict(f).items() if k != "batch_id"} for f in summary.files]),
                "rejected_files": table([{"file": sentence} for sentence in summary.rejected]),
                "by_source_and_day": table([{**asdict(day), "day": str(day.day)} for day in overall.days]),
                "quarantine_reasons": table([{"reason": reason, "lines": lines} for reason, lines in overall.reasons]),
            },
            check_results=[checks.all_lines_kept(wrong, len(summary.files)), checks.embargo_share(overall.embargo)],
            data_version=version,
        )

    return interaction_pairs


def _progress(context: dg.AssetExecutionContext) -> OnDeliveries:
    """Says in the run's log how many files are done, a few times in all."""

    def tell(done: int, of: int) -> None:
        if of > 1 and (done == of or done % max(1, of // _TOLD) == 0):
            context.log.info(f"{done:,} of {of:,} deliveries are taken in")

    return tell


def _pairs(flywheel: Flywheel) -> dg.AssetsDefinition:
    @flywheel.asset(
        "pairs", "ingest", "seed_pairs", "interaction_pairs", kinds={"duckdb"}, code_version=_PAIRS,
        checks=["label_conflicts", "contradictory_triangles"], metadata={_SCHEMA: columns.PAIRS},
    )  # fmt: skip
    def pairs(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Observations added up to labelled pairs, each with its split."""
        with flywheel.at_work(context) as workspace:
            counts = count_pairs(workspace.store)
            contradictions = find_contradictions(workspace.store)
            splits = overview(workspace.store).splits
            version = dg.DataVersion(pairs_id(workspace.store))
        return dg.MaterializeResult(
            metadata={
                **asdict(counts),
                "dagster/row_count": counts.pairs,
                "splits": table([asdict(split) for split in splits]),
                "contradictions": table([_contradiction(worst) for worst in contradictions.worst]),
                "contradictory_share": rounded(contradictions.share),
            },
            check_results=[checks.label_conflicts(counts), checks.contradictory_triangles(contradictions)],
            data_version=version,
        )

    return pairs


def _contradiction(worst: Contradiction) -> dict[str, Any]:
    """A row that can be read: texts first, and not the whole of long ones."""
    texts = {"called different": worst.text_a, "from": worst.text_b, "both called the same as": worst.through}
    shown = {name: textwrap.shorten(text, _TEXT_SHOWN, placeholder=" …") for name, text in texts.items()}
    return {"pairs": worst.pairs, **shown}


class SnapshotConfig(dg.Config):
    """Run configuration of a snapshot."""

    new_test: bool = Field(False, description="Draw new calibration and test pairs first; the old ones then train.")


def _snapshot(flywheel: Flywheel) -> dg.AssetsDefinition:
    @flywheel.asset(
        "snapshot", "ingest", "pairs", kinds={"parquet"}, pool=flywheel.pools.store, code_version=_SNAPSHOT,
        checks=["no_leakage", "prior_shift"], metadata={_SCHEMA: columns.SNAPSHOT},
    )  # fmt: skip
    def snapshot(context: dg.AssetExecutionContext, config: SnapshotConfig) -> dg.MaterializeResult:
        """An immutable export of train, calibration and test; what training and evaluation read."""
        from flywheel.pipeline.ingest import take_snapshot

        with flywheel.at_work(context) as workspace:
            taken = take_snapshot(workspace, config.new_test)
        return dg.MaterializeResult(
            metadata={
                "snapshot_id": taken.snapshot_id,
                "test_id": taken.test_id,
                "train_pairs": taken.train.pairs,
                "calibration_pairs": taken.calibration.pairs,
                "test_pairs": taken.test.pairs,
                "interaction_pairs": taken.train.interaction,
                "judging_pairs": taken.judging.pairs,
                **({"folds": taken.folds} if taken.is_cross_fitted else {}),
                **({"note": taken.note} if taken.note else {}),
                **({"missing": taken.lack} if taken.lack else {}),
                "folder": dg.MetadataValue.path(str(taken.folder)),
                "dagster/uri": str(taken.folder),
                "dagster/row_count": taken.train.pairs + taken.calibration.pairs + taken.test.pairs,
            },
            check_results=[checks.no_leakage(taken), checks.prior_shift(taken)],
            data_version=dg.DataVersion(taken.snapshot_id),
        )

    return snapshot


def rejected_files(flywheel: Flywheel) -> dg.AssetChecksDefinition:
    """The check that is yellow until somebody has dealt with what could not be read."""

    @flywheel.check("interaction_pairs", "rejected_files")
    def rejected_files(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with flywheel.at_work(context) as workspace:
            return checks.rejected_files(rejected_deliveries(workspace.home.inbox), workspace.home.inbox)

    return rejected_files


def quarantine_share(flywheel: Flywheel) -> dg.AssetChecksDefinition:
    """The check that is yellow while much of what comes in is quarantined."""

    @flywheel.check("interaction_pairs", "quarantine_share")
    def quarantine_share(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with flywheel.at_work(context) as workspace:
            return checks.quarantine_share(newest_quarantine(workspace.store), workspace.settings.pairs.max_quarantined)

    return quarantine_share


def leak_probe(flywheel: Flywheel) -> dg.AssetChecksDefinition:
    """The leak probe, of the run's snapshot or the current one."""

    @flywheel.check("snapshot", "leak_probe")
    def leak_probe(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with flywheel.at_work(context) as workspace:
            snapshot = snapshot_of_run(flywheel, context, workspace)
            return checks.leak_probe(probe_leaks(snapshot, workspace.settings.storage.memory_limit))

    return leak_probe
