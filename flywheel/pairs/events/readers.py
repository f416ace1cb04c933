"""Files into records: JSON lines, CSV, TSV and Parquet, plain or compressed, read as a stream. Knows no database.

Every line of a file comes out once: as a record, or as `Unreadable` with the reason. What makes a whole file unreadable
(a compressed file cut short, a Parquet file of another schema) raises `UnreadableFileError` before anything is stored.
"""

import codecs
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.pairs.events.csv_rows import CsvRows, csv_record
from flywheel.pairs.events.lines import Batch, Line, Unreadable, check_names, json_record, raw_lines
from flywheel.pairs.events.parquet_rows import parquet_rows

_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}


def suffixes() -> str:
    """The file names that can be read, for people."""
    return ".jsonl, .csv, .tsv or .parquet, each also with .gz or .zst"


def is_readable_name(path: Path) -> bool:
    """Whether the name says that the file is in a format that can be read."""
    return _format(path) in _READERS


def read_batch(path: Path, name: str, columns: Mapping[str, str] | None = None) -> Batch:
    """A file as a batch that the store calls `name`. Raises UnreadableFileError when it cannot be read.

    `columns` maps our field names to the file's own; another mapping makes another batch, so that a file read under a
    wrong one can be ingested again.
    """
    if not is_readable_name(path):
        raise UnreadableFileError(f"{name} is none of {suffixes()}. Nothing of it was stored.")
    columns = dict(columns or {})
    try:
        f"{path} {name}".encode()
    except UnicodeEncodeError as error:
        raise UnreadableFileError(f"{name!a} is a name that is not UTF-8. Nothing of it was stored; rename it.") from error
    content = hashlib.sha256()
    try:
        before = _state(path)
        with _open(path, _COMPRESSION.get(path.suffix.lower())) as file:  # the same lines are the same batch, packed or not
            while block := file.read(1 << 20):
                content.update(block)
    except (EOFError, pa.ArrowException) as error:
        raise _damaged(name, error) from error
    except OSError as error:
        if error.strerror is None:  # of the decompression, not of the file system
            raise _damaged(name, error) from error
        raise UnreadableFileError(f"{path} cannot be read ({error.strerror}). Nothing of it was stored.") from error
    if columns:
        content.update(orjson.dumps(columns, option=orjson.OPT_SORT_KEYS))
    return Batch(content.hexdigest()[:32], "interaction", name, _unchanged(path, name, before, columns))


def _unchanged(path: Path, name: str, before: tuple[int, ...], columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    compression = _COMPRESSION.get(path.suffix.lower())
    lines = _READERS[_format(path)](path, compression, columns)
    try:
        yield from _renamed(lines, columns) if columns else lines
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: a column's name
        raise _damaged(name, error) from error
    if _state(path) != before:
        raise FlywheelError(f"{name} changed while it was read. Nothing of it was stored; ingest it again when it is finished.")


def _damaged(name: str, error: Exception) -> UnreadableFileError:
    return UnreadableFileError(f"{name} is damaged or cut short ({error}). Nothing of it was stored.")


def _state(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _format(path: Path) -> str:
    bare = path.with_suffix("") if path.suffix.lower() in _COMPRESSION else path
    return bare.suffix.lower()


def _renamed(lines: Iterator[Line | Unreadable], columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    for line in lines:
        if not isinstance(line, Unreadable) and isinstance(line[0], dict):
            record = line[0]
            taken = {ours: record[theirs] for ours, theirs in columns.items() if theirs in record}
            rest = {field: value for field, value in record.items() if field not in columns.values() or field in taken}
            yield {**rest, **taken}, None
        else:
            yield line


def _open(path: Path, compression: str | None) -> BinaryIO:
    if compression is None:
        return path.open("rb")
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), compression), 1 << 18)


def _read_json(path: Path, compression: str | None, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    with _open(path, compression) as file:
        lines = raw_lines(file)
        yield from (json_record(line.removeprefix(codecs.BOM_UTF8)) for line in islice(lines, 1))
        yield from map(json_record, lines)


def _read_csv(path: Path, compression: str | None, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    """Records of a CSV or TSV file with a header. A quote that is never closed costs its own line, not the rest of the file."""
    with _open(path, compression) as file:
        rows = CsvRows(file, "\t" if _format(path) == ".tsv" else ",")
        header = next(rows, None)
        if header is None:
            return
        if isinstance(header, Unreadable):
            raise UnreadableFileError(f"{path.name}: its header cannot be read ({header.reason}). Nothing of it was stored.")
        names = [name.strip() for name in header[0]]
        check_names(path, names, columns)
        for row in rows:
            yield row if isinstance(row, Unreadable) else csv_record(names, columns, *row)


def _read_parquet(path: Path, compression: str | None, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    if compression is None:
        yield from parquet_rows(path, path.name, columns)
        return
    with tempfile.TemporaryFile() as plain:  # it has no name, so that nothing stays when the process is killed
        with _open(path, compression) as file:
            shutil.copyfileobj(file, plain)
        yield from parquet_rows(plain, path.name, columns)


_READERS: dict[str, Callable[[Path, str | None, Mapping[str, str]], Iterator[Line | Unreadable]]] = {
    ".jsonl": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
