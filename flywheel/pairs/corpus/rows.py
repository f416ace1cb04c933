"""Rows of a corpus as Arrow batches of place, id and text, whatever they were read from, checked on the way."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flywheel.errors import FlywheelError

BATCH_ROWS = 8192
# `place` is the row of a Parquet file or a table, or the line of a JSON-lines file, counted from 1.
PLACE, ID, TEXT = "place", "id", "text"


def checked(where: str, unit: str, places: pa.Array, ids: pa.Array, texts: pa.Array) -> pa.RecordBatch:
    """A batch with the columns place (int64), id (int64 or string) and text (string, null where there is none).

    `where` names the file or table, `unit` what a place is, such as "row". Raises FlywheelError for an id that is missing or
    of another type, for texts of another type, and for bytes that are no UTF-8.
    """
    ids = _as_ids(where, unit, places, ids)
    if pa.types.is_null(texts.type):
        texts = texts.cast(pa.string())
    texts = _plain(texts)
    if not _is_text(texts.type):
        raise FlywheelError(f"The texts of {where} are of type {texts.type}. Name the column that holds the texts with --text.")
    batch = pa.RecordBatch.from_arrays([places, ids, texts.cast(pa.string())], [PLACE, ID, TEXT])
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        first = places[0].as_py()
        raise FlywheelError(
            f"A text or id of {where} among the {len(batch):,} from {unit} {first:,} on is not valid UTF-8. Write the file "
            "again in UTF-8."
        ) from error
    return batch


def _as_ids(where: str, unit: str, places: pa.Array, ids: pa.Array) -> pa.Array:
    ids = _plain(ids)
    if ids.null_count:
        place = places.filter(ids.is_null())[0].as_py()
        raise FlywheelError(
            f"{unit.capitalize()} {place:,} of {where} has no id. Give every text one, or name another with --id."
        )
    if pa.types.is_integer(ids.type):
        try:
            return ids.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise FlywheelError(f"An id of {where} is larger than 64 bits hold. Write the ids as texts.") from error
    if _is_text(ids.type):
        return ids.cast(pa.string())
    raise FlywheelError(
        f"The ids of {where} are of type {ids.type}, and an id is a whole number or a text. Write them so, or name another "
        "column with --id."
    )


def _plain(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_empty(texts: pa.Array) -> pa.Array:
    """Which texts are missing or hold white space alone."""
    return pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), True)


def after(batches: Iterator[pa.RecordBatch], skip: int) -> Iterator[pa.RecordBatch]:
    """The batches without their first `skip` rows."""
    for batch in batches:
        if skip < len(batch):
            yield batch.slice(skip)
        skip = max(0, skip - len(batch))
