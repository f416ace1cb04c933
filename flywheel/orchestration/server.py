"""`flywheel up`: Dagster's web server and daemon on one home, started together and stopped together."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from filelock import FileLock, Timeout

from flywheel.errors import FlywheelError
from flywheel.home import Home
from flywheel.orchestration.instance import DAEMON_MODULE, UP
from flywheel.processes import SECONDS_TO_STOP, take_longer_to_stop

_HOST = "127.0.0.1"


def serve_ui(home: Home, port: int) -> int:
    """Serve until interrupted; returns the exit code.

    Raises FlywheelError when the port is taken or the home is served already (two daemons would corrupt its runs).
    """
    with socket.socket() as probe:
        if probe.connect_ex((_HOST, port)) == 0:
            raise FlywheelError(f"Port {port} is taken; choose another with `flywheel up --port N`.")
    lock = FileLock(home.up_lock, timeout=0)
    try:
        with lock:
            return _serve(home, port)
    except Timeout:
        raise FlywheelError(f"`flywheel up` is running on {home.root} already. Stop it first.") from None


def _serve(home: Home, port: int) -> int:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", UP: "1"}
    target = ["-m", "flywheel.definitions"]
    web = ["dagster_webserver", "-h", _HOST, "-p", str(port), *target, "--dagster-log-level", "warning"]
    daemon = [DAEMON_MODULE, "run", *target, "--log-level", "warning"]

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Handlers before children: a background shell ignores SIGINT, and children would inherit that and never stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    tethered = [sys.executable, "-m", "flywheel.processes"]  # so that they end even when this process is killed
    children = [
        subprocess.Popen([*tethered, *command], env=environment, start_new_session=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in (web, daemon)
    ]  # fmt: skip
    take_longer_to_stop(SECONDS_TO_STOP + 5)
    stopping = threading.Event()
    for child in children:
        threading.Thread(target=_pass_on, args=(child, stopping), daemon=True).start()
    print(f"Dagster UI on http://{_HOST}:{port}, home {home.root}; stop with Ctrl-C", flush=True)
    try:
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
        return next(child.returncode for child in children if child.returncode is not None) or 1
    except KeyboardInterrupt:
        print("stopping", flush=True)
        stopping.set()
        return 0
    finally:
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
        for child in children:
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
