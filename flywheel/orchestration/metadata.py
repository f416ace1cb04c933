"""Metadata of assets: tables, pictures, and the figures of an evaluation."""

import base64
from dataclasses import asdict
from typing import Any

import dagster as dg

from flywheel.evaluation.records import Evaluation, Slice
from flywheel.evaluation.retention import Retention
from flywheel.evidence.words import interval_text


def table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue | str:
    """Rows as a table, or `none`."""
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows]) if rows else "none"


def image(title: str, png: bytes) -> dg.MarkdownMetadataValue:
    """A picture, inside Markdown."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _slice(each: Slice) -> dict[str, Any]:
    return {
        "pairs of kind": each.name, "pairs": each.n, "components": each.components, "error": each.error,
        "interval_95": interval_text(each.interval),
    }  # fmt: skip


def _kept(each: Retention) -> dict[str, Any]:
    return {
        "pairs from elsewhere": each.domain, "pairs": each.n, "untuned": each.untuned, "tuned": each.tuned,
        "left_out": each.left_out,
    }  # fmt: skip


def figures(record: Evaluation) -> dict[str, Any]:
    """What a person looks at first of an evaluation."""
    return {
        "error": record.error,
        "interval_95": interval_text(record.interval) if record.interval else f"none: {record.no_verdict}",
        "calibration_set_error": record.calibration_set_error,
        **({"own_labels_error": record.own_labels.error} if record.own_labels else {}),
        "slices": table([_slice(each) for each in record.slices]),
        "errors_by_part": {"ranking": record.parts.ranking, "threshold": record.parts.threshold, "prior": record.parts.prior},
        **{name: value for name, value in asdict(record.metrics).items() if name not in ("error", "n", "positives")},
        "mrr_at_10": record.retrieval.mrr_at_10,
        "recall_at_10": record.retrieval.recall_at_10,
        **({"retention": table([_kept(each) for each in record.retention])} if record.retention else {}),
        "test_pairs": record.metrics.n,
        **({"failed_pairs": record.failures.test} if record.failures else {}),
        "components": record.components,
        "test_id": record.test_id,
        "snapshot_id": record.snapshot_id,
        "contamination": record.contamination or "unknown",
        "findings": " ".join(found.sentence for found in record.findings) or "nothing odd",
    }
