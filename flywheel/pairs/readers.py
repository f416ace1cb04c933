"""Files into records: JSON lines, CSV, TSV and Parquet, plain or compressed, read as a stream. Knows no database.

Every line of a file comes out once: as a record, or as `Unreadable` with the reason. What makes a whole file unreadable
(a compressed file cut short, a Parquet file of another schema) raises `UnreadableFileError` before anything is stored.
"""

import codecs
import csv
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError, UnreadableFileError

MAX_LINE_BYTES = 1_000_000
_MAX_RECORD_LINES = 100  # a quoted field may hold line breaks; one that holds more was never closed
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_UNCLOSED = "a quote is opened and never closed, or stands within a field"
_NUL = "holds a NUL character"


class Unreadable(NamedTuple):
    """A line that is no record: why, and how it begins."""

    reason: str
    raw: bytes


# One line: its record, and the bytes it was read from (none where the format has no lines).
Line = tuple[Any, bytes | None]


@dataclass(frozen=True)
class Batch:
    """One delivery of lines. `batch_id` is a hash of the content, so the same delivery is known again by any name.

    `source` is `seed` or `interaction`; `file` says where the lines came from.
    """

    batch_id: str
    source: Literal["seed", "interaction"]
    file: str
    lines: Iterator[Line | Unreadable]


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


