"""Connections to the database, and what makes two texts the same question, stated once, in SQL."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


# The first characters of a batch's id are its content's, the others those of the settings it is read under.
CONTENT_ID = 16
# A line of a content, under whatever settings it is read: what is kept of one that was forgotten.
LINE_OF_CONTENT = f"CAST(md5(concat(left(batch_id, {CONTENT_ID}), '|line|', line)) AS UUID)"

# `clean`: NFC, control characters and runs of white space made one blank, ends stripped.
# `question_of`: equal for clean texts that differ only in case or invisible format characters (case by the simple mapping of
# Unicode, sharp s as ss). `pair_of`: of two questions, the lesser first. Ids are 128-bit MD5, a UUID in the database.
MACROS = r"""
CREATE OR REPLACE TEMP MACRO clean(t) AS
    CASE WHEN regexp_matches(t, '[^\x20-\x7e]|  |^ | $')
    THEN trim(regexp_replace(nfc_normalize(t), '[\p{Cc}\p{Z}]+', ' ', 'g')) ELSE t END;
CREATE OR REPLACE TEMP MACRO visible(t) AS
    CASE WHEN strlen(t) <> length(t) AND regexp_matches(t, '\p{Cf}')
    THEN clean(regexp_replace(t, '\p{Cf}', '', 'g')) ELSE t END;
CREATE OR REPLACE TEMP MACRO is_blank(t) AS NOT regexp_matches(t, '[!-~]') AND NOT regexp_matches(t, '[^\p{C}\p{Z}]');
CREATE OR REPLACE TEMP MACRO question_of(t) AS
    CAST(md5(CASE WHEN strlen(t) = length(t) THEN lower(t) ELSE replace(lower(upper(visible(t))), 'ß', 'ss') END) AS UUID);
CREATE OR REPLACE TEMP MACRO pair_of(a, b) AS CAST(md5(concat(a, '|', b)) AS UUID);
CREATE OR REPLACE TEMP MACRO hex_of(id) AS replace(CAST(id AS VARCHAR), '-', '');
"""

# Every spelling of every question that somebody used: the text of a question is the least of them.
SPELLINGS = """(SELECT question_a AS question, text_a AS text FROM observations
                UNION ALL SELECT question_b, text_b FROM observations)"""


def quoted(text: object) -> str:
    """A path or a text as SQL writes it between single quotes."""
    return str(text).replace("'", "''")


def connect(
    path: str = ":memory:", memory_limit: str = "512MB", temp_directory: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """A connection with bounded memory, and with the macros that say what a question is.

    What does not fit into memory goes to `temp_directory`: by default beside the file, or to the system's folder for
    temporary files; it is removed when the connection closes.
    """
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": memory_limit, "preserve_insertion_order": False}
    if temp_directory is None and path == ":memory:":
        temp_directory = Path(tempfile.gettempdir(), f"flywheel-{os.getpid()}.tmp")
    if temp_directory is not None:
        config["temp_directory"] = str(temp_directory)
    connection = duckdb.connect(path, config=config)
    connection.execute("SET enable_progress_bar = false")  # it would be drawn on standard output, amid the JSON of a verb
    # DuckDB 1.5 takes two joins that differ only in the columns they give for the same one: wrong rows, no error.
    connection.execute("SET disabled_optimizers = 'common_subplan'")
    connection.execute(MACROS)
    return connection
