"""Embedding over a Ray cluster with Ray Data: every actor takes a part, reads its rows, and writes its file.

The machines share a disk: corpus, model folder and output folder have the same paths everywhere. What Ray Data hands out are
the numbers of parts, so that a lost machine or a killed run costs the parts it was at, and no row is written twice.
"""

import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Any

from flywheel.errors import FlywheelError, needs_extra, one_line
from flywheel.models.embedder import Embedder
from flywheel.pairs.corpus.source import Corpus
from flywheel.pipeline.reembedding.engines import PartWriter, measured_rate, numbers_of
from flywheel.pipeline.reembedding.generation import MANIFEST, Generation, Part
from flywheel.pipeline.reembedding.plan import Work

LOCAL = "local"
_CONNECT_SECONDS = 10
_FREE_SECONDS = 90
_TOKEN = token_hex(16)  # one a process: Ray remembers the first
_NAMED_ERROR = re.compile(r"[\w.]+(Error|Exception): .")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster as this run uses it: so many actors, each with one core, and one GPU where the cluster has any."""

    actors: int
    gpu: bool
    machines: int


@contextmanager
def ray_cluster(address: str, actors: int | None) -> Iterator[Cluster]:
    """Connect to a cluster (HOST:PORT), or start Ray on this machine's loopback (`local`), for as long as the block lasts.

    Without `actors` there is one for each GPU, or each core where there is none. Raises FlywheelError when Ray is not
    installed, nothing answers, or the cluster is too small for so many actors: Ray Data would wait for them without a word.
    """
    if address != LOCAL:
        _check_address(address)
    # One node on loopback alone; without it every port listens on all interfaces. A token keeps other users of the machine out.
    local = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN} if address == LOCAL else {}
    with _environment(
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal", **local
    ):
        with needs_extra("ray", "flywheel reembed --ray"):
            ray = _ray()
        if address != LOCAL:
            _check_answers(address)
        with _connected(ray, address):
            yield _sized(ray.nodes(), actors)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that Ray and its processes see, where they have no values yet."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    usual: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        if address == LOCAL:
            ray.init(include_dashboard=False, **usual)
        else:
            ray.init(address=address, **usual)
    except Exception as error:  # whatever Ray raises: it has no common class for this
        if address == LOCAL:
            raise FlywheelError(
                f"Ray could not be started on this machine ({one_line(error)}). Run the same command again, or without --ray."
            ) from error
        raise FlywheelError(
            f"Ray at {address} does not take this process ({one_line(error)}). Run the command on a machine of the cluster, "
            "and give the address that `ray start` printed there."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    import ray
    import ray.data

    return ray


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise FlywheelError(f"{address!r} is no address of a Ray cluster. Give HOST:PORT as `ray start` prints it, or local.")


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing answers, or something else than Ray, to which `ray.init` would listen for minutes."""
    host, _, port = address.rpartition(":")
    look = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        done = subprocess.run(look, timeout=2 * _CONNECT_SECONDS, check=False, capture_output=True, text=True)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is not None and "AuthenticationError" in done.stderr:
        raise FlywheelError(
            f"The Ray cluster at {address} asks for a token. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, then run the same "
            "command again."
        )
    if done is None or done.returncode:
        raise FlywheelError(f"No Ray cluster answers at {address}. Give the address that `ray start` printed, or --ray local.")


