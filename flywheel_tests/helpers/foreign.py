"""Environments of other programs: their packages in a folder of their own, in front of those of this environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_UNREACHABLE = ("from versions: none", "Connection", "Network is unreachable", "Temporary failure in name resolution")


def install(folder: Path, packages: list[str]) -> Path:
    """Packages in `folder`, without what they need in turn. The test is skipped where no package index is reached."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1", "--timeout", "10"]
    run = subprocess.run([*pip, "--target", str(folder), *packages], capture_output=True, text=True, check=False)
    if run.returncode:
        said = run.stderr.strip()
        if any(sign in said for sign in _UNREACHABLE):
            pytest.skip(f"no package index has {packages}: {said.splitlines()[-1]}")
        pytest.fail(said)
    return folder


def run_there(environment: Path, script: str, *arguments: str | Path, where: Path) -> str:
    """What a script prints that runs in `where`, with the packages of `environment` in front of this one's."""
    variables = {**os.environ, "PYTHONPATH": str(environment), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=where, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout
