"""How our processes stop: on one Ctrl-C, and together with the process that started them.

`python -m flywheel.processes MODULE ARGUMENT...` runs a module until standard input, a pipe, ends. Then the module and all
that it started in its process group get SIGTERM, and SIGKILL if they have not ended later. A pipe ends with the process that
holds its other side, however that happens.
"""

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


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt on exit if SIGINT or SIGTERM arrived inside the block, unless the block exits by itself.

    DuckDB makes an error of its own of the interrupt; Dagster holds it back between steps, forgets it after the last one, and
    otherwise calls the run failed; Python drops it in the callbacks of weak references, where it is therefore sent again.
    In threads, which no signal reaches, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = socket.socketpair()
    with read, write:
        read.setblocking(False)
        write.setblocking(False)
        wakeup, hook = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False), sys.unraisablehook
        sys.unraisablehook = partial(_send_again, otherwise=hook)
        exits = False
        try:
            yield
        except SystemExit:
            exits = True
            raise
        finally:
            signal.set_wakeup_fd(wakeup)
            sys.unraisablehook = hook
            with suppress(BlockingIOError):
                if _STOPS & set(read.recv(1024)) and not exits:
                    raise KeyboardInterrupt


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


def main() -> None:
    """Run the module as `python -m` does. The process has to lead its group."""
    at_end_of_input(_stop_group)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
