"""A real S3-compatible server: moto's, over HTTP."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(**environment: str) -> Iterator[str]:
    """The address of a server."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "flywheel_tests.helpers.s3_server", url.rpartition(":")[2]]
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, **environment}, **nowhere) as server:
        try:
            _wait_for(url)
            yield url
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URI of a bucket on a server of its own; the standard AWS variables lead to it."""
    variables = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    variables |= dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), "us-east-1")
    with served() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, "AWS_ENDPOINT_URL": url}.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()  # another file's server
        fsspec.filesystem("s3").mkdir("pairs")
        yield "s3://pairs"


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:  # it refuses whom it does not know
            return
        except OSError:
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
