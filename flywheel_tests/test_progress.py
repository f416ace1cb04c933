import pytest

from flywheel.errors import FlywheelError
from flywheel.training.progress import Encoded, Progress, Trained, from_line, to_line, to_text


@pytest.mark.parametrize("event", [Encoded(3, 10), Trained(5, 20, 0.25, 7.5)])
def test_an_event_survives_a_line_of_json(event: Progress) -> None:
    assert from_line(to_line(event)) == event


@pytest.mark.parametrize("line", ["", "12", "[]", '{"event": "slept"}', '{"event": "encoded", "done": 1}', "Killed"])
def test_a_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(FlywheelError, match="not a progress event"):
        from_line(line)


def test_people_read_how_long_it_will_take() -> None:
    assert to_text(Trained(1_000, 2_000, 0.5, 30.2)) == "step 1,000 of 2,000, loss 0.5000, about 30 s left"
