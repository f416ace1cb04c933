"""Checkpoints of the store that a kill or a full disk cannot tear.

DuckDB 1.5 writes its metadata blocks over themselves (`MetadataManager::Flush`). A process that is killed within one leaves a
block whose checksum is wrong, and with it a file that no longer opens. Every other block goes to a free place, and the
header, one page, makes them valid last. So the old metadata blocks are kept beside the file meanwhile, as in SQLite's rollback
journal: who finds them under an unchanged header puts them back. DuckDB's log still holds what was committed since.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flywheel.errors import one_line

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger(__name__)
_PAGE = 4096  # of the file's beginning, and of each of the two headers that take turns
_ITERATION, _BLOCK_SIZE = slice(8, 16), slice(40, 48)  # bytes of a header: how many checkpoints there were, and of a block


def close(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Close a connection that makes no checkpoints of its own; first move into the file what its log holds.

    Where that fails, nothing is lost: the log keeps what was committed, and the next close tries again.
    """
    if not path.with_name(f"{path.name}.wal").exists():
        connection.close()
        return
    with checkpointed(connection, path) as failure:
        if failure:
            log.warning("What was saved stays in %s.wal for now, nothing is lost: %s", path, one_line(failure))


@contextmanager
def checkpointed(connection: duckdb.DuckDBPyConnection, path: Path) -> Iterator[Exception | None]:
    """Move into the file what its log holds, give what went wrong, and close the connection at the end."""
    import duckdb

    failure: Exception | None = None
    # The file is closed last: a process that closes a file gives up its lock on it.
    with path.open("rb") as file, closing(connection):
        try:
            _keep(connection, file, path)
            connection.execute("CHECKPOINT")
            _journal(path).unlink(missing_ok=True)
        except (duckdb.Error, OSError) as error:
            failure = error
        yield failure


def is_cut_short(path: Path) -> bool:
    """Whether a checkpoint of the file has not ended: it goes on in another process, or its process was killed."""
    return _journal(path).exists()


def take_back(path: Path) -> None:
    """Undo the checkpoint of a killed process. Does nothing where there is none, or where another process has the file open."""
    if not is_cut_short(path):
        return
    with path.open("r+b") as file, suppress(FileNotFoundError, BlockingIOError):
        _lock(file)
        with _journal(path).open("rb") as journal:
            kept = json.loads(journal.readline())
            if kept["header"] == _header(file).hex():
                for block in kept["blocks"]:
                    file.seek(3 * _PAGE + block * kept["block_size"])
                    file.write(journal.read(kept["block_size"]))
                file.flush()
                os.fsync(file.fileno())
        _journal(path).unlink()


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


def _keep(connection: duckdb.DuckDBPyConnection, file: BinaryIO, path: Path) -> None:
    """Write the journal: the header that is valid, and the blocks of metadata that a checkpoint may write over."""
    blocks = [block for (block,) in connection.execute("SELECT block_id FROM pragma_metadata_info()").fetchall()]
    (size,) = connection.execute("SELECT block_size FROM pragma_database_size()").fetchall()[0]
    header = _header(file)
    if _number(header[_BLOCK_SIZE]) != size:
        return  # a later DuckDB lays its file out in another way
    description = {"header": header.hex(), "block_size": size, "blocks": blocks}
    with unfinished(path).open("wb") as journal:
        journal.write(json.dumps(description).encode() + b"\n")
        for block in blocks:
            file.seek(3 * _PAGE + block * size)
            journal.write(file.read(size))
        journal.flush()
        os.fsync(journal.fileno())
    unfinished(path).replace(_journal(path))


def unfinished(path: Path) -> Path:
    """A journal that a killed process has not written to its end."""
    return path.with_name(f"{path.name}.journal.new")


def _header(file: BinaryIO) -> bytes:
    file.seek(_PAGE)
    headers = file.read(_PAGE), file.read(_PAGE)
    return max(headers, key=lambda header: _number(header[_ITERATION]))


def _number(content: bytes) -> int:
    return int.from_bytes(content, "little")


def _lock(file: BinaryIO) -> None:
    """DuckDB's own lock on the file, until it is closed. Raises BlockingIOError where another process has it."""
    with suppress(ImportError):  # Windows opens no file that DuckDB has open
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
