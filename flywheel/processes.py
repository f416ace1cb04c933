"""Ctrl-C, and SIGTERM where it means the same: one press stops, whatever a library made of it."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

_STOPS = {signal.SIGINT, signal.SIGTERM}


_PRESS_AGAIN_SECONDS = 0.05


@contextmanager
def stoppable() -> Iterator[None]:
    """End with KeyboardInterrupt if a signal to stop came meanwhile, however the block ended, unless it exits by itself.

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
        sys.unraisablehook = partial(_press_again, otherwise=hook)
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


def _press_again(dropped: "sys.UnraisableHookArgs", otherwise: Callable[["sys.UnraisableHookArgs"], object]) -> None:
    if issubclass(dropped.exc_type, Exception):
        otherwise(dropped)
    else:
        threading.Timer(_PRESS_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()
