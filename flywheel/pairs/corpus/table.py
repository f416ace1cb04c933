"""Corpora in a table of a DuckDB file, and the search for ids that occur twice, which needs no memory for all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from flywheel.errors import FlywheelError, explain_disk_errors, one_line
from flywheel.files import scratch_folder
from flywheel.pairs.corpus.rows import BATCH_ROWS, ID, PLACE, after, checked
from flywheel.pairs.store.holder import holder_of


class Twice(NamedTuple):
    """An id that occurs more than once, and where it stands first and last."""

    id: int | str
    first: str
    last: str


def table_columns(path: Path, table: str) -> list[str]:
    """The columns of a table that is there."""
    with _opened(path) as connection:
        return [name for name, *_ in connection.execute(f"DESCRIBE {_name(table)}").fetchall()]


def tables_of(path: Path) -> list[str]:
    """The tables and views of a DuckDB file."""
    with _opened(path) as connection:
        found = connection.execute("SELECT table_name FROM information_schema.tables ORDER BY 1").fetchall()
    return [name for (name,) in found]


def table_batches(path: Path, table: str, id_column: str, text_column: str, skip: int = 0) -> Iterator[pa.RecordBatch]:
    """The rows of a table after the first `skip`, in the table's order, as `checked` gives them."""
    with _opened(path) as connection:
        columns = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {_name(table)}").fetchall()}
        missing = [name for name in (id_column, text_column) if name not in columns]
        if missing:
            raise FlywheelError(
                f"Table {table} of {path} has no column {missing[0]!r}; it has {', '.join(columns)}. Name others with --id and "
                "--text."
            )
        as_text = "::VARCHAR" if columns[id_column] == "UUID" else ""
        query = f"SELECT {_name(id_column)}{as_text} AS i, {_name(text_column)} AS t FROM {_name(table)}"
        place = 1 + skip
        for batch in after(iter(connection.execute(query).to_arrow_reader(BATCH_ROWS)), skip):
            places = pa.array(range(place, place + len(batch)), pa.int64())
            place += len(batch)
            yield checked(f"table {table} of {path}", "row", places, batch.column("i"), batch.column("t"))


class IdCheck:
    """Ids in a database of their own on disk, so that those that occur twice are found in bounded memory."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._made = False

    def add(self, piece: int, batch: pa.RecordBatch) -> None:
        """Note the ids of a batch, whose piece of the corpus has a number."""
        some = pa.table({"piece": pa.array([piece] * len(batch), pa.int32()), PLACE: batch[PLACE], ID: batch[ID]})
        self._connection.register("new_ids", some)
        self._connection.execute(
            "INSERT INTO ids SELECT * FROM new_ids" if self._made else "CREATE TABLE ids AS SELECT * FROM new_ids"
        )
        self._connection.unregister("new_ids")
        self._made = True

    def twice(self, pieces: list[str], unit: str) -> tuple[int, Twice | None]:
        """How many ids occur more than once, and the one of them that comes first."""
        if not self._made:
            return 0, None
        query = (
            "WITH more AS (SELECT id, min((piece, place)) AS a, max((piece, place)) AS b FROM ids GROUP BY id "
            "HAVING count(*) > 1) SELECT id, a[1], a[2], b[1], b[2], (SELECT count(*) FROM more) FROM more ORDER BY a LIMIT 1"
        )
        found = self._connection.execute(query).fetchone()
        if found is None:
            return 0, None
        places = [f"{unit} {place:,}" + (f" of {pieces[piece]}" if len(pieces) > 1 else "")
                  for piece, place in (found[1:3], found[3:5])]  # fmt: skip
        return found[5], Twice(found[0], places[0], places[1])


@contextmanager
def id_check(folder: Path, memory_limit: str) -> Iterator[IdCheck]:
    """An `IdCheck` whose file is in `folder` while the block lasts."""
    with scratch_folder(folder) as scratch, explain_disk_errors(folder):
        connection = duckdb.connect(str(scratch / "ids.duckdb"), config={"memory_limit": memory_limit})
        try:
            connection.execute("SET enable_progress_bar = false")
            yield IdCheck(connection)
        finally:
            connection.close()


@contextmanager
def _opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        connection = duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        if "Could not set lock" in str(error):
            who, remedy = holder_of(path, str(error))
            raise FlywheelError(f"{path} is in use by {who}. {remedy}, then run the same command again.") from error
        raise FlywheelError(f"{path} cannot be opened as a DuckDB file: {one_line(error)}. Name another corpus.") from error
    try:
        connection.execute("SET enable_progress_bar = false")
        yield connection
    finally:
        connection.close()


def _name(name: str) -> str:
    """A name as SQL writes it between double quotes."""
    return '"' + name.replace('"', '""') + '"'
