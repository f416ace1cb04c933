"""The store outside one file: a DuckLake catalogue (SQLite or PostgreSQL) with Parquet files on any storage DuckDB reaches.

DuckLake's extension and those it needs come from the Python package index (`pip install 'flywheel[lake]'`); nothing is
downloaded at run time. Several machines may write to one PostgreSQL catalogue; SQLite is for the processes of one.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_random_exponential

from flywheel.errors import FlywheelError, StoreBusyError
from flywheel.home import Home
from flywheel.pairs.options import StorageOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.sql import connect, quoted

if TYPE_CHECKING:
    import duckdb

_EXTENSIONS = {"sqlite": "sqlite_scanner", "postgres": "postgres_scanner"}
_TURN = 0x666C7977  # names our turn among PostgreSQL's advisory locks


def open_store(home: Home, options: StorageOptions) -> Store:
    """The store that the settings name: the home's DuckDB file, or a DuckLake catalogue."""
    if options.database is None:
        return Store(home.database, memory_limit=options.memory_limit)
    return DuckLakeStore(home, options.database, options.data_path, options.memory_limit)


class DuckLakeStore(Store):
    """A store in a DuckLake: the same transactions, one writer at a time across processes and machines."""

    def __init__(self, home: Home, uri: str, data_path: str | None, memory_limit: str) -> None:
        super().__init__(Path(uri), memory_limit=memory_limit)
        self._home = home
        self._uri = uri
        _, self._kind, self._catalogue = uri.split(":", 2)
        self._data = data_path or str(home.lake)

    def __str__(self) -> str:
        """The catalogue without what may be a password."""
        return f"ducklake:{self._kind}:..." if self._kind == "postgres" else self._uri

    @property
    def scratch(self) -> Path:
        """A folder on this machine."""
        return self._home.staging

    @contextmanager
    def _writer_lock(self) -> Iterator[None]:
        """DuckLake lets two transactions insert the same rows at once, so writers take turns."""
        if self._kind == "sqlite":
            Path(self._catalogue).parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(f"{self._catalogue}.lock", timeout=self._wait_seconds):
                    yield
            except Timeout as error:
                raise self._busy() from error
            return
        with connect() as turn:
            _load(turn, "postgres_scanner")
            turn.execute(f"ATTACH '{quoted(self._catalogue)}' AS turn (TYPE postgres)")
            turn.execute("BEGIN")  # what asks and what holds are one session
            ask = f"SELECT * FROM postgres_query('turn', 'SELECT pg_try_advisory_xact_lock({_TURN})')"
            attempts = Retrying(
                retry=retry_if_result(lambda granted: not granted),
                wait=wait_random_exponential(multiplier=0.02, max=0.5),
                stop=stop_after_delay(self._wait_seconds),
            )
            try:
                attempts(lambda: turn.execute(ask).fetchall()[0][0])
            except RetryError as error:
                raise self._busy() from error
            yield  # closing the connection gives the turn back, and so does being killed

    def _open(self) -> duckdb.DuckDBPyConnection:
        connection = connect(memory_limit=self.memory_limit, temp_directory=self._home.spill)
        for extension in ("ducklake", _EXTENSIONS[self._kind], *(("httpfs",) if "://" in self._data else ())):
            _load(connection, extension)
        if self._data.startswith("s3://"):
            connection.execute(_s3_secret())
        connection.execute(f"ATTACH '{quoted(self._uri)}' AS store (DATA_PATH '{quoted(self._data)}')")
        connection.execute("USE store")
        return connection

    def rewrite(self) -> None:
        """Write the data files again without what was deleted, and drop every older state of the catalogue."""
        with self._lock, self._writer_lock(), self._explained():
            connection = self._connect()
            try:
                for table in ("observations", "quarantine", "pairs", "frozen_pairs"):
                    connection.execute(f"CREATE OR REPLACE TABLE {table} AS FROM {table}")
                connection.execute("CALL ducklake_expire_snapshots('store', older_than => now())").fetchall()
                connection.execute("CALL ducklake_cleanup_old_files('store', cleanup_all => true)").fetchall()
            finally:
                connection.close()
            if self._kind == "sqlite":  # deleted rows of the catalogue, which hold least and greatest texts, stay in its file
                with closing(sqlite3.connect(self._catalogue)) as catalogue:
                    catalogue.execute("VACUUM")

    def _busy(self) -> StoreBusyError:
        return StoreBusyError(f"{self} is in use by another process and stayed so for {self._wait_seconds:.0f} s. Try again.")


def _load(connection: duckdb.DuckDBPyConnection, extension: str) -> None:
    """Load an extension from its Python package. Raises FlywheelError when it is missing or of another DuckDB version."""
    import duckdb

    found = importlib.util.find_spec(f"duckdb_extension_{extension}")
    places = (found.submodule_search_locations or ()) if found else ()
    files = [file for place in places for file in Path(place).rglob("*.duckdb_extension")]
    try:
        if not files:
            raise FlywheelError(f"DuckDB's extension {extension} is not installed.")
        connection.execute(f"LOAD '{quoted(str(files[0]))}'")
    except (duckdb.Error, FlywheelError) as error:
        raise FlywheelError(
            f"{error} A store in a DuckLake needs the extension packages of DuckDB {duckdb.__version__}: "
            "pip install -c constraints.txt 'flywheel[lake]'."
        ) from error


def _s3_secret() -> str:
    """The standard AWS variables as DuckDB wants them."""
    given = {
        "KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID"),
        "SECRET": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        "SESSION_TOKEN": os.environ.get("AWS_SESSION_TOKEN"),
        "REGION": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    options = [f"{name} '{quoted(value)}'" for name, value in given.items() if value]
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        options += [f"ENDPOINT '{quoted(parts.netloc)}'", f"USE_SSL {parts.scheme == 'https'}", "URL_STYLE 'path'"]
    return f"CREATE SECRET (TYPE s3{''.join(', ' + option for option in options)})"
