"""The store: one DuckDB file, touched only in short transactions.

DuckDB lets one process write and keeps every other process out meanwhile, so no connection is kept: each touch opens
the file, does one transaction and closes it, and waits its turn with jitter when another process is at it.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from flywheel.errors import FlywheelError, StoreBusyError, explain_disk_errors
from flywheel.files import scratch_folder
from flywheel.pairs.store import checkpoint
from flywheel.pairs.store.holder import holder_of
from flywheel.pairs.store.sql import connect, quoted

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger(__name__)
# No keys or indexes: every writer has the store for itself, and an index in memory would grow with the history.
_VERSION = 5

_SCHEMA = """
CREATE TABLE batches (
    batch_id VARCHAR, file VARCHAR, source VARCHAR, slices BIGINT, complete BOOLEAN, thinned BOOLEAN,
    lines BIGINT, header BIGINT, continuation BIGINT, accepted BIGINT, duplicates BIGINT, quarantined BIGINT,
    observations BIGINT, conflicts BIGINT, embargoed BIGINT, redacted BIGINT, ingested_at TIMESTAMP);
CREATE TABLE observations (
    event UUID, item SMALLINT, batch_id VARCHAR, line BIGINT, source VARCHAR, type VARCHAR, event_id VARCHAR,
    user_id VARCHAR, observed_at TIMESTAMP, pair_id UUID, question_a UUID, question_b UUID, text_a VARCHAR, text_b VARCHAR,
    label TINYINT, weight DOUBLE, kind VARCHAR, position INTEGER, model VARCHAR, extra VARCHAR);
CREATE TABLE quarantine (
    batch_id VARCHAR, file VARCHAR, line BIGINT, kind VARCHAR, reason VARCHAR, raw VARCHAR, user_id VARCHAR);
CREATE TABLE forgotten (event UUID);
CREATE TABLE unfinished (kind VARCHAR, id VARCHAR);
CREATE TABLE pairs (
    pair_id UUID, question_a UUID, question_b UUID, label TINYINT, weight DOUBLE, kind VARCHAR, seed BOOLEAN,
    same BIGINT, different BIGINT, last_observed TIMESTAMP, decided_at TIMESTAMP, decided_by UUID, decided_item SMALLINT,
    split VARCHAR);
CREATE TABLE assignments (question UUID, state VARCHAR, component UUID);
CREATE TABLE draws (source VARCHAR, version INTEGER, drawn_at TIMESTAMP);
CREATE TABLE frozen_pairs (
    pair_id UUID, question_a UUID, question_b UUID, text_a VARCHAR, text_b VARCHAR, label TINYINT, weight DOUBLE,
    kind VARCHAR, source VARCHAR, split VARCHAR, component UUID);
