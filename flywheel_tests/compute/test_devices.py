"""Leases on made-up devices, by real processes: two at once have two, and a killed holder's is free again."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from flywheel.compute.devices import candidates, lease
from flywheel.errors import FlywheelError
from flywheel.training.progress import Notice, Progress, ignore_progress

HOLD = """
import sys
from pathlib import Path
from flywheel.compute.devices import lease
from flywheel.training.progress import to_line
with lease(sys.argv[2:], lambda event: print(to_line(event), flush=True), Path(sys.argv[1])) as device:
    print(device, flush=True)
    sys.stdin.read()
"""
TWO = ["cuda:0", "cuda:1"]


@contextmanager
def holder(folder: Path, *devices: str) -> "Iterator[subprocess.Popen[str]]":
    """A process that leases one of `devices` and holds it until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder), *devices]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_have_two_devices_and_a_third_waits_until_one_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path, *TWO) as first, holder(tmp_path, *TWO) as second:
        held = {said(first): first, said(second): second}
        assert held.keys() == set(TWO)
        with holder(tmp_path, *TWO) as third:
            assert "All of cuda:0, cuda:1 are training something else" in said(third)
            held["cuda:1"].kill()
            assert said(third) == "cuda:1"


def test_a_lease_ends_with_its_block_and_the_first_free_device_is_taken(tmp_path: Path) -> None:
    for _ in range(2):
        with ExitStack() as held:
            assert [held.enter_context(lease(TWO, ignore_progress, tmp_path)) for _ in TWO] == TWO
    with pytest.raises(ZeroDivisionError), lease(TWO, ignore_progress, tmp_path):
        _ = 1 / 0
    with lease(TWO, ignore_progress, tmp_path) as device:
        assert device == "cuda:0"


def test_one_who_waits_says_so_once(tmp_path: Path) -> None:
    heard: list[Progress] = []

    class StopWaitingError(Exception):
        pass

    def listener(event: Progress) -> None:
        heard.append(event)
        raise StopWaitingError

    with lease(["mps"], ignore_progress, tmp_path), pytest.raises(StopWaitingError), lease(["mps"], listener, tmp_path):
        pass
    assert heard == [Notice("All of mps are training something else; waiting for the first to be free.")]


def test_a_card_is_leased_by_what_it_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    with lease(["cuda:0"], ignore_progress, tmp_path):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        with lease(TWO, ignore_progress, tmp_path) as other:
            assert other == "cuda:0"


def test_the_cpu_needs_no_lease_and_a_named_device_is_the_only_candidate(tmp_path: Path) -> None:
    assert (candidates("cpu"), candidates("gone"), candidates("cuda:3"), candidates("mps")) == ([], [], ["cuda:3"], ["mps"])
    with lease([], ignore_progress, tmp_path / "never") as device:
        assert device is None
    assert not (tmp_path / "never").exists()


def test_leases_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlywheelError, match="cannot be written"), lease(TWO, ignore_progress, tmp_path / "file" / "leases"):
        pass