def json_lines(lines: Iterator[bytes]) -> Iterator[Line | Unreadable]:
    """JSON lines as records."""
    for raw in lines:
        yield _json(raw)


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


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends. One that is too long is one line still: its beginning, and one byte more than allowed."""
    while line := file.readline(MAX_LINE_BYTES + 2):
        if not line.endswith(b"\n") and len(line) > MAX_LINE_BYTES:
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield line
        else:
            yield line.rstrip(b"\r\n")


def _refused(raw: bytes) -> Unreadable | None:
    if len(raw) > MAX_LINE_BYTES:
        return Unreadable(f"the line is longer than {MAX_LINE_BYTES:,} bytes", raw)
    if not raw.strip():
        return Unreadable("the line is blank", raw)
    if b"\0" in raw:
        return Unreadable(f"the line {_NUL}", raw)
    return None


def _json(raw: bytes) -> Line | Unreadable:
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _refused(raw) or Unreadable(f"the line is not {_not_utf8(raw) or f'JSON ({error.msg})'}", raw)
    return _refused(raw) or (record, raw)


def _not_utf8(raw: bytes) -> str | None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"UTF-8 (byte {error.start})"
    return None


def _read_json(path: Path, compression: str | None, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    with _open(path, compression) as file:
        lines = _raw_lines(file)
        yield from (_json(line.removeprefix(codecs.BOM_UTF8)) for line in islice(lines, 1))
        yield from map(_json, lines)


def _read_csv(path: Path, compression: str | None, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    """Records of a CSV or TSV file with a header. A quote that is never closed costs its own line, not the rest of the file."""
    with _open(path, compression) as file:
        rows = _CsvRows(file, "\t" if _format(path) == ".tsv" else ",")
        header = next(rows, None)
        if header is None:
            return
        if isinstance(header, Unreadable):
            raise UnreadableFileError(f"{path.name}: its header cannot be read ({header.reason}). Nothing of it was stored.")
        names = [name.strip() for name in header[0]]
        _check_names(path, names, columns)
        for row in rows:
            yield row if isinstance(row, Unreadable) else _csv_record(names, columns, *row)


def _csv_record(names: list[str], columns: Mapping[str, str], cells: list[str], raw: bytes) -> Line | Unreadable:
    if len(cells) != len(names):
        return Unreadable(f"the line has {len(cells)} fields, the header names {len(names)}", raw)
    record = {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip()}
    for ours, parse in _CELLS.items():
        if (field := columns.get(ours, ours)) in record:
            record[field] = parse(record[field])
    shown = columns.get("shown", "shown")
    if shown in record and record.get(columns.get("type", "type")) == "search":
        record[shown] = _list_of(record[shown])
    return record, raw


def _number(cell: str) -> Any:
    try:
        value = float(cell)
    except ValueError:
        return cell  # the schema says what is wrong with it
    return int(value) if value.is_integer() else value if value == value and abs(value) != float("inf") else cell


def _list_of(cell: str) -> Any:
    try:
        found = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell
    return found if isinstance(found, list) else cell


_CELLS: dict[str, Callable[[str], Any]] = {
    "weight": _number, "position": _number, "clicked": _list_of,
}  # fmt: skip


class _CsvRows:
    """Rows of a CSV file with the bytes they came from, or `Unreadable`; resumes after a line it cannot make sense of."""

    def __init__(self, file: BinaryIO, delimiter: str) -> None:
        self._lines = _raw_lines(file)
        self._delimiter = delimiter
        self._again: list[bytes] = []
        self._taken: list[bytes] = []
        self._width: int | None = None
        self._first = True
        self._reader = self._new_reader()
        csv.field_size_limit(2 * MAX_LINE_BYTES)

    def __iter__(self) -> "_CsvRows":
        return self

    def __next__(self) -> tuple[list[str], bytes] | Unreadable:
        self._taken = []
        try:
            cells = next(self._reader)
        except _NoRow as error:
            cells = []
            reason = str(error)
        except (csv.Error, UnicodeDecodeError) as error:
            cells = []
            reason = _misread(error, self._taken[-1])
        else:
            if len(self._taken) == 1 or self._width in (None, len(cells)):
                self._width = self._width or len(cells)
                return cells, b"\n".join(self._taken)
            reason = _UNCLOSED
        self._again = self._taken[1:] + self._again
        self._reader = self._new_reader()
        return Unreadable(reason, self._taken[0])

    def _new_reader(self) -> Any:
        return csv.reader(self._source(), delimiter=self._delimiter, strict=True)

    def _source(self) -> Iterator[str]:
        while True:
            line = self._again.pop(0) if self._again else next(self._lines, None)
            if line is None:
                return
            if not self._taken and (refused := _refused(line)):
                self._taken.append(line)
                raise _NoRow(refused.reason)
            self._taken.append(line)
            if len(self._taken) > _MAX_RECORD_LINES or len(line) > MAX_LINE_BYTES:
                raise _NoRow(_UNCLOSED)
            text = line.decode("utf-8-sig" if self._first else "utf-8")
            self._first = False
            yield text + "\n"


def _misread(error: Exception, line: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"the line is not {_not_utf8(line)}"
    return "a carriage return stands within the line" if "new-line" in str(error) else _UNCLOSED


class _NoRow(Exception):
    """The lines taken so far make no row."""


def _read_parquet(path: Path, compression: str | None, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    if compression is None:
        yield from _parquet_rows(path, path.name, columns)
        return
    with tempfile.TemporaryFile() as plain:  # it has no name, so that nothing stays when the process is killed
        with _open(path, compression) as file:
            shutil.copyfileobj(file, plain)
        yield from _parquet_rows(plain, path.name, columns)


def _parquet_rows(path: Any, name: str, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    with pq.ParquetFile(path) as file:
        _check_names(Path(name), file.schema_arrow.names, columns)
        read = 0
        for group in file.iter_batches(batch_size=10_000):
            try:
                rows = group.to_pylist()
            except (ValueError, OverflowError, LookupError) as error:  # a text that is not UTF-8, a time that no calendar holds
                for i in range(group.num_rows):
                    yield _one_row(group.slice(i, 1), error)
                read += group.num_rows
                continue
            yield from map(_parquet_record, rows)
            read += group.num_rows
        if read != file.metadata.num_rows:
            raise UnreadableFileError(f"{name} is damaged: {read} of {file.metadata.num_rows} rows. Nothing of it was stored.")


def _one_row(group: pa.RecordBatch, error: Exception) -> Line | Unreadable:
    try:
        return _parquet_record(group.to_pylist()[0])
    except (ValueError, OverflowError, LookupError) as own:
        return Unreadable(f"the row cannot be read ({own})", b"")


def _parquet_record(row: dict[str, Any]) -> Line | Unreadable:
    record = {field: _plain(value) for field, value in row.items() if value is not None and value == value}
    return record, None


def _plain(value: Any) -> Any:
    """A value as JSON has it: dates as ISO text, bytes as text where they are some (else as an object that no text is)."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _check_names(path: Path, names: list[str], columns: Mapping[str, str]) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UnreadableFileError(f"{path.name} has two columns named {twice[0]}. Nothing of it was stored; rename one.")
    found = {ours for ours in ("text_a", "query") if columns.get(ours, ours) in names}
    if not found:
        raise UnreadableFileError(
            f"{path.name} has the columns {', '.join(names[:20])} and neither text_a nor query. Nothing of it was stored; "
            'say in flywheel.toml which is which: columns = {"text_a" = "...", "text_b" = "...", "label" = "..."}.'
        )


_READERS: dict[str, Callable[[Path, str | None, Mapping[str, str]], Iterator[Line | Unreadable]]] = {
    ".jsonl": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
