"""The store: one DuckDB file, touched only in short transactions.

DuckDB lets one process write and keeps every other process out meanwhile, so nobody holds a connection: each touch opens
the file, does one transaction and closes it, and waits its turn with jitter when another process is at it.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from flywheel.errors import FlywheelError, StoreBusyError, explain_disk_errors

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    batch_id VARCHAR PRIMARY KEY, source VARCHAR NOT NULL, file VARCHAR NOT NULL, lines BIGINT NOT NULL,
    accepted BIGINT NOT NULL, duplicates BIGINT NOT NULL, quarantined BIGINT NOT NULL, ingested_at TIMESTAMP NOT NULL);
CREATE TABLE IF NOT EXISTS observations (
    observation_id VARCHAR PRIMARY KEY, batch_id VARCHAR NOT NULL, line BIGINT NOT NULL, source VARCHAR NOT NULL,
    event_id VARCHAR, user_id VARCHAR, observed_at TIMESTAMP, pair_id VARCHAR NOT NULL,
    question_a VARCHAR NOT NULL, question_b VARCHAR NOT NULL, text_a VARCHAR NOT NULL, text_b VARCHAR NOT NULL,
    label TINYINT NOT NULL, weight DOUBLE NOT NULL, kind VARCHAR NOT NULL, extra VARCHAR);
CREATE TABLE IF NOT EXISTS quarantine (
    batch_id VARCHAR NOT NULL, file VARCHAR NOT NULL, line BIGINT NOT NULL, reason VARCHAR NOT NULL, raw VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS pairs (
    pair_id VARCHAR, question_a VARCHAR, question_b VARCHAR, text_a VARCHAR, text_b VARCHAR, label TINYINT, weight DOUBLE,
    kind VARCHAR, source VARCHAR, observations BIGINT, conflicting BOOLEAN, last_observed TIMESTAMP, split VARCHAR);
CREATE TABLE IF NOT EXISTS assignments (question_id VARCHAR PRIMARY KEY, split VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS frozen_pairs (
    pair_id VARCHAR PRIMARY KEY, question_a VARCHAR, question_b VARCHAR, text_a VARCHAR, text_b VARCHAR, label TINYINT,
    weight DOUBLE, kind VARCHAR, source VARCHAR, split VARCHAR, component VARCHAR);
CREATE TABLE IF NOT EXISTS snapshots (snapshot_id VARCHAR PRIMARY KEY, train_pairs BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS retrains (
    snapshot_id VARCHAR NOT NULL, train_pairs BIGINT NOT NULL, trained_at TIMESTAMP NOT NULL);
"""

_locks: dict[Path, threading.RLock] = {}
_locks_guard = threading.Lock()


class Store:
    """Short transactions on one DuckDB file; safe for several threads and processes."""

    def __init__(self, path: Path, wait_seconds: float = 60) -> None:
        self.path = path
        self._wait_seconds = wait_seconds
        with _locks_guard:
            self._lock = _locks.setdefault(path, threading.RLock())

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction on a fresh connection: committed when the block ends, rolled back if it raises.

        Raises StoreBusyError when another process keeps the file for longer than the bounded wait, FlywheelError when
        the file is no database or the disk is full.
        """
        with self._lock, explain_disk_errors(self.path):
            connection = self._connect()
            try:
                connection.execute("BEGIN")
                connection.execute(_SCHEMA)
                yield connection
                connection.execute("COMMIT")
            except duckdb.Error as error:
                if "No space left" in str(error) or "Disk quota" in str(error):
                    raise FlywheelError(
                        f"The disk that holds {self.path} is full: nothing was saved. Free some space and try again."
                    ) from error
                raise
            finally:
                connection.close()  # an open transaction is rolled back

    def _connect(self) -> duckdb.DuckDBPyConnection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        attempts = Retrying(
            retry=retry_if_exception(_is_locked),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            stop=stop_after_delay(self._wait_seconds),
            before_sleep=self._say_once,
            reraise=True,
        )
        try:
            return attempts(duckdb.connect, str(self.path))
        except duckdb.Error as error:
            if _is_locked(error):
                raise StoreBusyError(
                    f"{self.path} is in use by another process and stayed so for {self._wait_seconds:.0f} s. "
                    "Wait for it to finish or stop it, then run the same command again."
                ) from error
            raise FlywheelError(f"{self.path} cannot be opened as a database: {error}") from error

    def _say_once(self, state: RetryCallState) -> None:
        if state.attempt_number == 10:
            log.warning("%s is in use by another process; waiting up to %.0f s", self.path, self._wait_seconds)


def _is_locked(error: BaseException) -> bool:
    """The lock of another process, or a connection of this process in another mode (both pass by themselves)."""
    if isinstance(error, duckdb.IOException):
        return "Could not set lock" in str(error) or "being used by another process" in str(error)
    return isinstance(error, duckdb.ConnectionException) and "different configuration" in str(error)
