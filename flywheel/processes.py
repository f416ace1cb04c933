"""How our processes stop: on one Ctrl-C, and together with the process that started them.

`python -m flywheel.processes MODULE ARGUMENT...` runs a module until standard input, a pipe, ends. Then the module and all
that it started in its process group get SIGTERM, and SIGKILL if they have not ended later. A pipe ends with the process that
holds its other side, however that happens.
"""

import ctypes
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

SECONDS_TO_STOP = 20
_STOPS = {signal.SIGINT, signal.SIGTERM}
_SEND_AGAIN_SECONDS = 0.05
_LOOK_SECONDS = 0.1
_MOST_POOLS = -8  # M_ARENA_MAX of <malloc.h>
_SAME_PRESS_SECONDS = 0.5  # the terminal and whoever passes its signal on are one press


class _Presses:
    """The SIGINTs and SIGTERMs of a block, as the system tells of them: also while a library keeps Python from minding."""

    def __init__(self) -> None:
        self.limit = float("inf")
        self._new, self._first, self._again = False, 0.0, False
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._lock, self._closed = threading.Lock(), threading.Event()

    def take(self) -> bool:
        """Whether there was one; who asks next hears of later ones only."""
        with self._lock:
            self._look()
            pressed, self._new = self._new, False
        return pressed

    def watch(self, give_up: Callable[[], object]) -> None:
        """Call `give_up` when this process is still there `limit` seconds after the first one, or at the second."""
        while not self._closed.wait(_LOOK_SECONDS):
            with self._lock:
                self._look()
            if self._again or (self._first and time.monotonic() - self._first > self.limit):
                give_up()

    def close(self, watched: bool) -> None:
        """Hear no more; but one who was pressed and watches does so until the process has ended."""
        if watched and self._first:
            return
        signal.set_wakeup_fd(self._before)
        self._closed.set()
        with self._lock:
            self._read.close()
            self._write.close()

    def _look(self) -> None:
        with suppress(OSError):  # nothing there, or closed
            if _STOPS & set(self._read.recv(1024)):
                now = time.monotonic()
                self._new, self._first = True, self._first or now
                self._again = now - self._first > _SAME_PRESS_SECONDS


_presses: _Presses | None = None  # of the outermost block


@contextmanager
def stoppable(limit: float | None = None, give_up: Callable[[], object] | None = None) -> Iterator[None]:
    """Raise KeyboardInterrupt on exit if SIGINT or SIGTERM arrived inside the block, unless the block exits by itself.

    DuckDB makes an error of its own of the interrupt; Dagster holds it back between steps, forgets it after the last one, and
    otherwise calls the run failed; Python drops it in the callbacks of weak references, where it is therefore sent again.
    With a `limit`, `give_up` is called at the second press, or when the process has not ended so many seconds after the first:
    a library that waits in its own code lets Python mind nothing. In threads, which no signal reaches, this does nothing.
    """
    global _presses
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, hook = _presses, sys.unraisablehook
    presses = _presses = outer or _Presses()
    sys.unraisablehook = partial(_send_again, otherwise=hook)
    if limit is not None:
        presses.limit = limit
        threading.Thread(target=presses.watch, args=(give_up or partial(os._exit, 130),), daemon=True).start()
    exits = False
    try:
        yield
    except SystemExit:
        exits = True
        raise
    finally:
        pressed, sys.unraisablehook, _presses = presses.take(), hook, outer
        if outer is None:
            presses.close(watched=limit is not None)
        if pressed and not exits:
            raise KeyboardInterrupt


def take_longer_to_stop(seconds: float) -> None:
    """Give the blocks around the caller so many seconds for an orderly end."""
    if _presses is not None:
        _presses.limit = seconds


def _send_again(dropped: "sys.UnraisableHookArgs", otherwise: Callable[["sys.UnraisableHookArgs"], object]) -> None:
    if issubclass(dropped.exc_type, Exception):
        otherwise(dropped)
    else:
        threading.Timer(_SEND_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()


def at_end_of_input(stop: Callable[[], object]) -> None:
    """Call `stop` in a thread once standard input ends, which it does when the process at its other end dies."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        stop()

    threading.Thread(target=wait, daemon=True).start()


def _stop_group() -> None:
    os.killpg(0, signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    os.killpg(0, signal.SIGKILL)


def _need_less_memory() -> None:
    """Leave out 2 to 7 MiB of what a server on Dagster never needs; what it starts is as it would be."""
    # Alembic brings a template engine that would colour its own errors.
    sys.modules["mako.ext.pygmentplugin"] = None  # type: ignore[assignment]
    # glibc gives each thread a pool of its own, up to eight for each core, and keeps what one has freed in its pool.
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MOST_POOLS, 2)


def main() -> None:
    """Run the module as `python -m` does. The process has to lead its group."""
    _need_less_memory()
    at_end_of_input(_stop_group)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
