"""A real Ray cluster of several nodes, in a network of this process's own that has loopback only. Needs root and `ip`."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

DASHBOARD = "http://127.0.0.1:8265"
_HEAD = "127.0.0.1:6379"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_ALIVE = """
import sys, urllib.request
import ray
request = urllib.request.Request(sys.argv[2] + "/api/version")
request.add_header("Authorization", f"Bearer {sys.argv[3]}")
urllib.request.urlopen(request, timeout=5)
ray.init(address=sys.argv[1], logging_level="ERROR")
print(*(node["NodeID"] for node in ray.nodes() if node["Alive"]))
"""


@pytest.fixture(scope="module")
def own_network() -> Iterator[None]:
    """A network with loopback only, for this process and all that it starts: Ray listens on every interface there is."""
    pytest.importorskip("ray.job_submission")
    system = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    if shutil.which("ip") is None or system.unshare(_NEW_NETWORK):
        pytest.skip("a network of its own needs root and ip")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        yield
    finally:
        assert system.setns(before, _NEW_NETWORK) == 0
        os.close(before)


class RayCluster:
    """Nodes are started and killed one by one; the head trains nothing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self.nodes = folder, list[subprocess.Popen[bytes]]()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path}
        self._known: set[str] = set()
        self._session = tempfile.mkdtemp(prefix="ray")  # a short path, for its sockets
        self._start("--head", "--port=6379", "--dashboard-host=127.0.0.1", "--num-cpus=0", f"--temp-dir={self._session}")

    def add_node(self, cpus: int) -> "subprocess.Popen[bytes]":
        """Start a node, and wait until it has joined."""
        agent = f"--dashboard-agent-listen-port={52_400 + len(self.nodes)}"
        return self._start(f"--address={_HEAD}", f"--num-cpus={cpus}", agent)

    def kill(self, node: "subprocess.Popen[bytes]") -> None:
        """Lose a node and all that runs on it, as with its power."""
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def node_of_newest_training(self) -> "subprocess.Popen[bytes]":
        """The node on which the training that started last runs; waits until there is one."""
        deadline = time.monotonic() + 60
        while True:
            begun = [(since, place) for place, node in enumerate(self.nodes) for since in _trainings(node.pid)]
            if begun:
                return self.nodes[max(begun)[1]]
            assert time.monotonic() < deadline, "no training runs"
            time.sleep(0.05)

    def end(self) -> None:
        """Kill every node, and what is left of those that are dead."""
        for node in self.nodes:
            self.kill(node)
        shutil.rmtree(self._session, ignore_errors=True)

    def _start(self, *words: str) -> "subprocess.Popen[bytes]":
        first = 20_000 + 200 * len(self.nodes)
        ports = [f"--min-worker-port={first}", f"--max-worker-port={first + 199}"]
        command = ["ray", "start", "--block", *words, *ports, "--num-gpus=0", "--object-store-memory=100000000"]
        command[0] = str(Path(sys.executable).with_name("ray"))
        for _ in range(3):  # Ray gives a node 30 seconds to start, which is little on a busy machine
            with (self._folder / f"node-{len(self.nodes)}.log").open("wb") as log:
                node = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, start_new_session=True)
            self.nodes.append(node)
            if self._has_joined(node):
                return node
        pytest.fail(f"no node starts: see {self._folder}")

    def _has_joined(self, node: "subprocess.Popen[bytes]") -> bool:
        """Wait until the cluster has it; False when it ended."""
        words = [sys.executable, "-c", _ALIVE, _HEAD, DASHBOARD, os.environ["RAY_AUTH_TOKEN"]]
        deadline = time.monotonic() + 240
        while True:
            asked = subprocess.run(words, env=self._environment, capture_output=True, text=True, check=False)
            if new := {*asked.stdout.split()} - self._known:
                self._known |= new
                return True
            if node.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"{asked.stdout} {asked.stderr[-2000:]}"
            time.sleep(1)


def _trainings(node: int) -> list[float]:
    """When the trainings below a process have started."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(node).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "flywheel.training" in each.cmdline():
                    found.append(each.create_time())
    return found
