"""The function at Modal that trains (compute.engine = "modal"). Put it there from a checkout, again for each new version:

    modal secret create flywheel-storage AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_REGION=...
    modal deploy deploy/modal_app.py

What may differ between teams is set right below.
"""

import os
import subprocess
from pathlib import Path

import modal

APP = "flywheel"
SECRETS = ["flywheel-storage"]  # whose variables lead to storage.root
GPU: list[str] | None = ["L4", "A10", "L40S"]  # the first one that Modal has free; None trains on CPUs
CPUS, MEMORY_MIB = 4.0, 16_384
EXTRAS = "demo,tune,s3"
HOURS = 24  # the longest that Modal lets a call run; compute.job_hours ends a training before
LOST = 5  # how often a training goes on whose container was lost
SOURCES = ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "flywheel"]

image = modal.Image.debian_slim(python_version="3.11")
if modal.is_local():
    for source in SOURCES:
        place = Path(__file__).parents[1] / source
        add = image.add_local_dir if place.is_dir() else image.add_local_file
        image = add(place, f"/flywheel/{source}", copy=True)
image = image.run_commands(
    "pip install --no-cache-dir -c /flywheel/constraints.txt torch",
    f"pip install --no-cache-dir -c /flywheel/constraints.txt '/flywheel[{EXTRAS}]'",
)
app = modal.App(APP, image=image)


@app.function(
    gpu=GPU,
    cpu=CPUS,
    memory=MEMORY_MIB,
    secrets=[modal.Secret.from_name(name) for name in SECRETS],
    volumes={"/weights": modal.Volume.from_name("flywheel-weights", create_if_missing=True)},  # base models, of the hub
    env={"HF_HOME": "/weights"},
    timeout=HOURS * 3600,
    startup_timeout=1800,
    retries=modal.Retries(max_retries=LOST, initial_delay=1.0),
    single_use_containers=True,
)
def train(words: list[str], variables: dict[str, str]) -> dict[str, int | str]:
    """Run a training's command; what it prints is the call's log. Its exit code, and the last event that it printed.

    Nothing that the command does raises here: Modal starts again whatever raises.
    """
    print("The container has begun.", flush=True)
    last = ""
    try:
        child = subprocess.Popen(words, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        print(f"{error.strerror}: {error.filename}", flush=True)
        return {"exit_code": 127, "last_event": ""}
    try:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            last = line.rstrip("\n") if line.startswith('{"event"') else last
        return {"exit_code": child.wait(), "last_event": last}
    finally:
        child.terminate()  # the container is to go
