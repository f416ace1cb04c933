import pytest

from flywheel.errors import FlywheelError
from flywheel.training.progress import (
    Encoded,
    Event,
    Failure,
    Notice,
    Progress,
    Result,
    Trained,
    from_line,
    paced,
    to_line,
    to_text,
)

EVENTS = [
    *(Encoded(3, 10), Trained(5, 20, 0.25, 7.5), Notice("wait"), Result("s3://bucket/model", 0.1, 0.5, 100, 2.5, True)),
    Failure("The disk is full."),
]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_survives_a_line_of_json(event: Event) -> None:
    assert from_line(to_line(event)) == event


@pytest.mark.parametrize("line", ["", "12", "[]", '{"event": "slept"}', '{"event": "encoded", "done": 1}', "Killed"])
def test_a_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(FlywheelError, match="not a progress event"):
        from_line(line)


def test_people_read_how_long_it_will_take() -> None:
    assert to_text(Trained(1_000, 2_000, 0.5, 30.2)) == "step 1,000 of 2,000, loss 0.5000, about 30 s left"


def test_a_paced_listener_hears_the_first_the_last_and_notices_and_little_between() -> None:
    heard: list[Progress] = []
    now = 0.0
    listen = paced(heard.append, 2.0, lambda: now)
    timed = [(0.0, Encoded(1, 9)), (1.9, Encoded(2, 9)), (2.0, Encoded(3, 9)), (2.1, Notice("wait")), (2.2, Encoded(9, 9))]
    for at, event in timed:
        now = at
        listen(event)
    assert heard == [Encoded(1, 9), Encoded(3, 9), Notice("wait"), Encoded(9, 9)]
