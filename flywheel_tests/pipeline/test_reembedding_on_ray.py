"""Re-embedding over Ray: a real cluster of one machine on loopback, killed and gone on with; and what is refused before."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.folder import open_model
from flywheel.pipeline.reembedding import on_ray
from flywheel.pipeline.reembedding.on_ray import ray_cluster
from flywheel_tests.conftest import flywheel
from flywheel_tests.helpers.corpora import read_vectors, some_texts, write_corpus
from flywheel_tests.pipeline.test_reembedding import Shop, planned, shop, small_parts

__all__ = ["shop"]  # a fixture
OPEN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef"}


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FlywheelError, match=r"pip install 'flywheel\[ray\]'"), ray_cluster("local", 1):
        pass


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "auto", "127.0.0.1", "127.0.0.1:"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(FlywheelError, match="is no address of a Ray cluster"), ray_cluster(address, 1):
        pass


def test_where_nothing_listens_there_is_no_cluster() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(FlywheelError, match=f"No Ray cluster answers at {address}"), ray_cluster(address, 1):
            pass


NODES = {
    "one machine": ([{"CPU": 2.0}], None, (2, False, 1)),
    "as many as asked for": ([{"CPU": 2.0}, {"CPU": 3.0}], 4, (4, False, 2)),
    "the larger machine alone": ([{"CPU": 2.0}, {"CPU": 3.0}], 3, (3, False, 1)),
    "one a GPU": ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], None, (2, True, 1)),
}


@pytest.mark.parametrize("name", NODES)
def test_actors_are_counted_by_machine(name: str) -> None:
    resources, asked, expected = NODES[name]
    cluster = on_ray._sized([{"Alive": True, "Resources": each} for each in resources], asked)
    assert (cluster.actors, cluster.gpu, cluster.machines) == expected


TOO_SMALL = {
    "halves of cores": ([{"CPU": 0.5}, {"CPU": 0.5}], 1, "room for 0"),
    "too few cores": ([{"CPU": 2.0}, {"CPU": 1.0}], 4, "--actors 3 at most"),
    "a GPU without a core": ([{"CPU": 0.0, "GPU": 1.0}], None, "GPU and core"),
    "no machine": ([], None, "No machine"),
}


@pytest.mark.parametrize("name", TOO_SMALL)
def test_a_cluster_that_is_too_small_is_refused_where_ray_data_would_wait(name: str) -> None:
    resources, asked, sentence = TOO_SMALL[name]
    with pytest.raises(FlywheelError, match=sentence):
        on_ray._sized([{"Alive": True, "Resources": each} for each in resources], asked)


@pytest.mark.long
@pytest.mark.slow
def test_two_actors_killed_go_on_and_give_what_plain_encode_gives(shop: Shop, tmp_path: Path) -> None:
    texts = some_texts(1000)
    corpus = write_corpus(tmp_path, "parquet", list(range(1000)), list(texts))
    output, model = tmp_path / "out", shop.models[0]
    small_parts(planned(shop, corpus, output), 50)
    home = ("--model", model.name, "--home", str(shop.home))
    command = ("reembed", str(corpus), str(output), "--ray", "local", "--actors", "2", "--json", *home)
    log = tmp_path / "driver.log"
    with (
        log.open("wb") as out,
        subprocess.Popen([sys.executable, "-m", "flywheel.cli", *command], stdout=out, stderr=out) as driver,
    ):
        until = time.monotonic() + 600
        while len(list((output / model.name).glob("*.parquet"))) < 4:
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        started = psutil.Process(driver.pid).children(recursive=True)
        os.kill(driver.pid, signal.SIGKILL)
    for agent in psutil.wait_procs(started, timeout=30)[1]:  # Ray's agents look for their cluster for some minutes
        assert "Agent" in " ".join(agent.cmdline()), "an actor outlives who started it"
        agent.kill()
    run = flywheel(*command)
    assert run.returncode == 0, run.stderr
    done = json.loads(run.stdout)
    assert 200 <= done["kept"] < 1000
    assert (done["complete"], done["encoded"], done["estimate"]["workers"]) == (True, 1000 - done["kept"], 2)
    ids, vectors = read_vectors(output / model.name)
    assert ids == list(range(1000))
    np.testing.assert_allclose(vectors, open_model(model.folder, "cpu").encode(texts, show_progress_bar=False), atol=1e-5)


@contextmanager
def head(cores: int, **environment: str) -> Iterator[str]:
    """A Ray head of one machine, on loopback; its address."""
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # Ray's sockets lie in it, and their names are short
    ports = [_free_port() for _ in range(3)]
    there = {**os.environ, **OPEN, **environment}
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(ports[0]),
        "--dashboard-host", "127.0.0.1", "--dashboard-port", str(ports[1]), "--ray-client-server-port", str(ports[2]),
        "--min-worker-port", "20000", "--max-worker-port", "20200", "--num-cpus", str(cores), "--num-gpus", "0",
        "--object-store-memory", "100000000", "--disable-usage-stats", "--temp-dir", str(folder),
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=there, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            look = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", f"127.0.0.1:{ports[0]}"]
            until = time.monotonic() + 120
            while subprocess.run(look, env=there, capture_output=True, check=False).returncode:
                assert time.monotonic() < until
            yield f"127.0.0.1:{ports[0]}"
        finally:
            process.terminate()
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# What a process is told that finds every core taken, and one whose corpus turns bad under an actor.
_BUSY = """
import sys, time
from pathlib import Path
from flywheel.errors import FlywheelError
from flywheel.pipeline.reembedding import on_ray
from flywheel.pipeline.reembedding.plan import Request, plan_work
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import load_settings
home, corpus, output, model, address = sys.argv[1:]
on_ray._FREE_SECONDS = 20
with on_ray.ray_cluster(address, 1) as cluster:
    import ray
    work = plan_work(Workspace(load_settings(Path(home))), Request(Path(corpus), Path(output), model), 1)
    busy = [ray.remote(num_cpus=1)(lambda: time.sleep(600)).remote() for _ in range(2)]
    try:
        on_ray.OnRay(cluster, work).rate(work.sample)
    except FlywheelError as error:
        print(error, flush=True)
    for each in busy:
        ray.cancel(each, force=True)
    work.generation.folder.mkdir(parents=True)
    work.generation.write()
    Path(corpus).write_text(Path(corpus).read_text().replace('{"id": 40,', '{"id": "40",'))
    try:
        list(on_ray.OnRay(cluster, work).run(work))
    except FlywheelError as error:
        print(error, flush=True)
