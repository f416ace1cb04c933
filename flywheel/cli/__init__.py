"""`flywheel ...`: thin. Verbs call the functions the assets call; people read stdout, programs read `--json`."""

from flywheel.cli.app import main

__all__ = ["main"]
