"""One press of Ctrl-C stops, whatever a library makes of it."""

import signal
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
