"""A question to the store from a server that lives on: a process of its own asks, and DuckDB's 40 MiB end with it.

`python -m flywheel.pairs.store.aside HOME` reads the storage's options from standard input, and prints the answer in JSON or,
with an exit code that is not 0, what went wrong.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from flywheel.errors import FlywheelError
from flywheel.home import Home
from flywheel.pairs.options import StorageOptions
from flywheel.pairs.store.ducklake import open_store
from flywheel.pairs.store.new_pairs import NewPairs, new_pairs

_COARSE_SECONDS = 2.0  # between two times that FAT tells apart


def new_pairs_aside(home: Home, options: StorageOptions) -> NewPairs:
    """`new_pairs` of a home, asked by a process of its own in a third of a second, unless nothing was written since.

    Raises FlywheelError where that does.
    """
    written = _written(home) if options.database is None else ()
    return _answer(home, options, written) if written else _ask(home, options)


def _written(home: Home) -> tuple[tuple[int, int, int], ...]:
    """The state of the store's file and of those beside it, such as its log: another one after whatever is written to them.

    Empty where that cannot be said: some file systems write down whole seconds, so what comes next may look the same.
    """
    with suppress(FileNotFoundError):  # one is gone meanwhile
        states = [file.stat() for file in sorted(home.root.glob(f"{home.database.name}*"))]
        if all(state.st_mtime < time.time() - _COARSE_SECONDS for state in states):
            return tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)
    return ()


@lru_cache(maxsize=8)
def _answer(home: Home, options: StorageOptions, written: tuple[tuple[int, int, int], ...]) -> NewPairs:
    return _ask(home, options)


def _ask(home: Home, options: StorageOptions) -> NewPairs:
    command = [sys.executable, "-m", "flywheel.pairs.store.aside", str(home.root)]
    asked = subprocess.run(command, input=options.model_dump_json(), stdout=subprocess.PIPE, text=True)
    if asked.returncode == 0:
        answer = json.loads(asked.stdout)
        last = answer.pop("last")
        return NewPairs(**answer, last=None if last is None else datetime.fromisoformat(last))
    raise FlywheelError(
        asked.stdout.strip()
        or f"The process that counts new pairs ended with {asked.returncode}; its last words are in the "
        "server's output. The next look of the sensor asks again."
    )


def main() -> int:
    """Answer, or say in a sentence why not; returns the exit code."""
    home, options = Home(Path(sys.argv[1])), StorageOptions.model_validate_json(sys.stdin.read())
    try:
        _say(json.dumps(asdict(new_pairs(open_store(home, options))), default=datetime.isoformat))
    except FlywheelError as error:
        _say(str(error))
        return 1
    return 0


def _say(text: str) -> None:
    with suppress(BrokenPipeError):  # who asked has been killed
        os.write(sys.stdout.fileno(), text.encode())


if __name__ == "__main__":
    sys.exit(main())
