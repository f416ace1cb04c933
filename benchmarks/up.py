"""What `flywheel up` costs: idle, and from the launch of one cell to its end, in the same minutes.

    python benchmarks/up.py --home HOME [--out up.json] [--label NAME] [--rounds 3] [--idle 180]

HOME is a home after `flywheel demo`; a copy of it is worked in. Each figure goes into the file as it is measured, under the
label, and one that is there is not measured again: to compare two versions, run both with labels of their own and one file.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from quora import row

LAUNCH = """mutation ($tags: [ExecutionTag!]!, $config: RunConfigData!) { launchRun(executionParams: {
    selector: {repositoryLocationName: "flywheel.definitions", repositoryName: "__repository__", jobName: "__ASSET_JOB",
        assetSelection: [{path: ["finetuned_model"]}, {path: ["evaluation"]}]},
    runConfigData: $config, executionMetadata: {tags: $tags}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUN = """query ($run: ID!) { runOrError(runId: $run) { ... on Run { status creationTime startTime endTime
    stepStats { stepKey startTime endTime } } } }"""
HEALTHY = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
VARIANT, SIZE = "all-MiniLM-L6-v2@256", "400"
SETTLE = 30.0  # seconds after the start until a server counts as idle


class Up:
    """`flywheel up` on a home, and the processor time that it and all that it starts have taken."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.started = home, time.monotonic()
        command = [sys.executable, "-m", "flywheel.cli", "up", "--home", str(home), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer to a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as response:
            data: dict[str, Any] = json.load(response)["data"]
        return data

    def wait_until_healthy(self) -> float:
        """Wait for the page and the daemons; returns the seconds since the start."""
        while True:
            try:
                daemons = self.ask(HEALTHY)["instance"]["daemonHealth"]["allDaemonStatuses"]
                if all(each["healthy"] for each in daemons if each["required"]):
                    return time.monotonic() - self.started
            except OSError:  # not listening yet
                pass
            if self.process.poll() is not None:
                raise SystemExit("flywheel up has ended")
            time.sleep(0.2)

    def processes(self) -> list[psutil.Process]:
        """It and all below it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def cpu(self) -> dict[str, float]:
        """Processor seconds by process, those of its ended children included."""
        found: dict[str, float] = {}
        for process in self.processes():
            try:
                times, name = process.cpu_times(), _name(process)
            except psutil.NoSuchProcess:
                continue
            spent = times.user + times.system + times.children_user + times.children_system
            found[name] = found.get(name, 0.0) + spent
        return found

    def memory(self) -> dict[str, float]:
        """MiB by process, what several share split between them."""
        found: dict[str, float] = {}
        for process in self.processes():
            name = _name(process)
            found[name] = found.get(name, 0.0) + process.memory_full_info().pss / 2**20
        return found

    def run_cell(self, random_seed: int) -> dict[str, Any]:
        """Launch a cell and its evaluation, and wait for the end."""
        cell = {"": f"{SIZE}|{VARIANT}", "/variant": VARIANT, "/size": SIZE}
        tags = [{"key": f"dagster/partition{dimension}", "value": value} for dimension, value in cell.items()]
        config = {"resources": {"workspace": {"config": {"random_seed": random_seed}}}}
        before, started = sum(self.cpu().values()), time.time()
        answer = self.ask(LAUNCH, tags=tags, config=config)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise SystemExit(str(answer))
        while (run := self.ask(RUN, run=answer["run"]["runId"])["runOrError"])["status"] not in ("SUCCESS", "FAILURE"):
            time.sleep(0.2)
        if run["status"] == "FAILURE":
            raise SystemExit(f"run {answer['run']['runId']} has failed")
        steps = {each["stepKey"]: each["endTime"] - each["startTime"] for each in run["stepStats"]}
        time.sleep(1)  # until the run's process has ended, so that its time is counted
        return {
            "seconds": run["endTime"] - started, "until started": run["startTime"] - started,
            "cpu": sum(self.cpu().values()) - before, "steps": steps,
        }  # fmt: skip

    def stop(self) -> None:
        """As Ctrl-C does."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(60)


def _name(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    known = {"orchestration.server": "parent", "code-server": "code server", "api grpc": "code server",
             "dagster_webserver": "web server", "_daemon": "daemon"}  # fmt: skip
    return next((name for word, name in known.items() if word in words), "others")


def measure(home: Path, found: dict[str, Any], keep: Any, rounds: int, idle: float) -> None:
    """Measure what is not there yet; `keep` is called after each figure."""
    if all(name in found for name in ("idle", *(f"{kind} {n}" for kind in ("new", "again") for n in range(rounds)))):
        return
    up = Up(home)
    try:
        found.setdefault("start", up.wait_until_healthy())
        time.sleep(SETTLE)
        if "idle" not in found:
            before, started = up.cpu(), time.monotonic()
            time.sleep(idle)
            seconds, after = time.monotonic() - started, up.cpu()
            shares = {name: (spent - before.get(name, 0.0)) / seconds for name, spent in after.items()}
            found["idle"] = {"seconds": seconds, "cores": shares, "mib": up.memory(), "load": os.getloadavg()[1]}
            keep()
        for number in range(rounds):
            for kind in ("new", "again"):  # the second time it is finished
                if f"{kind} {number}" not in found:
                    found[f"{kind} {number}"] = {**up.run_cell(1000 + number), "load": os.getloadavg()[0]}
                    keep()
    finally:
        up.stop()


def report(results: dict[str, Any]) -> str:
    """All labels side by side, as Markdown."""
    names = list(results)
    lines = [row("", *names), row("---", *["---:"] * len(names))]

    def add(title: str, values: list[str]) -> None:
        lines.append(row(title, *values))

    add("idle, share of a core", [f"{100 * sum(results[n]['idle']['cores'].values()):.1f} %" for n in names])
    for part in ("daemon", "code server", "web server", "parent"):
        add(f"- {part}", [f"{100 * results[n]['idle']['cores'].get(part, 0):.1f} %" for n in names])
    add("memory, MiB (PSS)", [f"{sum(results[n]['idle']['mib'].values()):.0f}" for n in names])
    for part in ("daemon", "code server", "web server", "parent"):
        add(f"- {part}", [f"{results[n]['idle']['mib'].get(part, 0):.0f}" for n in names])
    for kind, words in (("new", "a new cell"), ("again", "the same cell again")):
        cells = {n: [run for key, run in results[n].items() if key.startswith(f"{kind} ")] for n in names}
        add(f"{words}: launch to end, s", [_spread([run["seconds"] for run in cells[n]]) for n in names])
        add("- of it until the run has started", [_spread([run["until started"] for run in cells[n]]) for n in names])
        for step in sorted({step for n in names for run in cells[n] for step in run["steps"]}):
            add(f"- of it {step}", [_spread([run["steps"].get(step, 0.0) for run in cells[n]]) for n in names])
        add("- processor seconds of all processes", [_spread([run["cpu"] for run in cells[n]]) for n in names])
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Measure, keep, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("up.json"))
    parser.add_argument("--label", default="now")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=180)
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found = results.setdefault(arguments.label, {})

    def keep() -> None:
        arguments.out.write_text(json.dumps(results, indent=1))

    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        home = Path(folder) / "home"
        subprocess.run(["cp", "-a", str(arguments.home), str(home)], check=True)
        measure(home, found, keep, arguments.rounds, arguments.idle)
        shutil.rmtree(home, ignore_errors=True)
    print(report(results))


if __name__ == "__main__":
    main()
