"""Metadata of assets: tables, and the figures of an evaluation. No pictures: what an event holds must be small."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg

from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.records import Evaluation, Slice
from flywheel.evaluation.retention import Retention
from flywheel.evidence.page import Section, Table, Text
from flywheel.evidence.words import interval_text, percent

_DIGITS = 4


def rounded(value: Any) -> Any:
    """Numbers as a person reads them, in dicts and lists too."""
    match value:
        case float():
            return round(value, _DIGITS)
        case dict():
            return {key: rounded(each) for key, each in value.items()}
        case list():
            return [rounded(each) for each in value]
        case _:
            return value


def table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue | str:
    """Rows as a table, or `none`."""
    return dg.MetadataValue.table([dg.TableRecord(rounded(row)) for row in rows]) if rows else "none"


def section_metadata(name: str, section: Section) -> dict[str, Any]:
    """A section's table, shown where it is, and its paragraphs as `NAME_in_words`."""
    tables = [block for block in section.blocks if isinstance(block, Table) and block.rows]
    words = " ".join(block.text for block in section.blocks if isinstance(block, Text))
    rows = [_narrow(dict(zip(each.columns, row, strict=True))) for each in tables for row in each.rows]
    return {**({name: table(rows)} if rows else {}), f"{name}_in_words": words}


def _narrow(row: dict[str, str]) -> dict[str, str]:
    """An interval in the column of its error: names break at hyphens, or the table runs off the page, where it is wide."""
    if not {"error", "95 % interval"} <= row.keys():
        return row
    rest = {name: value for name, value in row.items() if name not in ("error", "95 % interval")}
    interval = "" if row["95 % interval"] == "none" else f" ({row['95 % interval']})"
    return {"model": rest.pop("model"), "train pairs": rest.pop("train pairs"), "error (95 %)": row["error"] + interval, **rest}


def errors_by_size(board: Leaderboard) -> dg.TableMetadataValue | str:
    """The error rate of every trained cell: a row for each size, a column for each variant, and for each recipe but head."""
    errors: dict[str, dict[str, str]] = {}
    for row in board.trained:
        recipe = "" if row.recipe == "head" else f", {row.recipe}"
        errors.setdefault(str(row.size), {})[row.variant + recipe] = percent(row.error)
    columns = sorted({column for cells in errors.values() for column in cells})
    sizes = sorted(errors, key=lambda size: (not size.isdecimal(), int(size) if size.isdecimal() else 0))
    return table([{"size": size, **{column: errors[size].get(column, "-") for column in columns}} for size in sizes])


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


def figures(record: Evaluation, beside: Mapping[str, Evaluation] | None = None) -> dict[str, Any]:
    """What a person looks at first of an evaluation, with the errors of those `beside` it and how far it lies below them."""
    compared: dict[str, Any] = {}
    for name, other in (beside or {}).items():
        compared[f"error_{name}"] = other.error
        compared[f"points_below_{name}"] = round(100 * (other.error - record.error), 2)
    return rounded(_figures(record, compared))


def _figures(record: Evaluation, compared: dict[str, Any]) -> dict[str, Any]:
    return {
        "error": record.error,
        **compared,
        **({"error_low": record.interval.low, "error_high": record.interval.high} if record.interval else {}),
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
