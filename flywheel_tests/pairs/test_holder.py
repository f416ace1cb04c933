"""Whoever keeps the store locked is named where the system tells, with a way on that works. Holders are real processes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from flywheel.errors import StoreBusyError
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.holder import UNKNOWN, holder_of

HOLD = """
import signal, sys
import duckdb
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a shell: a test before may have left this process's parent deaf to it
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
con = duckdb.connect(sys.argv[-1], read_only="--read" in sys.argv)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "flywheel.duckdb", wait_seconds=0.3)
    with store.transaction():
        pass
    return store


@contextmanager
def holder(store: Store, *words: str, script: str = "hold.py") -> "Iterator[subprocess.Popen[str]]":
    """A process that has the store open; a line that is written to it is evaluated there."""
    file = store.path.with_name(script)
    file.write_text(HOLD)
    command = [sys.executable, str(file), *words, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=store.path.parent) as process:
        tell(process, "'open'")
        yield process
        process.kill()


def tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    process.stdout.readline()


def refusal(store: Store) -> str:
    with pytest.raises(StoreBusyError) as caught, store.transaction():
        pass
    return str(caught.value)


def opens(store: Store) -> bool:
    with store.transaction() as db:
        return db.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize("words", [["--read"], []])
def test_a_process_is_named_and_closing_its_connection_leads_on(store: Store, words: list[str]) -> None:
    with holder(store, *words) as process:
        said = refusal(store)
        named = f"{store} is in use by process {process.pid} (`{sys.executable} {store.path.parent}/hold.py"
        assert said.startswith(named)
        assert f" in {store.path.parent})" in said
        assert f"Close its connection (in Python, `con.close()`) or stop it (`kill {process.pid}`), then run" in said
        tell(process, "con.close()")
        assert opens(store)
        assert process.poll() is None


def test_a_notebook_is_called_one_and_ending_its_kernel_leads_on(store: Store) -> None:
    with holder(store, "ipykernel_launcher", "--read") as process:
        said = refusal(store)
        assert f"is in use by a notebook, process {process.pid} (" in said
        (command,) = re.findall(r"shut its kernel down \(`(.+?)`\)", said)
        subprocess.run(command.split(), check=True)
        assert process.wait(30) == -signal.SIGTERM
        assert opens(store)


def test_another_process_of_flywheel_is_waited_for(store: Store) -> None:
    """A long command line is shown from its beginning."""
    with holder(store, *["word"] * 400, script="flywheel") as process:
        said = refusal(store)
        assert f"is in use by flywheel itself, process {process.pid} (`{sys.executable} " in said
        assert "Wait for it to finish or stop it, then run the same command again." in said
        assert len(said) < 800


def test_who_waits_reads_for_whom(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    patient = Store(store.path, wait_seconds=5)
    with holder(store, "--read") as process:
        refusal(patient)
    assert f"is in use by process {process.pid} (" in caplog.text
    assert "waiting up to 5 s" in caplog.text


def test_a_connection_of_this_process_in_another_mode_is_called_that(store: Store) -> None:
    with duckdb.connect(str(store.path), read_only=True):
        assert "is in use by a connection of this process in another mode" in refusal(store)
    assert opens(store)


@pytest.mark.parametrize("pid", [0, 1 << 30, os.getppid()])
def test_a_number_that_is_not_that_of_a_process_with_the_file_names_nobody(store: Store, pid: int) -> None:
    """A lock of another machine or container has a number that means nothing here, or somebody else."""
    words = f'Could not set lock on file "{store}": Conflicting lock is held in /usr/bin/python3 (PID {pid}).'
    assert holder_of(store.path, words) == (UNKNOWN, "Wait for it to finish or stop it")
    assert holder_of(store.path, "Could not set lock on file")[0] == UNKNOWN
