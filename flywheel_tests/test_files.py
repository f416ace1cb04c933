"""Locks of one name: one holder at a time, though each takes the lock's file away with it."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import Timeout

from flywheel.files import locked

ROUNDS = 200
# Fails when two are inside at once: the second cannot create the marker.
HOLD_AGAIN_AND_AGAIN = f"""
import os, sys
from pathlib import Path
from flywheel.files import locked

folder = Path(sys.argv[1])
for _ in range({ROUNDS}):
    with locked(folder, "job"):
        os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
        os.unlink(folder / "inside")
        print("held")
"""


def test_processes_that_wait_for_each_other_hold_a_lock_one_at_a_time_and_leave_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_AGAIN_AND_AGAIN, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for each in running:
        out, err = each.communicate(timeout=300)
        assert each.returncode == 0, err
        assert out.split() == ["held"] * ROUNDS
    assert not list((tmp_path / ".locks").iterdir())


def test_who_waited_holds_the_lock_after_its_file_went(tmp_path: Path) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path, "job"):
            inside.set()
            leave.wait(60)

    holder = threading.Thread(target=hold)
    with locked(tmp_path, "job"):
        holder.start()
        assert not inside.wait(0.3)
    assert inside.wait(60)
    with pytest.raises(Timeout), locked(tmp_path, "job", 0.2):
        pytest.fail("two hold the lock")
    leave.set()
    holder.join(60)


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "job"):
        print(1 / 0)
    with locked(tmp_path, "job", 0):
        pass
