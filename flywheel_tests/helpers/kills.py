"""Killed at any moment, or run twice at once, an ingest loses nothing, doubles nothing and leaves nothing behind.

Every ingest here is an operating-system process that SIGKILL ends, and every home is compared with one left in peace. The
processes are forked in a nursery: a process of its own that has imported everything, opens no database and runs no second
thread of Python's. So one starts in milliseconds, and inherits no lock that somebody else holds.
"""

import gzip
import json
import logging
import math
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.pairs import ingest as ingest_module
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events import staging
from flywheel.pairs.events.readers import read_batch
from flywheel.pairs.inbox import take_inbox
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.store.accounts import unaccounted
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.homes import make_workspace

KILLS = 100
SEED = 20260714
CHUNK, SLICE = 100, 300  # lines; the largest file below makes several slices of several chunks
PATIENCE = 120.0  # seconds after which a process counts as hung
SPLITS = ("train", "calibration", "test")

# What a process is at, told by the files it has made.
READING, STAGING, TRANSACTION, COMMIT = "reading", "staging", "transaction", "commit"
EXPORT, PUBLISHING, POINTING, CLAIMING = "export", "publishing", "pointing at the latest", "claiming"
STAGES = {
    "files": (READING, STAGING, TRANSACTION, COMMIT),
    "snapshot": (READING, EXPORT, COMMIT, PUBLISHING, POINTING),
    "more files": (READING, STAGING, TRANSACTION, COMMIT),
    "inbox": (READING, CLAIMING, STAGING, TRANSACTION, COMMIT),
}

# What is left in a home but the moments at which it was done.
TABLES = {
    "observations": "*",
    "pairs": "*",
    "assignments": "*",
    "quarantine": "*",
    "batches": "* EXCLUDE (ingested_at)",
    "draws": "source, version, drawn_at IS NOT NULL AS drawn",
    "frozen_pairs": "*",
    "snapshots": "*",
    "forgotten": "*",
}

Act = Callable[[Workspace], object]


# The data: events that overlap from file to file, some without an id, some that are none, some that contradict others.


