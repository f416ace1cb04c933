"""`flywheel up`: a code server, Dagster's web server and its daemon on one home, started together and stopped together.

The web server and the daemon share the code server, which loads the definitions once. `python -m flywheel.orchestration.server
HOME PORT` is the process that waits for all of them: it imports nothing heavy.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from filelock import FileLock, Timeout

from flywheel.errors import FlywheelError
from flywheel.home import Home
from flywheel.processes import SECONDS_TO_STOP

UP = "_FLYWHEEL_UP"  # set for what `flywheel up` starts
_DAEMON_MODULE = "dagster._daemon"
LOCATION = "flywheel.definitions"
_HOST = "127.0.0.1"
_LOOK_SECONDS = 0.25
_CODE, _WEB, _DAEMON = "The code server", "Dagster's web server", "Dagster's daemon"


def serve_ui(home: Home, port: int) -> NoReturn:
    """Become the process that serves the home, whose Dagster is prepared, until it is interrupted."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "flywheel.orchestration.server", str(home.root), str(port)])


def check_free(home: Home, port: int) -> None:
    """Raise FlywheelError when the port is taken, or the home is served already."""
    with socket.socket() as probe:
        if probe.connect_ex((_HOST, port)) == 0:
            raise FlywheelError(f"Port {port} is taken; choose another with `flywheel up --port N`.")
    with _alone(home):
        pass


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Two daemons would corrupt the home's runs."""
    home.dagster.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home.up_lock, timeout=0):
            yield
    except Timeout:
        raise FlywheelError(f"`flywheel up` is running on {home.root} already. Stop it first.") from None


def main() -> int:
    """Serve until interrupted; returns the exit code."""
    home, port = Home(Path(sys.argv[1])), int(sys.argv[2])

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Handlers before children: a background shell ignores SIGINT, and children would inherit that and never stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        with _alone(home), tempfile.TemporaryDirectory(prefix="flywheel-up-") as folder:
            return _serve(home, port, Path(folder))
    except FlywheelError as error:
        print(f"flywheel: {error}", file=sys.stderr)
        return 1


def _serve(home: Home, port: int, folder: Path) -> int:
    at = folder / "code.sock"
    workspace = folder / "workspace.yaml"
    workspace.write_text(f"load_from: [{{grpc_server: {{socket: '{at}', location_name: {LOCATION}}}}}]\n")
    children = _Children()
    print(f"Loading the definitions of {home.root}", flush=True)
    try:
        children.start(_CODE, ["dagster", "code-server", "start", "-m", LOCATION, "-s", str(at), "--log-level", "warning"])
        while not _answers(at):
            children.check()
            time.sleep(_LOOK_SECONDS)
        shared = ["-w", str(workspace)]
        web = ["dagster_webserver", "-h", _HOST, "-p", str(port), *shared, "--dagster-log-level", "warning"]
        children.start(_WEB, web)
        children.start(_DAEMON, [_DAEMON_MODULE, "run", *shared, "--log-level", "warning"])
        print(f"Dagster UI on http://{_HOST}:{port}, home {home.root}; stop with Ctrl-C", flush=True)
        while True:
            children.check()
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        print("stopping", flush=True)
        return 0
    finally:
        children.stop()


def _answers(at: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(at)) == 0


class _Children:
    """The processes of `flywheel up` by name. They end even when this process is killed."""

    def __init__(self) -> None:
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start `python -m` of a command; what it prints is printed here."""
        child = subprocess.Popen(
            [sys.executable, "-m", "flywheel.processes", *command],
            env={**os.environ, "PYTHONWARNINGS": "ignore", UP: "1"},
            start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._started[name] = child
        threading.Thread(target=_pass_on, args=(child, self._stopping), daemon=True).start()

    def check(self) -> None:
        """Raise FlywheelError when one has ended."""
        for name, child in self._started.items():
            if (code := child.poll()) is not None:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has ended with exit code {code}"
                raise FlywheelError(
                    f"{name} {how}, so everything stops; its last words are above, if any. `flywheel up` starts it again."
                )

    def stop(self) -> None:
        """End them all, in order if they can, and wait for that."""
        self._stopping.set()
        for child in self._started.values():
            assert child.stdin is not None
            child.stdin.close()
        for child in self._started.values():
            try:
                child.wait(SECONDS_TO_STOP + 3)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)


def _pass_on(child: "subprocess.Popen[bytes]", stopping: threading.Event) -> None:
    """Print what a child prints until it has to stop: a code server that is loading then ends with a traceback."""
    assert child.stdout is not None
    for line in child.stdout:
        if not stopping.is_set():
            with suppress(OSError):  # stdout is closed; keep draining the child
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
