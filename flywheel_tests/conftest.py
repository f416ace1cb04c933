"""Homes for tests: temporary, separate, with every model from local files only.

Three tiers. `make test` runs every test that is not marked `slow`: a person waits for it. `make test-most` runs the slow ones
too: loops that kill real processes, `flywheel up` with its web server and daemon, simulations, inputs of real size. A test
that takes over five seconds of processor time belongs there, unless nothing quicker would notice that the part is broken.
`make test-long` runs those that are marked `long` as well: minutes each on two cores, and what they show a shorter test shows
in part. Random cases that make a store each are fewer in `make test` (`examples`).

All run two tests at a time (`make TESTS_AT_ONCE=N`), in processes of their own (`pytest --dist loadfile`). The tests of one
file share a process, one after the other, so that a module's fixtures are made once; `demo` is made once for all processes.
What two tests may use at once must not be one thing: no fixed port, no folder outside `tmp_path`.
"""

import io
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from flywheel.cli import main
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.encoder import load_encoder
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.endpoint import endpoint, plain_environment, secret_key, vectors
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.postgres import postgres

__all__ = ["endpoint", "plain_environment", "postgres", "secret_key", "vectors"]  # fixtures of every test that asks for them

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

os.environ["HF_HUB_OFFLINE"] = "1"
# Ray reads these once, when it is first imported: a cluster of these tests obeys these tests alone.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")
for name in [name for name in os.environ if name.startswith("FLYWHEEL_") or name in ("DAGSTER_HOME", "OPENAI_API_KEY")]:
    del os.environ[name]


def examples(most: int) -> int:
    """How many random cases a costly test tries: `most`, and a third of them in `make test`, which sets QUICK."""
    return most // 3 if "QUICK" in os.environ else most


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: the last minutes belong to short ones, and no process waits long for another's end.

    The demo is made by the first of them, while the others are at files that need none.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    demo = {item.path for item in items if "demo" in getattr(item, "fixturenames", ())}
    maker = min(demo & slow, default=None)
    items.sort(key=lambda item: (item.path != maker, item.path not in slow, item.path in demo))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A home that draws as soon as a draw can judge."""
    return make_workspace(tmp_path / "home", splits={"frozen_from": 0})


@pytest.fixture
def store(workspace: Workspace) -> Store:
    return workspace.store


_SET_BY_VERBS = ("DAGSTER_HOME", "FLYWHEEL_HOME")  # to the home at work


def _without_home(patch: pytest.MonkeyPatch) -> None:
    """Neither variable is set, nor is when the patch is undone."""
    for name in _SET_BY_VERBS:
        patch.setenv(name, "")
        patch.delenv(name)


@pytest.fixture(autouse=True)
def _no_home_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_home(monkeypatch)


@pytest.fixture(autouse=True)
def _children_can_be_stopped(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process inherits which signals are blocked or ignored: what one test leaves so would make children of the next deaf.

    So does a shell that starts all of them in the background, where SIGINT is ignored; Dagster then ignores SIGTERM too.
    """
    _let_stop("before", request.node.nodeid)
    yield
    _let_stop("after", request.node.nodeid)


def _let_stop(when: str, test: str) -> None:
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, usual) & usual.keys()
    ignored = {number for number in usual if signal.getsignal(number) == signal.SIG_IGN}
    for number in ignored:
        signal.signal(number, usual[number])
    for number in blocked | ignored:
        warnings.warn(f"{number.name} was {'blocked' if number in blocked else 'ignored'} {when} {test}", stacklevel=1)


def flywheel(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flywheel.cli", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **environment}, timeout=600, check=False,
    )  # fmt: skip


def verb(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, whose imports are done: for what verbs answer, not how their process ends.

    A verb that asks a question needs `flywheel`: pytest lets nobody read standard input.
    """
    command, out, err, code = ["flywheel", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    dagster, level = logging.getLogger("dagster"), logging.getLogger("dagster").level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        _without_home(patch)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        finally:
            dagster.setLevel(level)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def encoder() -> "SentenceTransformer":
    """MiniLM on the CPU, in float32; loaded once for all that only read it."""
    return load_encoder(CATALOGUE["all-MiniLM-L6-v2"], "cpu")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A home after one `flywheel demo`, and what the demo printed. Tests that change the home copy it (`copy_home`).

    An API key lies about, for an endpoint that nothing answers at.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "the-demo"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "run.json").exists():
            keyed = {"OPENAI_API_KEY": "sk-live", "FLYWHEEL_BASELINE__URL": "http://127.0.0.1:9/v1"}
            (folder / "run.json").write_text(json.dumps(vars(flywheel("demo", "--home", folder / "home", **keyed))))
    return folder / "home", subprocess.CompletedProcess(**json.loads((folder / "run.json").read_text()))


def copy_home(home: Path, target: Path) -> Path:
    """A copy of a home that keeps the hard links between its model folders."""
    subprocess.run(["cp", "-a", home, target], check=True)
    return target