def _event(number: int, a: str, b: str, **more: Any) -> dict[str, Any]:
    said = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return {"text_a": a, "text_b": b, "label": number // 3 % 2, "time": said.isoformat(), "user": f"user {number % 7}", **more}


def _in_topic(number: int) -> dict[str, Any]:
    """The same number gives the same event: four wordings of a topic, each tied to the next."""
    topic, wording = divmod(number, 4)
    a, b = f"topic {topic} wording {wording}", f"topic {topic} wording {(wording + 1) % 4}"
    return _event(number, a, b, event_id=f"e{number}", session=number)


def _later(number: int) -> dict[str, Any]:
    """After the draw: chains of new questions that hang on old ones, and second thoughts about old pairs."""
    topic = number % 260
    if number % 5 == 0:
        return _event(5000 + number, f"Topic {topic} wording 0", f"topic {topic} wording 1", event_id=f"l{number}")
    if number % 5 == 1:
        return _event(5000 + number, f"new {number - 1}", f"new {number}", event_id=f"l{number}")
    return _event(5000 + number, f"topic {topic} wording {number % 4}", f"new {number}", event_id=f"l{number}")


def _search(number: int) -> dict[str, Any]:
    shown = [f"topic {(number + place) % 200} wording {place % 4}" for place in range(5)]
    query = f"search {number % 40} of me{number % 3}@example.org in delivery {number // 120}"
    return {"type": "search", "event_id": f"s{number}", "query": query, "shown": shown, "clicked": [number % 4 + 1]}


def _lines(events: list[dict[str, Any]], odd_every: int = 40) -> bytes:
    """JSON lines; among them some that are no event, and some without an id that says which event it is."""
    lines = []
    for number, event in enumerate(events):
        lines.append(json.dumps(event).encode())
        if number % odd_every == 7:
            lines.append(b"{not JSON %d" % number)
            lines.append(json.dumps(_event(number, f"nameless {number}", f"topic {number % 200} wording 0")).encode())
    return b"".join(line + b"\n" for line in lines)


def _write_files(folder: Path) -> None:
    folder.mkdir()
    first = [_in_topic(n) for n in range(800)]
    (folder / "first.jsonl").write_bytes(_lines(first + first[100:150]))
    (folder / "second.jsonl.gz").write_bytes(gzip.compress(_lines([_in_topic(n) for n in range(700, 950)]), mtime=0))
    (folder / "third.jsonl").write_bytes(_lines([_later(n) for n in range(400)]))
    mixed = [_in_topic(n) for n in range(900, 1000)] + [_later(n) for n in range(350, 450)]
    pq.write_table(pa.Table.from_pylist(mixed), folder / "fourth.parquet")
    (folder / "last.jsonl").write_bytes(_lines([_later(n) for n in range(440, 470)]))


def _delivery(folder: Path) -> dict[str, bytes]:
    """What a producer puts into the inbox: new files, one that is known, one that is damaged, many that are no events."""
    searches = _lines([_search(n) for n in range(120)])
    rows = [f"c{n},topic {n} wording 2,topic {n} wording 0,{n % 2}" for n in range(60)]
    return {
        "searches.jsonl": searches,
        "labels.csv": "\n".join(["event_id,text_a,text_b,label", *rows, "c60,too few"]).encode(),
        "again.jsonl": (folder / "first.jsonl").read_bytes(),
        "damaged.jsonl.gz": gzip.compress(searches, mtime=0)[:-40],
        **{f"note-{n}.txt": b"note %d" % n for n in range(60)},
    }


def _second_delivery() -> dict[str, bytes]:
    """A file by a name that is taken, which comes while the first delivery is worked on."""
    return {"searches.jsonl": _lines([_search(n) for n in range(120, 180)])}


# What the processes do.


def _files(workspace: Workspace, *names: str) -> None:
    ingest_files(
        Store(workspace.home.database),
        [workspace.home.root.parent / "files" / name for name in names],
        workspace.settings.pairs,
    )


def _snapshot(workspace: Workspace) -> None:
    take_snapshot(Store(workspace.home.database), workspace.snapshots, workspace.split_rules)


def _inbox(workspace: Workspace) -> None:
    take_inbox(Store(workspace.home.database), workspace.home.inbox, workspace.settings.pairs)


def _close(workspace: Workspace) -> None:
    _inbox(workspace)
    _files(workspace, "last.jsonl")
    _snapshot(workspace)


STEPS: dict[str, Act] = {
    "files": lambda workspace: _files(workspace, "first.jsonl", "second.jsonl.gz"),
    "snapshot": _snapshot,
    "more files": lambda workspace: _files(workspace, "third.jsonl", "first.jsonl", "fourth.parquet"),
    "inbox": _inbox,
}


def _audit(workspace: Workspace) -> None:
    """What holds between any two transactions, however many files are half way in."""
    store = Store(workspace.home.database)
    with store.transaction() as db:
        (batches,) = db.execute("SELECT list(batch_id) FROM batches").fetchall()[0]
        broken = db.execute(
            """SELECT
                (SELECT count(*) - count(DISTINCT (event, item)) FROM observations) AS observed_twice,
                (SELECT count(*) - count(DISTINCT pair_id) FROM pairs) AS paired_twice,
                (SELECT count(*) - count(DISTINCT question) FROM assignments) AS assigned_twice,
                (SELECT count(*) - count(DISTINCT batch_id) FROM batches) AS delivered_twice,
                (SELECT count(*) FROM observations) - (SELECT coalesce(sum(same + different), 0) FROM pairs) AS not_summed_up,
                (SELECT count(*) - count(DISTINCT (batch_id, line)) FROM quarantine) AS refused_twice,
                (SELECT count(*) FROM quarantine q JOIN observations o ON o.batch_id = q.batch_id AND o.line = q.line) AS both,
                (SELECT count(*) FROM observations WHERE batch_id NOT IN (SELECT batch_id FROM batches)) AS of_no_batch,
                (SELECT count(*) FROM (SELECT question_a AS question FROM pairs UNION SELECT question_b FROM pairs)
                 WHERE question NOT IN (SELECT question FROM assignments)) AS not_assigned"""
        ).fetchdf()
    assert (broken == 0).all(axis=None), broken.to_dict("records")
    assert unaccounted(store, batches or []) == []


# The nursery. What follows runs there, and never opens a database itself.

FORK = multiprocessing.get_context("fork")


def _settle_in() -> None:
    import pyarrow.dataset  # noqa: F401  (or every child would import it anew, and the next one too)
    import scipy.sparse.csgraph  # noqa: F401

    from flywheel.pairs.events.mapping import FieldMap

    FieldMap().read({"text_a": "a", "text_b": "b", "label": 1})
    staging.CHUNK, ingest_module._SLICE = CHUNK, SLICE
    logging.disable(logging.WARNING)
    assert threading.active_count() == 1, threading.enumerate()


def _start(act: Act, home: Path) -> BaseProcess:
    workspace = make_workspace(home, evaluation={"min_components": 5}, splits={"frozen_from": 0}, pairs={"redact": ("email",)})
    process = FORK.Process(target=act, args=(workspace,))
    process.start()
    return process


def _end(process: BaseProcess) -> bool:
    """Wait for a process; whether a kill hit it. It may not end in any other way than killed or done."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"a process still ran after {PATIENCE:.0f} s")
    assert process.exitcode in (0, -signal.SIGKILL), f"exit code {process.exitcode}; the traceback went to stderr"
    return process.exitcode != 0


def _run(act: Act, home: Path) -> None:
    assert not _end(_start(act, home))


def _kill_when(seen: Callable[[], bool], process: BaseProcess, seconds_later: float = 0.0) -> bool:
    """Kill a process as soon as something is seen, or a little later; whether that hit it."""
    while process.exitcode is None and not seen():
        pass
    process.join(seconds_later)
    process.kill()
    return _end(process)


@dataclass(frozen=True)
class Traces:
    """What tells in a home who has been at work: DuckDB's log of what it commits, and the files that are claimed."""

    log: frozenset[tuple[str, int, int]]
    claimed: frozenset[str]

    @classmethod
    def of(cls, home: Path) -> "Traces":
        log = set()
        for path in home.glob("flywheel.duckdb.wal*"):
            with suppress(FileNotFoundError):
                log.add((path.name, path.stat().st_ino, path.stat().st_mtime_ns))
        return cls(frozenset(log), frozenset(path.name for path in (home / "inbox" / "work").glob("*")))


def _holds(folder: Path, pattern: str, such: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether there are such files in a folder that may go away at any moment."""
    try:
        return any(map(such, folder.glob(pattern)))
    except FileNotFoundError:
        return False


def _is_parquet(path: Path) -> bool:
    """Whether a Parquet file has its end."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > 8 and content.endswith(b"PAR1")


def _stage(home: Path, process: BaseProcess, before: Traces, alone: bool = True) -> str:
    """What a process is or was at. Who writes the log can be told only while one is at work alone."""
    own, now = f".aside-{process.pid}-*", Traces.of(home)
    if alone and now.log - before.log:
        return COMMIT
    for folder in (home / "staging").glob(own):
        return TRANSACTION if _holds(folder, "*/quarantine.parquet", _is_parquet) else STAGING
    for found in (home / "snapshots").glob(own):
        if found.is_file():
            return POINTING
        return PUBLISHING if all(_is_parquet(found / f"{split}.parquet") for split in SPLITS) else EXPORT
    return CLAIMING if now.claimed - before.claimed and any((home / "inbox").glob("*.*")) else READING


def _deliver(home: Path, files: dict[str, bytes]) -> None:
    inbox = home / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        aside = inbox / f"{name}.tmp"
        aside.write_bytes(content)
        os.utime(aside, (1.7e9, 1.7e9))  # nobody has written to it for long
        aside.rename(inbox / name)


def _half_published(home: Path) -> list[str]:
    """What others can see of snapshots and is not whole."""
    snapshots, wrong = home / "snapshots", []
    for path in snapshots.glob("[!.]*"):
        if path.name == "latest.json":
            whole = (snapshots / json.loads(path.read_text())).is_dir()
        else:
            named = json.loads((path / "manifest.json").read_text())["snapshot_id"] == path.name
            whole = named and all(_is_parquet(path / f"{split}.parquet") for split in SPLITS)
        wrong += [] if whole else [path.name]
    return wrong


def _spread(rng: random.Random, parts: int = 12) -> Iterator[float]:
    """Random moments, as shares of a duration, that leave no part of it out for long."""
    while True:
        for part in rng.sample(range(parts), parts):
            yield (part + rng.random()) / parts


@dataclass
class Tally:
    """What a campaign did: its homes, the kills that hit a living process by step and stage, those that came too late."""

    homes: list[Path] = field(default_factory=list)
    random: Counter[tuple[str, str]] = field(default_factory=Counter)
    aimed: Counter[tuple[str, str]] = field(default_factory=Counter)
    too_late: int = 0
    starts: int = 0
    seconds: float = 0.0

    @property
    def every_stage(self) -> list[tuple[str, str]]:
        return [(step, stage) for step, stages in STAGES.items() for stage in stages]

    def missed(self) -> list[tuple[str, str]]:
        """The stages in which no kill has hit yet."""
        hit = self.random + self.aimed
        return [each for each in self.every_stage if not hit[each]]

    def __str__(self) -> str:
        return (
            f"{self.random.total()} random and {self.aimed.total()} aimed kills hit a living process, {self.too_late} came "
            f"too late; {self.starts} starts, {len(self.homes)} homes, {self.seconds:.0f} s.\n"
            f"random: {dict(self.random)}\naimed: {dict(self.aimed)}"
        )


class Campaign:
    """Homes that go through the same steps, each step disturbed by kills and then run to its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._random = random.Random(SEED)
        self._shares = {name: _spread(random.Random(f"{SEED} {name}")) for name in STEPS}
        self._durations = dict.fromkeys(STEPS, math.inf)
        self._delivered: list[bytes] = []
        self.tally = Tally()
        _write_files(folder / "files")

    def undisturbed(self) -> None:
        """Leave a home in peace, and see how long each step takes."""
        home = self._new_home()
        for name, act in STEPS.items():
            self._before(name, home)
            started = time.monotonic()
            _run(act, home)
            self._durations[name] = min(self._durations[name], time.monotonic() - started)
        self._finish(home)

    def disturbed(self) -> None:
        """Kill each step until one is through with it: alone, or two at once of which both are killed, and then one."""
        plan = [(1, 1)] * 4 if len(self.tally.homes) % 2 else [(2, 2), (2, 2), (2, 1)]
        home = self._new_home()
        for name, act in STEPS.items():
            self._before(name, home)
            for together, killed in plan:
                done = self._kill_at_random(name, home, together, killed)
                self._bring_second(name, home)
                if done:
                    break
            _run(_audit, home)
            _run(act, home)
        self._finish(home)

    def aimed(self, targets: list[tuple[str, str]], at_most_later: float = 0.0) -> None:
        """One kill in each of these stages, as soon as its mark is seen or up to some seconds later."""
        home = self._new_home()
        for name, act in STEPS.items():
            self._before(name, home)
            for stage in [stage for step, stage in targets if step == name]:
                self._kill_in(stage, name, home, self._random.random() * at_most_later)
            self._bring_second(name, home)
            _run(act, home)
        self._finish(home)

    def _kill_at_random(self, name: str, home: Path, together: int, killed: int) -> bool:
        """Start some processes and kill the first of them; whether any of them has come to its end."""
        before, started = Traces.of(home), time.monotonic()
        processes = [self._start(name, home) for _ in range(together)]
        for process in processes[:killed]:
            moment = started + next(self._shares[name]) * self._durations[name]
            process.join(max(0.0, moment - time.monotonic()))
            process.kill()
        hits = [_end(process) for process in processes]
        for process, hit in zip(processes[:killed], hits[:killed], strict=True):
            self._count(self.tally.random, name, _stage(home, process, before, together == 1), hit)
        self._check(home)
        return not all(hits)

    def _kill_in(self, stage: str, name: str, home: Path, later: float) -> None:
        before, process = Traces.of(home), self._start(name, home)
        hit = _kill_when(lambda: _stage(home, process, before) == stage, process, later)
        self._count(self.tally.aimed, name, _stage(home, process, before), hit)
        self._check(home)

    def _new_home(self) -> Path:
        self._delivered = []
        self.tally.homes.append(self._folder / f"home-{len(self.tally.homes):02}")
        return self.tally.homes[-1]

    def _start(self, name: str, home: Path) -> BaseProcess:
        self.tally.starts += 1
        return _start(STEPS[name], home)

    def _count(self, hits: Counter[tuple[str, str]], name: str, stage: str, hit: bool) -> None:
        if hit:
            hits[name, stage] += 1
        else:
            self.tally.too_late += 1

    def _before(self, name: str, home: Path) -> None:
        if name == "inbox":
            self._bring(home, _delivery(self._folder / "files"))

    def _bring_second(self, name: str, home: Path) -> None:
        """As soon as the first file of that name has been claimed: a producer does not replace one that waits."""
        second = _second_delivery()
        waiting = any((home / "inbox" / file).exists() for file in second)
        if name == "inbox" and not waiting and not set(second.values()) <= set(self._delivered):
            self._bring(home, second)

    def _bring(self, home: Path, files: dict[str, bytes]) -> None:
        _deliver(home, files)
        self._delivered += files.values()

    def _finish(self, home: Path) -> None:
        self._bring_second("inbox", home)
        _run(_close, home)
        self._check(home)

    def _check(self, home: Path) -> None:
        assert _half_published(home) == []
        ours = (".lock", "why rejected.txt")
        held = [path.read_bytes() for path in (home / "inbox").rglob("*") if path.is_file() and path.name not in ours]
        assert sorted(held) == sorted(self._delivered), f"a delivery to {home / 'inbox'} is lost or there twice"


def _campaign(folder: Path) -> Tally:
    started = time.monotonic()
    campaign = Campaign(folder)
    tally = campaign.tally
    for _ in range(2):
        campaign.undisturbed()
    while tally.random.total() < KILLS:
        campaign.disturbed()
    campaign.aimed(tally.every_stage)
    for _ in range(20):
        if missed := tally.missed():
            campaign.aimed(missed)
    for _ in range(2):
        campaign.aimed([(step, COMMIT) for step in STEPS for _ in range(3)], at_most_later=0.01)
    tally.seconds = time.monotonic() - started
    return tally


def _in_opposite_orders(folder: Path) -> int:
    """Two processes at once that take the same files, one from the last to the first; both killed, then left to end."""
    _write_files(folder / "files")
    names = ("first.jsonl", "second.jsonl.gz", "third.jsonl", "fourth.parquet")
    orders: list[Act] = [lambda workspace: _files(workspace, *names), lambda workspace: _files(workspace, *reversed(names))]
    started = time.monotonic()
    _run(orders[0], folder / "home-0")
    duration = time.monotonic() - started
    shares, hits = _spread(random.Random(SEED)), 0
    for number in range(1, 4):
        home = folder / f"home-{number}"
        for killed in (True, True, False):
            started = time.monotonic()
            processes = [_start(act, home) for act in orders]
            for process in processes if killed else []:
                process.join(max(0.0, started + next(shares) * duration - time.monotonic()))
                process.kill()
            hits += sum([_end(process) for process in processes])
        _run(_audit, home)
    return hits


def _open_store(workspace: Workspace) -> None:
    with Store(workspace.home.database).transaction():
        pass


def _kill_creators(folder: Path) -> int:
    """Kill who makes a new store, as soon as there is a file; half of the time another one comes at the same moment."""
    hits = 0
    for number in range(40):
        home, together = folder / f"home-{number}", 1 + number % 2
        line_up = FORK.Barrier(together)

        def act(workspace: Workspace, line_up: Barrier = line_up) -> None:
            line_up.wait(PATIENCE)
            _open_store(workspace)

        processes = [_start(act, home) for _ in range(together)]
        hits += _kill_when((home / "flywheel.duckdb").exists, processes[0])
        others = [_end(process) for process in processes[1:]]
        assert not any(others)
        _run(_open_store, home)
    return hits


def _spill(workspace: Workspace) -> None:
    with Store(workspace.home.database, memory_limit="40MB").transaction() as db:
        db.execute("SET threads = 1")
        db.execute("CREATE TEMP TABLE large AS SELECT md5(CAST(n AS VARCHAR)) AS text FROM range(10_000_000) t(n)")


def _kill_who_spills(home: Path) -> bool:
    spilled = home / "flywheel.duckdb.tmp"
    hit = any(_kill_when(lambda: _holds(spilled, "*"), _start(_spill, home)) for _ in range(10))
    _run(_open_store, home)
    return hit


def _kill_who_unpacks(folder: Path) -> bool:
    """Kill an ingest of a packed Parquet file while it is read, then let it end; temporary files go to `folder`/tmp."""
    (folder / "tmp").mkdir()
    plain, packed = folder / "plain.parquet", folder / "packed.parquet.gz"
    pq.write_table(pa.Table.from_pylist([_in_topic(n) for n in range(1000)]), plain)
    packed.write_bytes(gzip.compress(plain.read_bytes()))

    def act(workspace: Workspace) -> None:
        tempfile.tempdir = str(folder / "tmp")
        ingest_files(Store(workspace.home.database), [packed], workspace.settings.pairs)

    def killed(home: Path) -> bool:
        hit = _kill_when(lambda: _holds(home / "staging", "*/*/part-*"), _start(act, home))
        _run(act, home)
        return hit

    return any(killed(folder / f"home-{number}") for number in range(10))


def _kill_before_a_time_comes(folder: Path) -> str:
    """Kill an ingest half way, and end it when the time has come that a line of the first half bears; returns the batch."""
    time_that_comes = datetime.now(UTC) + timedelta(days=1, seconds=2)  # up to a day ahead, a clock may be wrong
    events = [_in_topic(number) for number in range(2000)]
    path, home = folder / "batch.jsonl", folder / "home"
    path.write_bytes(_lines([{**events[0], "time": time_that_comes.isoformat()}, *events[1:]]))

    def act(workspace: Workspace) -> None:
        ingest_files(Store(workspace.home.database), [path], workspace.settings.pairs)

    before, process = Traces.of(home), _start(act, home)
    _kill_when(lambda: _stage(home, process, before) == TRANSACTION, process, seconds_later=0.1)
    while datetime.now(UTC) < time_that_comes - timedelta(days=1):
        time.sleep(0.1)
    _run(act, home)
    return read_batch(path, path.name).batch_id
