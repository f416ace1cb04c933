"""What a person sees while a training runs."""

import pytest

from flywheel.cli.console import bars, training_listener
from flywheel.training.progress import Notice, Trained


@pytest.mark.parametrize("to_stderr", [False, True])
def test_what_a_training_waits_for_is_said_above_the_bars(capsys: pytest.CaptureFixture[str], to_stderr: bool) -> None:
    with bars(to_stderr) as shown:
        listener = training_listener(shown)
        listener(Notice("Slurm job 7 waits in the queue: Priority [gpu]."))
        listener(Trained(1, 2, 0.5, None))
    said = capsys.readouterr()
    assert "Slurm job 7 waits in the queue: Priority [gpu]." in (said.err if to_stderr else said.out)
    assert "training steps" in (said.err if to_stderr else said.out)
