"""Which GPU a training has: a lease on one, so that of two trainings on a machine each has its own.

A lease is a file lock in a folder that all processes of the machine share. The system releases it when its holder ends,
however that happens. Containers that do not share the folder do not see each other's leases.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flywheel.errors import explain_disk_errors
from flywheel.training.progress import Listener, Notice

LEASES = Path(tempfile.gettempdir()) / "flywheel-devices"
_EVERYONE_READS_AND_WRITES = 0o666
_LOOK_AGAIN_SECONDS = 0.5


def candidates(device: str) -> list[str]:
    """The devices that the setting `device` allows and of which one must be leased; none for the CPU.

    `auto` and `cuda` mean any GPU here. A device that is not here is for the encoder to refuse.
    """
    if device in ("auto", "cuda"):
        import torch

        if cards := torch.cuda.device_count():
            return [f"cuda:{card}" for card in range(cards)]
        return ["mps"] if device == "auto" and torch.backends.mps.is_available() else []
    return [device] if device.startswith("cuda:") or device == "mps" else []


@contextmanager
def lease(devices: Sequence[str], listener: Listener, folder: Path = LEASES) -> Iterator[str | None]:
    """Hold the first free one of `devices` and yield its name; None when there are none to choose from.

    Where all are taken it waits, and says so, until one is given back: its holder ends some time, or is killed.
    """
    if not devices:
        yield None
        return
    lock, device = _first_free(devices, listener, folder)
    try:
        yield device
    finally:
        lock.release()


def _first_free(devices: Sequence[str], listener: Listener, folder: Path) -> tuple[FileLock, str]:
    with explain_disk_errors(folder):
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)  # other users lease here too
        waited = False
        while True:
            for device in devices:
                lock = FileLock(folder / f"{_card(device)}.lock", timeout=0, mode=_EVERYONE_READS_AND_WRITES)
                try:
                    lock.acquire()
                except Timeout:
                    continue
                return lock, device
            if not waited:
                waited = True
                taken = f"All of {', '.join(devices)} are training something else; waiting for the first to be free."
                listener(Notice(taken))
            time.sleep(_LOOK_AGAIN_SECONDS)


def visible_card(device: str, environment: Mapping[str, str]) -> str:
    """The name that CUDA_VISIBLE_DEVICES has for `cuda:N`, the Nth card that it shows; N itself when it says nothing."""
    shown = [card.strip() for card in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if card.strip()]
    number = device.partition(":")[2]
    return shown[int(number)] if number.isdecimal() and int(number) < len(shown) else number


def _card(device: str) -> str:
    """The card's name on this machine, whatever is visible to this process: its UUID where the driver tells."""
    import torch

    number = device.partition(":")[2]
    if device.startswith("cuda:") and number.isdecimal() and int(number) < torch.cuda.device_count():
        return f"cuda-{torch.cuda.get_device_properties(int(number)).uuid}"
    return f"cuda-{visible_card(device, os.environ)}" if device.startswith("cuda:") else device
