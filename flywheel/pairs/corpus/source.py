"""Which corpus is meant: its files or its table, and the columns that hold ids and texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from flywheel.errors import FlywheelError
from flywheel.pairs.corpus.files import JSON_LINES, columns_of, file_batches, is_corpus_file
from flywheel.pairs.corpus.table import table_batches, table_columns, tables_of

_DATABASES = (".duckdb", ".ddb", ".db")
_IDS = ("id", "_id", "doc_id", "document_id", "text_id", "uuid", "key")
_TEXTS = ("text", "content", "body", "document", "passage", "chunk", "question", "sentence")


@dataclass(frozen=True)
class Corpus:
    """Texts with ids: files in the order of their names, or one table of a DuckDB file."""

    path: Path
    pieces: tuple[str, ...]
    id_column: str
    text_column: str
    table: str | None = None

    @property
    def unit(self) -> str:
        """What a place in it is."""
        return "line" if self.table is None and self.pieces[0].lower().endswith(JSON_LINES) else "row"

    def batches(self, piece: int, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """The rows of a piece after the first `skip`: place, id, text (see `rows.checked`)."""
        if self.table is not None:
            return table_batches(self.path, self.table, self.id_column, self.text_column, skip)
        file = self.path / self.pieces[piece] if self.path.is_dir() else self.path
        return file_batches(file, self.id_column, self.text_column, skip)

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Size and time of change of every file; (-1, 0) for one that is gone."""
        files = [self.path / piece for piece in self.pieces] if self.path.is_dir() else [self.path]
        stats = (file.stat() if file.exists() else None for file in files)
        return tuple((stat.st_size, stat.st_mtime_ns) if stat else (-1, 0) for stat in stats)

    def __str__(self) -> str:
        """Where it is, for people."""
        return f"table {self.table} of {self.path}" if self.table else str(self.path)


def open_corpus(path: Path, id_column: str | None = None, text_column: str | None = None, table: str | None = None) -> Corpus:
    """The corpus at `path`; columns that are not named are guessed by the names that they usually have.

    Raises FlywheelError when there is nothing to read, when no name or several fit, and when a table must be named.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise FlywheelError(
            f"There is no corpus at {path}. Name a Parquet or JSON-lines file, a folder of them, or a DuckDB file."
        )
    if path.is_file() and path.suffix.lower() in _DATABASES:
        table = _table(path, table)
        pieces, columns = [table], table_columns(path, table)
    elif table is not None:
        raise FlywheelError(f"{path} is no DuckDB file, so it has no table {table!r}. Leave --table out.")
    else:
        files = [path] if path.is_file() else _files_in(path)
        if not files or not is_corpus_file(files[0]):
            raise FlywheelError(
                f"{path} holds no Parquet (.parquet) and no JSON lines (.jsonl, .ndjson, also .gz), and is no DuckDB file "
                "(.duckdb). Name a corpus in one of these forms."
            )
        pieces = [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
        columns = columns_of(files[0])
    name = f"table {table} of {path}" if table else str(path)
    return Corpus(
        path, tuple(pieces), _chosen(name, columns, id_column, _IDS, "--id", "ids"),
        _chosen(name, columns, text_column, _TEXTS, "--text", "texts"), table,
    )  # fmt: skip


def _files_in(folder: Path) -> list[Path]:
    """The corpus files below a folder; what begins with a dot or an underscore is by custom not data."""
    found = (each for each in folder.rglob("*") if each.is_file() and is_corpus_file(each))
    return sorted(each for each in found if not any(part[0] in "._" for part in each.relative_to(folder).parts))


def _table(path: Path, table: str | None) -> str:
    there = tables_of(path)
    if table in there:
        return str(table)
    if table is None and len(there) == 1:
        return there[0]
    listed = ", ".join(there) or "none"
    what = f"has no table {table!r}; it has {listed}" if table else f"has the tables {listed}"
    raise FlywheelError(f"{path} {what}. Name one with --table.")


def _chosen(name: str, columns: Sequence[str], asked: str | None, usual: Sequence[str], option: str, what: str) -> str:
    if asked is not None:
        if asked not in columns:
            raise FlywheelError(f"{name} has no column {asked!r}; it has {', '.join(columns)}. Name another with {option}.")
        return asked
    fitting = [each for each in columns if each.lower() in usual]
    if len(fitting) != 1:
        why = f"{' and '.join(fitting)} could all be the {what}" if fitting else f"none is plainly the {what}"
        raise FlywheelError(f"{name} has the columns {', '.join(columns)}, and {why}. Name the right one with {option}.")
    return fitting[0]
