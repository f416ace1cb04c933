"""One press of Ctrl-C stops, whatever a library makes of it."""

import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from flywheel.processes import stoppable


@pytest.fixture(autouse=True)
def _interrupts_are_not_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has them ignored
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_turned_into_an_error_stops() -> None:
    @stoppable()
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("Query interrupted") from None

    with pytest.raises(KeyboardInterrupt):
        work()


def test_an_interrupt_that_was_held_back_stops_at_the_end() -> None:
    done = []
    signal.signal(signal.SIGINT, lambda number, frame: done.append("held back"))

    @stoppable()
    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["held back", "went on"]


def test_an_interrupt_dropped_in_a_callback_comes_again() -> None:
    class Thing:
        pass

    def callback(reference: object) -> None:
        signal.raise_signal(signal.SIGINT)

    @stoppable()
    def work() -> None:
        thing = Thing()
        watched = weakref.ref(thing, callback)
        del thing
        assert watched() is None
        time.sleep(10)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - began < 9


def test_other_errors_dropped_in_a_callback_are_shown_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Thing:
        def __del__(self) -> None:
            raise ValueError("dropped")

    shown: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda dropped: shown.append(str(dropped.exc_value)))
    with stoppable():
        Thing()
    assert shown == ["dropped"]


def test_without_an_interrupt_nothing_changes() -> None:
    with stoppable():
        pass
    with pytest.raises(ValueError, match="as it was"), stoppable():
        raise ValueError("as it was")
    assert signal.set_wakeup_fd(-1) == -1


def test_who_minds_the_interrupt_and_exits_has_its_own_exit_code() -> None:
    @stoppable()
    def serve() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise SystemExit(0) from None

    with pytest.raises(SystemExit) as ended:
        serve()
    assert ended.value.code == 0


def test_blocks_lie_in_each_other() -> None:
    reached = []
    press = stoppable()(lambda: signal.raise_signal(signal.SIGINT))

    @stoppable()
    def work() -> None:
        with pytest.raises(KeyboardInterrupt):
            press()
        reached.append("the outer block goes on if it likes")
        press()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached


def test_in_a_thread_it_does_nothing() -> None:
    ended = []

    def work() -> None:
        with stoppable():
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended


STUCK = """
import ctypes, signal, sys, time
from flywheel.processes import stoppable, take_longer_to_stop
signal.signal(signal.SIGINT, signal.default_int_handler)
with stoppable(float(sys.argv[1])):
    with stoppable():  # as materialising does
        if len(sys.argv) > 2:
            take_longer_to_stop(float(sys.argv[2]))
        print("stuck", flush=True)
        library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)  # no signal gets it out of here
"""
STUCK_AFTERWARDS = """
import signal, threading, time
from flywheel.processes import stoppable
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=time.sleep, args=(600,)).start()  # the interpreter waits for it when it exits
with stoppable(1):
    print("stuck", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("code", "limits", "presses", "ends"),
    [
        (STUCK, ["1"], 1, True),
        (STUCK, ["600"], 2, True),
        (STUCK, ["1", "600"], 1, False),  # whoever needs longer says so,
        (STUCK, ["1", "600"], 2, True),  # and ends at the second press too
        (STUCK_AFTERWARDS, [], 1, True),
    ],
)
def test_a_process_that_minds_no_signal_ends_after_a_while_or_at_the_second_press(
    code: str, limits: list[str], presses: int, ends: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", code, *limits], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as stuck:
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "stuck\n"
        time.sleep(0.2)
        for _ in range(presses):
            stuck.send_signal(signal.SIGINT)
            time.sleep(0.8)
        if ends:
            assert stuck.wait(30) == 130
        else:
            time.sleep(1.5)
            assert stuck.poll() is None
            stuck.kill()


def test_two_signals_at_once_are_one_press() -> None:
    given_up = []

    @stoppable(600, lambda: given_up.append(True))
    def work() -> None:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        time.sleep(0.7)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not given_up
    signal.set_wakeup_fd(-1)