CREATE TABLE counters AS SELECT CAST(0 AS BIGINT) AS trainable;
CREATE TABLE snapshots (snapshot_id VARCHAR, trainable BIGINT);
CREATE TABLE retrains (snapshot_id VARCHAR, trainable BIGINT, trained_at TIMESTAMP);
-- Pairs that an earlier version of the frozen splits held: they may calibrate again, and never test again.
CREATE TABLE retired (pair_id UUID);
"""

_locks: dict[Path, threading.RLock] = {}
_locks_guard = threading.Lock()


class Store:
    """Short transactions on one DuckDB file; safe for several threads and processes.

    `memory_limit` bounds what DuckDB keeps in memory (`512MB`); what does not fit goes to a temporary file beside the store.
    """

    def __init__(self, path: Path, wait_seconds: float = 60, memory_limit: str = "512MB") -> None:
        self.path = path
        self.memory_limit = memory_limit
        self._wait_seconds = wait_seconds
        with _locks_guard:
            self._lock = _locks.setdefault(path, threading.RLock())

    def __str__(self) -> str:
        """Where it is, for people."""
        return str(self.path)

    @property
    def scratch(self) -> Path:
        """Where an ingest keeps what it has validated and not stored yet."""
        return self.path.parent / "staging"

    @contextmanager
    def _writer_lock(self) -> Iterator[None]:
        """DuckDB keeps other processes out of the file by itself."""
        yield

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction on a fresh connection: committed when the block ends, rolled back if it raises.

        Raises StoreBusyError when another process keeps the file for longer than the bounded wait, FlywheelError when
        the file is no database or the disk is full.
        """
        with self._lock, self._writer_lock(), self._explained():
            connection = self._connect()
            try:
                connection.execute("BEGIN")
                self._prepare(connection)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.close()  # an open transaction is rolled back
                raise
            checkpoint.close(connection, self.path)

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the tables in an empty store; refuse one with other tables than ours."""
        names = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()").fetchall()
        version = f"version_{_VERSION}"
        if not names:
            connection.execute(_SCHEMA)
            connection.execute(f"CREATE TABLE {version} (since TIMESTAMP)")
        elif ("observations",) not in names and ("pairs",) not in names:
            raise FlywheelError(
                f"{self} is somebody else's database: it holds {', '.join(name for (name,) in names[:3])} and no table of "
                "flywheel's. Choose another home with --home, or move the file away."
            )
        elif (version,) not in names:
            raise FlywheelError(
                f"{self} was written by another version of flywheel. Move it away and "
                "ingest the delivered files (inbox/done keeps those of the inbox) again; models and champions stay."
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import duckdb

        with explain_disk_errors(self.path):
            try:
                yield
            except duckdb.Error as error:
                if "No space left" in str(error) or "Disk quota" in str(error):
                    raise FlywheelError(
                        f"The disk that holds {self} is full: nothing was saved. Free some space and try again."
                    ) from error
                if isinstance(error, duckdb.OutOfMemoryException):
                    raise FlywheelError(
                        f"The database needs more than {self.memory_limit} of memory. Set storage.memory_limit "
                        "higher, then run the same command again; nothing is lost."
                    ) from error
                raise

    def rewrite(self) -> None:
        """Write the file again, so that what was deleted is nowhere in it.

        The new file takes the old one's name while the old one is still locked, so that nothing is written to the old file.
        """
        aside = self.path.with_name(f"{self.path.name}.rewritten")
        with self._lock, self._explained():
            aside.unlink(missing_ok=True)
            connection = self._connect()
            try:
                with checkpoint.checkpointed(connection, self.path) as failure:
                    if failure:
                        raise failure
                    (name,) = connection.execute("SELECT current_database()").fetchall()[0]
                    connection.execute(f"ATTACH '{quoted(aside)}' AS rewritten")
                    connection.execute(f'COPY FROM DATABASE "{name}" TO rewritten')
                    connection.execute("CHECKPOINT rewritten")
                    connection.execute("DETACH rewritten")
                    aside.replace(self.path)
            finally:
                aside.unlink(missing_ok=True)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        attempts = Retrying(
            retry=retry_if_exception(_is_locked),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            stop=stop_after_delay(self._wait_seconds),
            before_sleep=self._say_once,
            reraise=True,
        )
        try:
            return attempts(self._open)
        except duckdb.Error as error:
            if _is_locked(error):
                who, remedy = holder_of(self.path, str(error))
                raise StoreBusyError(
                    f"{self} is in use by {who} and stayed so for {self._wait_seconds:.0f} s. "
                    f"{remedy}, then run the same command again."
                ) from error
            raise FlywheelError(
                f"{self} cannot be opened as a database: {error}. Put a copy of it back, or move it away and ingest the "
                "delivered files (inbox/done keeps those of the inbox) again; models and champions stay."
            ) from error

    def _open(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        if not self.path.exists():
            self._create()
        checkpoint.take_back(self.path)
        before = self._inode()
        try:
            connection = connect(str(self.path), self.memory_limit)
        except duckdb.Error as error:
            if checkpoint.is_cut_short(self.path) and not _is_locked(error):  # its process was killed between the two
                return self._open()
            raise
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        connection.execute("SET checkpoint_threshold = '1TB'")  # `checkpoint.close` makes them all
        if before not in (None, self._inode()) or checkpoint.is_cut_short(self.path):  # written by another process meanwhile
            connection.close()
            return self._open()
        shutil.rmtree(f"{self.path}.tmp", ignore_errors=True)  # what a killed process had no memory for,
        for left in self.path.parent.glob(f"{self.path.name}.rewritten*"):  # or had not rewritten to its end
            left.unlink(missing_ok=True)
        checkpoint.unfinished(self.path).unlink(missing_ok=True)
        return connection

    def _create(self) -> None:
        """Make the file whole or not at all: DuckDB writes it in several steps, and half of it is no database."""
        with scratch_folder(self.scratch) as folder:
            connect(str(folder / "new.duckdb")).close()
            with suppress(FileExistsError):
                os.link(folder / "new.duckdb", self.path)

    def _inode(self) -> int | None:
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return None

    def _say_once(self, state: RetryCallState) -> None:
        said = state.retry_object.statistics
        if (state.seconds_since_start or 0) >= 1 and "said" not in said and state.outcome is not None:
            said["said"] = True
            who, _ = holder_of(self.path, str(state.outcome.exception()))
            log.warning("%s is in use by %s; waiting up to %.0f s", self, who, self._wait_seconds)


def _is_locked(error: BaseException) -> bool:
    """The lock of another process, or a connection of this process in another mode (both pass by themselves)."""
    import duckdb

    if isinstance(error, duckdb.IOException):
        return "Could not set lock" in str(error) or "being used by another process" in str(error)
    return isinstance(error, duckdb.ConnectionException) and "different configuration" in str(error)