def _sized(nodes: Sequence[dict[str, Any]], actors: int | None) -> Cluster:
    """How many actors there are, from what Ray says of its nodes."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    gpu = any(each.get("GPU", 0) >= 1 for each in resources)
    room = [int(min(each.get("CPU", 0), each.get("GPU", 0) if gpu else each.get("CPU", 0))) for each in resources]
    kind = "GPU and core" if gpu else "core"
    if actors is None and not sum(room):
        raise FlywheelError(f"No machine of the cluster has a {kind} for an actor. Start one with `ray start --num-cpus 1`.")
    wanted = sum(room) if actors is None else actors
    if wanted > sum(room):
        cores = sum(int(each.get("CPU", 0)) for each in resources)
        raise FlywheelError(
            f"{wanted} actors need one {kind} each, and the cluster has room for {sum(room)} ({cores} cores): Ray would wait "
            f"for the others without end. Give --actors {sum(room)} at most, or add machines."
        )
    busy = sorted(room, reverse=True)
    machines = next(count for count in range(1, len(busy) + 1) if sum(busy[:count]) >= wanted)
    return Cluster(wanted, gpu, machines)


class OnRay:
    """Actors of a cluster."""

    def __init__(self, cluster: Cluster, work: Work) -> None:
        self._cluster, self._work = cluster, work
        self.workers, self.machines, self.startup = cluster.actors, cluster.machines, 0.0
        self._takes = {"num_cpus": 1, "num_gpus": 1 if cluster.gpu else 0}
        self._device = work.device if work.device != "auto" else "cuda" if cluster.gpu else "cpu"

    def rate(self, sample: Sequence[str]) -> float:
        """Texts a second of all actors, as one of them is alone. Raises FlywheelError when none can start within 90 seconds;
        how long it then takes to load its model is not limited.
        """
        ray = _ray()
        self._check_machines()
        work = self._work
        started = time.perf_counter()
        first = ray.remote(max_restarts=0, **self._takes)(_First).remote()
        try:
            ready, _ = ray.wait([first.is_here.remote()], timeout=_FREE_SECONDS)
            if not ready:
                raise FlywheelError(
                    f"No {'GPU' if self._cluster.gpu else 'core'} of the cluster was free for {_FREE_SECONDS} seconds. Wait "
                    "for what runs there, or stop it, then run the same command again."
                )
            with _explained():
                found = first.rate.remote(work.folder, self._device, numbers_of(work.plan), list(sample))
                seconds, rate, failure = ray.get(found)
        finally:
            ray.kill(first)
        if failure:
            raise FlywheelError(failure)
        self.startup = time.perf_counter() - started - seconds
        return float(rate) * self.workers

    def _check_machines(self) -> None:
        """Refuse a cluster of which a machine does not see the model or the corpus."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = _ray()
        paths = [str(self._work.folder), str(self._work.corpus.path)]
        look = ray.remote(num_cpus=0, max_retries=0)(_what_is_wrong)
        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        here = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive]
        asked = [look.options(scheduling_strategy=each).remote(paths) for each in here]
        ready, waiting = ray.wait(asked, num_returns=len(asked), timeout=_FREE_SECONDS)
        if waiting:
            raise FlywheelError(
                f"{len(waiting)} of {len(asked)} machines of the cluster did not answer within {_FREE_SECONDS} seconds. Look "
                "at `ray status`, then run the same command again."
            )
        with _explained():
            wrong = [each for each in ray.get(ready) if each]
        if wrong:
            raise FlywheelError(
                f"{wrong[0]} ({len(wrong)} of {len(asked)} machines). Put it on a disk that all machines share."
            )

    def run(self, work: Work) -> Iterator[Part]:
        """Embed the parts, each in whichever actor is free. Raises the FlywheelError of an actor."""
        ray = _ray()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        numbers = [{"part": part.number} for part in work.todo]
        done = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
            _Actor, fn_constructor_args=(work.generation, work.corpus, work.folder, self._device), batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.workers), **self._takes,
        )  # fmt: skip
        by_number = {part.number: part for part in work.todo}
        with _explained():
            for row in done.iter_rows():
                if row["failure"]:
                    raise FlywheelError(row["failure"])
                yield by_number[int(row["part"])]


class _Actor:
    """One actor's model and place in the corpus. What fails is told as a value: of an exception Ray hands on the text alone."""

    def __init__(self, generation: Generation, corpus: Corpus, model: Path, device: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._generation, self._corpus, self._model, self._device = generation, corpus, model, device

    @cached_property
    def _writer(self) -> PartWriter:
        if not (self._generation.folder / MANIFEST).is_file():
            raise FlywheelError(
                f"A machine of the cluster does not see {self._generation.folder}. Choose an output folder on a disk that all "
                "machines share."
            )
        embedder = Embedder(self._model, self._device, numbers_of(self._generation.plan))
        return PartWriter(self._generation, self._corpus, embedder)

    @cached_property
    def _parts(self) -> dict[int, Part]:
        return {part.number: part for part in self._generation.plan.parts()}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        failures = []
        for number in batch["part"].tolist():
            try:
                self._writer.write(self._parts[number])
                failures.append("")
            except FlywheelError as error:
                failures.append(str(error))
        return {"part": batch["part"], "failure": failures}


class _First:
    """The actor that is timed: it says when it has its core, before it loads anything."""

    def is_here(self) -> None:
        """It is."""

    def rate(self, folder: Path, device: str, numbers: Any, sample: list[str]) -> tuple[float, float, str]:
        """Seconds that embedding a sample took, texts a second, and what failed."""
        import torch

        torch.set_num_threads(1)
        try:
            embedder, started = Embedder(folder, device, numbers), time.perf_counter()
            rate = measured_rate(embedder, sample)
        except FlywheelError as error:
            return 0.0, 0.0, str(error)
        return time.perf_counter() - started, rate, ""


def _what_is_wrong(paths: list[str]) -> str | None:
    missing = [path for path in paths if not Path(path).exists()]
    return f"A machine of the cluster does not see {missing[0]}" if missing else None


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what Ray says of a task or a machine that failed into a sentence."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        named = [line for line in lines if _NAMED_ERROR.match(line)] or lines
        raise FlywheelError(
            f"A machine of the cluster failed: {one_line(Exception(named[-1]))}. What is written stays; run the same command "
            "again when it is back."
        ) from error
