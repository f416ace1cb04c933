"""A hundred looks of the daemon while everything goes wrong: each delivered pair is stored once, each turn runs once.

The disk is also full for a while where the test may mount one of its own, which only root may do.
"""

import json
import logging
import multiprocessing
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import dagster as dg
import pytest

from flywheel.home import Home
from flywheel.models.catalogue import Variant
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.events.starter import starter_lines
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.new_pairs import new_pairs
from flywheel.pipeline.evaluation import evaluate_cell, measure_baseline
from flywheel.pipeline.training import train_cell
from flywheel.training.job import Cell
from flywheel_tests.helpers.clumps import take_world
from flywheel_tests.helpers.daemons import Nursery, Past
from flywheel_tests.helpers.homes import make_workspace, with_options

pytestmark = [pytest.mark.slow, pytest.mark.long]

LOOKS, SEED, AFTER = 100, 20261129, 60
BETWEEN_LOOKS = 35.0  # seconds of the home's clock: no sensor looks less often
DISK = 200 * 2**20
ENDING = " of what they ask"
VARIANT = "all-MiniLM-L6-v2@32"
SETTINGS = {
    "FLYWHEEL_RETRAINING__AFTER": str(AFTER),
    "FLYWHEEL_RETRAINING__VARIANT": VARIANT,
    "FLYWHEEL_BASELINE__LOCAL_VARIANT": VARIANT,
    "FLYWHEEL_COMPUTE__RUN_IN": "inline",
    "FLYWHEEL_ENCODING__DEVICE": "cpu",
    "FLYWHEEL_EVALUATION__MIN_COMPONENTS": "2",
    "FLYWHEEL_SPLITS__FROZEN_FROM": "0",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip


@dataclass
class Producers:
    """Who delivers to an inbox: files that appear at once, and files that grow from look to look, with lines cut in two."""

    inbox: Path
    known: list[str]
    chance: random.Random
    delivered: list[str] = field(default_factory=list)
    growing: list[tuple[IO[bytes], bytes, int]] = field(default_factory=list)
    files: int = 0

    def lines(self, count: int) -> bytes:
        """New pairs, each with a question that trains already."""
        texts = []
        for _ in range(count):
            old = self.known[len(self.delivered) % len(self.known)]
            self.delivered.append(f"{old} No. {len(self.delivered)}{ENDING}")
            texts.append(json.dumps({"text_a": self.delivered[-1], "text_b": old, "label": len(self.delivered) % 2}))
        return "".join(f"{text}\n" for text in texts).encode()

    def deliver(self, now: float, count: int) -> None:
        """Begin a delivery of so many pairs."""
        self.files += 1
        target = self.inbox / f"delivery-{self.files}.jsonl"
        content = self.lines(count)
        how = self.chance.choice(["renamed", "at once", "grows"])
        if how == "grows":
            self.growing.append((target.open("wb"), content, self.chance.randint(2, 4)))
        else:
            written = target.with_suffix(".part") if how == "renamed" else target
            written.write_bytes(content)
            os.utime(written, (now, now))
            written.rename(target)

    def grow(self, now: float, whole: bool = False) -> None:
        """Write on; every other time so long ago that the file looks finished, while it is still open."""
        still = []
        for file, rest, looks in self.growing:
            part = len(rest) if whole or looks <= 1 else self.chance.randint(1, max(1, len(rest) // 2))
            file.write(rest[:part])
            file.flush()
            stalled = self.chance.random() < 0.5
            os.utime(file.fileno(), (now - 30 * stalled, now - 30 * stalled))
            if rest[part:]:
                still.append((file, rest[part:], looks - 1))
            else:
                file.close()
        self.growing = still


@dataclass
class Outcome:
    """What is left when everything is quiet again."""

    delivered: list[str]
    counts: dict[str, int]
    ingest: Past
    retrain: Past
    looks_to_quiet: int


def storm(folder: Path, known: list[str]) -> Outcome:
    """A hundred looks, and then as many as it takes until nothing happens any more."""
    home = Home(folder / "disk" / "home")
    nursery = Nursery(home, SEED)
    chance = nursery.chance
    producers = Producers(home.inbox, known, chance)
    place, ballast = home.inbox.resolve(), folder / "disk" / "ballast"
    for number in range(LOOKS):
        nursery.ahead += BETWEEN_LOOKS
        if number == 20:
            nursery.ahead += 26 * 3600  # longer than Dagster takes up a look that was cut short
        if number == 70:
            nursery.ahead -= 100
        if number in (30, 35):
            _move(place, gone=number == 30)
        if number == 50 and ballast.parent.is_mount():
            _fill(ballast)
        if number == 55:
            ballast.unlink(missing_ok=True)
        reachable = not 30 <= number < 35 and not 50 <= number < 55
        if reachable:
            producers.grow(nursery.now())
            if number % 3 == 0 and number < 90:
                producers.deliver(nursery.now(), chance.randint(4, 16))
        killed_after = chance.uniform(0, 0.8) if chance.random() < 0.4 else None
        nursery.look(daemons=1 + (chance.random() < 0.4), killed_after=killed_after)
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, 1.2))
        if chance.random() < 0.3:
            nursery.kill_a_run()
    producers.grow(nursery.now(), whole=True)
    looks = _until_quiet(nursery, producers)
    with dg.DagsterInstance.from_ref(nursery.ref) as instance:
        past = {job: Past.of(instance, job) for job in ("ingest", "retrain")}
    return Outcome(producers.delivered, dict(nursery.counts), past["ingest"], past["retrain"], looks)


def _until_quiet(nursery: Nursery, producers: Producers) -> int:
    """Look in peace: first at what is left over, then at one delivery more, which is enough for a last training."""
    looks = 0
    for last in (False, True):
        if last:
            producers.deliver(nursery.now(), AFTER)
            producers.grow(nursery.now(), whole=True)
        quiet = 0
        while quiet < 4:
            nursery.ahead += 330  # a failed run is tried again ten minutes later at most
            nursery.look()
            looks += 1
            quiet = 0 if nursery.alive() else quiet + 1
            nursery.wait_for_runs()
            assert looks < 300, "it does not come to rest"
    return looks


def _move(place: Path, gone: bool) -> None:
    away = place.with_name("away")
    place.rename(away) if gone else away.rename(place)


def _fill(ballast: Path) -> None:
    """Leave no room on the disk."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))


def _settle_in(home: Path) -> None:
    os.environ.update(SETTINGS, FLYWHEEL_HOME=str(home), DAGSTER_HOME=str(home / "dagster"))
    import matplotlib.pyplot  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    import scipy.sparse.csgraph  # noqa: F401
    import sentence_transformers  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch

    import flywheel.definitions  # noqa: F401

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)], capture_output=True, check=False
    ).returncode  # fmt: skip
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.fixture
def known(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that train, of a home on that disk with a trained model; its inbox lies elsewhere, behind a link."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    workspace = with_options(make_workspace(disk / "home"), evaluation={"min_components": 2})
    world = take_world(workspace, list(starter_lines(STARTER / "questions.csv"))[-24 * 48 :])
    model = train_cell(world.workspace, world.snapshot, Cell(Variant.parse(VARIANT), "all"), "head")
    measure_baseline(world.workspace, world.snapshot, pay=False)
    evaluate_cell(world.workspace, model, world.snapshot)
    (tmp_path / "deliveries").mkdir()
    workspace.home.inbox.symlink_to(tmp_path / "deliveries")
    return sorted(set(world.snapshot.pairs("train")["text_b"]))


def test_a_hundred_looks_while_everything_goes_wrong(known: list[str], disk: Path, tmp_path: Path) -> None:
    home = Home(disk / "home")
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), initializer=_settle_in, initargs=(home.root,)
    ) as nursery:
        outcome = nursery.submit(storm, tmp_path, known).result()
    print(outcome.counts, outcome.looks_to_quiet)
    print(outcome.ingest, outcome.retrain, sep="\n")
    store = Store(home.database)
    with store.transaction() as db:
        rows = db.execute("SELECT text_a, text_b FROM observations WHERE source = 'interaction'").fetchall()
        (trainings,) = db.execute("SELECT count(*) FROM retrains").fetchone() or (0,)
    stored = Counter(text for pair in rows for text in pair if text.endswith(ENDING))  # the older text may stand first
    assert (stored, len(rows)) == (Counter(outcome.delivered), len(outcome.delivered)), "every delivered pair once"
    left = [path.name for path in home.inbox.iterdir() if path.name not in ("work", "done", ".lock")]
    assert (left, list((home.inbox / "work").glob("*"))) == ([], [])
    for past in (outcome.ingest, outcome.retrain):
        assert past.unfinished == 0
        assert len(past.keys) == len(set(past.keys)), "no state is launched twice at once"
        assert [state for state, ends in past.states.items() if ends.count("SUCCESS") > 1 or len(ends) > 3] == []
    assert not [name for name in outcome.counts if "twice at once" in name]
    assert list(outcome.ingest.states.values())[-1][-1] == "SUCCESS"
    assert list(outcome.retrain.states.values())[-1][-1] == "SUCCESS"
    assert new_pairs(store).new < AFTER, "no turn is lost"
    turns = sum("SUCCESS" in ends for ends in outcome.retrain.states.values())
    enough = len(outcome.delivered) // AFTER
    retries = sum(len(ends) - 1 for ends in outcome.retrain.states.values())  # each may train on what has come in since
    assert turns <= trainings - 1 <= enough + retries, "no training is one too many"
    assert turns <= enough, "no turn is one too many"
    assert outcome.counts["daemons killed"] > 10
    assert outcome.counts["runs of ingest killed"] + outcome.counts["runs of retrain killed"] > 5