"""


@pytest.mark.slow
def test_a_cluster_is_used_by_its_address_and_what_it_cannot_do_is_said(shop: Shop, tmp_path: Path) -> None:
    texts: list[str | None] = [*some_texts(60), None]
    corpus, output = write_corpus(tmp_path, "jsonl", list(range(61)), texts), tmp_path / "out"
    name, model = shop.models[0].name, ("--model", shop.models[0].name, "--home", shop.home)
    with head(2) as address:
        run = flywheel("reembed", corpus, output, "--ray", address, "--actors", "3", *model, **OPEN)
        assert (run.returncode, "Give --actors 2 at most" in run.stderr) == (1, True), run.stderr
        run = flywheel("reembed", corpus, output, "--ray", address, "--json", *model, **OPEN)
        assert run.returncode == 0, run.stderr
        done = json.loads(run.stdout)
        assert (done["complete"], done["texts"], done["empty_places"]) == (True, 60, ["line 121"])
        assert read_vectors(output / name)[0] == list(range(60))
        command = [sys.executable, "-c", _BUSY, shop.home, corpus, tmp_path / "busy", name, address]
        said = subprocess.run(command, env={**os.environ, **OPEN}, capture_output=True, text=True, check=False)
        assert "No core of the cluster was free for 20 seconds" in said.stdout, said.stderr
        assert "'40' as its id" in said.stdout, said.stderr


@pytest.mark.slow
def test_a_cluster_with_a_token_asks_for_it(shop: Shop, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, "parquet", [1, 2], ["a", "b"])
    model = ("--model", shop.models[0].name, "--home", shop.home)
    with head(1, **TOKEN) as address:
        command = ("reembed", corpus, tmp_path / "out", "--ray", address, *model)
        refused = flywheel(*command, RAY_AUTH_MODE="disabled")
        assert (refused.returncode, "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in refused.stderr) == (1, True)
        assert flywheel(*command, **TOKEN).returncode == 0
