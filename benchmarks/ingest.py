"""What ingest costs: time and peak memory from 10^4 to 10^7 events, against DuckDB reading the same file into a table.

    python benchmarks/ingest.py [--sizes 10000 100000 1000000] [--folder DIR]

Each figure comes from a process of its own. `floor` is `CREATE TABLE ... AS FROM read_json(...)` into a new file, `ratio`
compares with it within one run. `next 10^4` is a further batch of 10,000 events on top, `how many?` the sensor's question.
A second table has files of one line against one file that holds all of them.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic import write_interactions

NEXT = 10_000
FILES = 2_000


def main() -> None:
    """Run every size and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where files and homes go (a temporary folder)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, file, home = arguments.child
        print(json.dumps(measure(MEASURES[name], Path(file), Path(home))))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="benchmark-"))
    folder.mkdir(parents=True, exist_ok=True)
    print("| events | floor | ingest | ratio | peak | next 10^4 | peak | snapshot | peak | how many? |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in arguments.sizes:
        print(row(folder, size), flush=True)
    print("\n| files of one line | one file of all | files | ratio |")
    print("|---:|---:|---:|---:|")
    print(many(folder), flush=True)
    if not arguments.folder:
        shutil.rmtree(folder)


def row(folder: Path, size: int) -> str:
    """All figures of one size."""
    file, more, home = folder / f"{size}.jsonl", folder / "next.jsonl", folder / f"home-{size}"
    if not file.exists():
        write_interactions(file, size)
    write_interactions(more, NEXT, seed=1, topics=max(1, size // 80))
    shutil.rmtree(home, ignore_errors=True)
    done = {name: child(name, more if name == "next" else file, home) for name in OF_A_SIZE}
    (folder / "floor.duckdb").unlink(missing_ok=True)
    shutil.rmtree(home)
    ratio = done["ingest"]["seconds"] / done["floor"]["seconds"]
    cells = [f"{size:,}", seconds(done["floor"]), seconds(done["ingest"]), f"{ratio:.1f}", peak(done["ingest"])]
    cells += [seconds(done["next"]), peak(done["next"]), seconds(done["snapshot"]), peak(done["snapshot"])]
    return "| " + " | ".join([*cells, f"{1000 * done['new']['seconds']:.0f} ms"]) + " |"


def many(folder: Path) -> str:
    """What so many files cost that hold one line each."""
    file, single = folder / "all.jsonl", folder / "single"
    write_interactions(file, FILES)
    shutil.rmtree(single, ignore_errors=True)
    single.mkdir()
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True)):
        (single / f"{number:06}.jsonl").write_bytes(line)
    took = []
    for name, given in (("ingest", file), ("files", single)):
        shutil.rmtree(folder / "home-files", ignore_errors=True)
        took.append(child(name, given, folder / "home-files"))
    ratio = took[1]["seconds"] / took[0]["seconds"]
    return "| " + " | ".join([f"{FILES:,}", *map(seconds, took), f"{ratio:.1f}"]) + " |"


def child(name: str, file: Path, home: Path) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--child", name, str(file), str(home)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(what: Callable[[Path, Path], None], file: Path, home: Path) -> dict[str, float]:
    """Wall-clock seconds of one call, imports done before, and the process's peak resident memory in MiB."""
    import flywheel.pairs.ingest
    import flywheel.pairs.snapshots.export
    import flywheel.pairs.store.ducklake  # noqa: F401

    home.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    what(file, home)
    return {"seconds": time.perf_counter() - started, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def floor(file: Path, home: Path) -> None:
    """The same lines into a table, by DuckDB alone with its defaults."""
    import duckdb

    target = home.parent / "floor.duckdb"
    target.unlink(missing_ok=True)
    with duckdb.connect(str(target)) as db:
        db.execute("CREATE TABLE events AS FROM read_json(?)", [str(file)])


def ingest(file: Path, home: Path) -> None:
    """What `flywheel ingest` does."""
    from flywheel.home import Home
    from flywheel.pairs.deliveries import ingest_files
    from flywheel.pairs.options import StorageOptions
    from flywheel.pairs.store.ducklake import open_store

    report = ingest_files(open_store(Home(home), StorageOptions()), [file])[0]
    assert report.accepted + report.duplicates + report.quarantined == report.lines


def files(folder: Path, home: Path) -> None:
    """The same for every file of a folder; a file whose only line is no event is refused."""
    from flywheel.home import Home
    from flywheel.pairs.deliveries import ingest_each
    from flywheel.pairs.options import PairOptions, StorageOptions
    from flywheel.pairs.store.ducklake import open_store

    deliveries = [(path, path.name) for path in sorted(folder.iterdir())]
    assert len(list(ingest_each(open_store(Home(home), StorageOptions()), deliveries, PairOptions()))) == len(deliveries)


def new(file: Path, home: Path) -> None:
    """How many training pairs are new?"""
    from flywheel.home import Home
    from flywheel.pairs.options import StorageOptions
    from flywheel.pairs.store.ducklake import open_store
    from flywheel.pairs.store.new_pairs import new_pairs

    assert new_pairs(open_store(Home(home), StorageOptions())).new > 0


def snapshot(file: Path, home: Path) -> None:
    """Draw, freeze and export."""
    from flywheel.evaluation.options import EvaluationOptions
    from flywheel.home import Home
    from flywheel.pairs.options import SplitOptions, StorageOptions
    from flywheel.pairs.snapshots.enough import SplitRules
    from flywheel.pairs.snapshots.export import take_snapshot
    from flywheel.pairs.snapshots.folder import Snapshots
    from flywheel.pairs.store.ducklake import open_store

    rules = SplitRules.of(SplitOptions(), EvaluationOptions().min_components)
    take_snapshot(open_store(Home(home), StorageOptions()), Snapshots(Home(home).snapshots), rules)


def seconds(figure: dict[str, float]) -> str:
    """`1.2 s`."""
    return f"{figure['seconds']:.1f} s"


def peak(figure: dict[str, float]) -> str:
    """`300 MiB`."""
    return f"{figure['mib']:,.0f} MiB"


OF_A_SIZE = {"floor": floor, "ingest": ingest, "new": new, "snapshot": snapshot, "next": ingest}
MEASURES = {**OF_A_SIZE, "files": files}


if __name__ == "__main__":
    main()
