"""A PostgreSQL server for a test, where its programs are installed."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

USER, DATABASE = "flywheel", "postgres"


@dataclass(frozen=True)
class Postgres:
    """A server on this machine, which asks for no password."""

    port: int
    host: str = "127.0.0.1"

    @property
    def dsn(self) -> str:
        """As libpq takes it."""
        return f"host={self.host} port={self.port} user={USER} dbname={DATABASE}"


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of its own; it refuses to run as root."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed (Debian and Ubuntu: apt install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path, for the socket
    who = {"user": "nobody"} if os.getuid() == 0 else {}
    if who:
        shutil.chown(folder, "nobody")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Postgres(probe.getsockname()[1])
    made = [initdb, "-D", folder / "data", "-U", USER, "-A", "trust"]
    subprocess.run(made, check=True, capture_output=True, cwd=folder, **who)
    command = [postgres, "-D", folder / "data", "-p", str(server.port), "-k", folder, "-c", f"listen_addresses={server.host}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **who) as process:
        try:
            _wait_until_it_listens(server)
            yield server
        finally:
            process.terminate()
    shutil.rmtree(folder)


def _program(name: str) -> str | None:
    """Debian keeps the server's programs off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def _wait_until_it_listens(server: Postgres) -> None:
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((server.host, server.port)) == 0:
                return
        assert time.monotonic() < deadline, "PostgreSQL does not listen"
        time.sleep(0.1)
