"""A re-embedding from its estimate to the moment when every text has its vector."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flywheel.errors import FlywheelError, disk_is_full
from flywheel.evaluation.speed import note_speed
from flywheel.files import remove_leftovers
from flywheel.models.catalogue import Variant
from flywheel.pipeline.reembedding.engines import WARM_UP, Engine, Here
from flywheel.pipeline.reembedding.generation import LOCK, Generation
from flywheel.pipeline.reembedding.plan import Work
from flywheel.pipeline.workspace import Workspace

_BYTES_AN_ID = 24
_ENOUGH = 1024  # texts, for a rate that is worth noting
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Estimate:
    """What the rest will take: rows, texts a second of all `workers` together as measured on `sample` texts, seconds, US
    dollars (None where an hour has no price), bytes on disk.
    """

    rows: int
    rate: float
    sample: int
    workers: int
    seconds: float
    dollars: float | None
    bytes: int


@dataclass(frozen=True)
class Reembedding:
    """What became of it: `encoded` rows by this run, `kept` ones by earlier runs; `seconds` of embedding."""

    generation: Generation
    estimate: Estimate | None
    encoded: int
    kept: int
    seconds: float
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plan = self.generation.plan
        told = {key: value for key, value in asdict(plan).items() if key not in ("pieces", "rows")}
        return {
            **told, "generation": str(self.generation.folder), "complete": self.generation.complete, "rows": sum(plan.rows),
            "parts": sum(1 for _ in plan.parts()), "encoded": self.encoded, "kept": self.kept, "seconds": self.seconds,
            "estimate": None if self.estimate is None else asdict(self.estimate), "dry_run": self.dry_run,
        }  # fmt: skip


def reembed(
    workspace: Workspace,
    work: Work,
    engine: Engine | None,
    dry_run: bool,
    on_estimate: Callable[[Estimate], None],
    progress: OnProgress,
) -> Reembedding:
    """Embed what is missing of a generation, with an estimate told before and `progress` (rows, of rows) on the way; `engine`
    may be None where nothing is missing.

    Raises FlywheelError when the disk is too small or gets full, when another process embeds into the same folder, and when
    the corpus changes meanwhile; parts that are of one state of the corpus stay, and the same call goes on from there.
    """
    kept = sum(work.plan.rows) - work.rows
    estimate = estimate_work(work, engine, workspace.settings.compute.price_per_hour) if engine else None
    if estimate is not None:
        on_estimate(estimate)
    if dry_run or (work.generation.complete and not work.todo):
        return Reembedding(work.generation, estimate, 0, kept, 0.0, dry_run)
    folder = work.generation.folder
    with _alone(folder):
        Generation(folder, work.plan).write()
        started, done = time.perf_counter(), 0
        try:
            for part in engine.run(work) if engine else ():
                done += part.rows
                progress(done, work.rows)
        except (FlywheelError, OSError) as error:
            _refuse_changed(work)
            if not disk_is_full(folder):
                raise
            raise FlywheelError(
                f"The disk that holds {folder} is full; {kept + done:,} of {sum(work.plan.rows):,} rows are embedded and stay. "
                "Free some space and run the same command again."
            ) from error
        _refuse_changed(work)
        seconds = time.perf_counter() - started
        generation = _finished(work, seconds, engine)
    if isinstance(engine, Here) and work.rows >= _ENOUGH and work.plan.numbers == "float32":
        note_speed(workspace.home.speeds, Variant.parse(work.plan.variant).base, work.rows / seconds)
    return Reembedding(generation, estimate, work.rows, kept, seconds, dry_run=False)


def estimate_work(work: Work, engine: Engine, price_per_hour: float | None) -> Estimate:
    """What the rest takes. Raises FlywheelError when the disk has no room for it."""
    rate = engine.rate(work.sample)
    seconds = engine.startup + work.rows / rate
    dollars = None if price_per_hour is None else seconds / 3600 * price_per_hour * engine.machines
    needed = work.rows * (4 * work.plan.dim + _BYTES_AN_ID)
    place = next(each for each in (work.generation.folder, *work.generation.folder.parents) if each.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise FlywheelError(
            f"The vectors take about {needed / 1e9:.2g} GB, and {free / 1e9:.2g} GB are free in {place}. Free some space, or "
            "choose an output folder on another disk."
        )
    return Estimate(work.rows, rate, max(1, len(work.sample) - WARM_UP), engine.workers, seconds, dollars, needed)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            remove_leftovers(folder)
            yield
    except Timeout as error:
        raise FlywheelError(f"Another process embeds into {folder}. Wait for it to finish, or stop it.") from error


def _refuse_changed(work: Work) -> None:
    """Remove what this run has embedded of a corpus that is no longer the one that was surveyed, and say so."""
    if work.corpus.stamp() != work.stamp:
        for part in work.todo:
            (work.generation.folder / part.name).unlink(missing_ok=True)
        raise FlywheelError(
            f"{work.corpus} has changed while it was embedded, so what this run has embedded was removed. Embed a copy that "
            "nobody changes."
        )


def _finished(work: Work, seconds: float, engine: Engine | None) -> Generation:
    """Check that every text has its vector, and write so."""
    counts = [work.generation.vectors_in(part) for part in work.plan.parts()]
    vectors = sum(count or 0 for count in counts)
    if None in counts or vectors != work.plan.texts:
        raise FlywheelError(
            f"{work.generation.folder} holds {vectors:,} vectors, and the corpus {work.plan.texts:,} texts: something else has "
            "changed its files. Run the same command again, which embeds what is missing."
        )
    outcome = {
        "vectors": vectors, "seconds_of_last_run": round(seconds, 3), "workers_of_last_run": engine.workers if engine else 0,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    generation = Generation(work.generation.folder, work.plan, outcome)
    generation.write()
    return generation
