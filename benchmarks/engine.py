"""The demo's cells on the engine of a home's settings beside the same cells here, in turns, and whether the models are equal.

    python benchmarks/engine.py --home HOME [--recipe head] [--size 400 ...] [--rounds 3]

HOME is a home after `flywheel demo` whose flywheel.toml names an engine and a root, as docs/clusters.md shows. Copies of it are
worked in; what is new at the root stays there. Seconds go from the first cell's start until the last one is evaluated; every
text was encoded before. Each round has a random seed of its own, so that nothing is found finished.
"""

import argparse
import shutil
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev

from quora import machine, row

from flywheel.errors import FlywheelError
from flywheel.home import Home
from flywheel.orchestration import grid
from flywheel.orchestration.instance import open_session
from flywheel.pipeline.training import encode_ahead
from flywheel.settings import Settings, load_settings
from flywheel.training.job import RECIPES
from flywheel.training.model import finished_models


def main() -> None:
    """Train the cells here and there, in turns, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="head")
    parser.add_argument("--size", nargs="*", help="sizes (those of the grid)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    engine = load_settings(arguments.home).compute.engine
    if engine is None:
        raise SystemExit(f"{arguments.home} has no compute.engine in its flywheel.toml.")
    print(f"{machine('cpu')}; recipe {arguments.recipe}\n")
    print(row("round", "cells", "here, s", f"{engine}, s", "ratio", "equal models"))
    print(row("---:", *["---:"] * 4, "---"), flush=True)
    ratios = []
    for number in range(arguments.rounds):
        models, seconds = {}, {}
        for where in (None, engine) if number % 2 else (engine, None):
            with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
                home = _copy(arguments.home, Path(folder) / "home")
                models[where], seconds[where] = _fill(_settings(home, where, number), arguments.recipe, arguments.size)
        ratios.append(seconds[engine] / seconds[None])
        same = sum(models[None][job] == made for job, made in models[engine].items())
        times = [f"{seconds[where]:.1f}" for where in (None, engine)]
        cells = len(models[engine])
        print(row(number, cells, *times, f"{ratios[-1]:.2f}", f"{same} of {cells}"), flush=True)
    spread = f" ± {stdev(ratios):.2f}" if len(ratios) > 1 else ""
    print(f"\n{engine} took {mean(ratios):.2f}{spread} of the time here (n = {len(ratios)}).")


def _copy(home: Path, to: Path) -> Path:
    """A home with the snapshot and the vectors of another, and nothing that was trained."""
    shutil.copytree(home, to, ignore=shutil.ignore_patterns("*.lock"))
    for folder in (Home(to).models, Home(to).evaluations, Home(to).registry):
        shutil.rmtree(folder, ignore_errors=True)
    return to


def _settings(home: Path, engine: str | None, number: int) -> Settings:
    settings = load_settings(home)
    compute = settings.compute.model_copy(update={"engine": engine})
    training = settings.training.model_copy(update={"random_seed": 1_000 + number})
    storage = settings.storage if engine else settings.storage.model_copy(update={"root": None})
    return settings.model_copy(update={"compute": compute, "training": training, "storage": storage})


def _fill(settings: Settings, recipe: str, sizes: list[str] | None) -> tuple[dict[str, str], float]:
    """Train and evaluate the cells; returns the checksum of each model's weights by its job, and the seconds."""
    with open_session(settings) as session:
        workspace = session.workspace
        snapshot = workspace.current_snapshot()
        wanted = [cell for cell in settings.grid.cells if not sizes or cell.size in sizes]
        cells = [planned.cell for planned in grid.plan_cells(session, snapshot, wanted, recipe) if planned.state == "to do"]
        encode_ahead(workspace, snapshot, cells, lambda done, total: None)
        began = time.perf_counter()
        for finished in grid.run_cells(session, snapshot, cells, recipe):
            if finished.failure:
                raise FlywheelError(f"{finished.cell}: {finished.failure}")
        seconds = time.perf_counter() - began
        made = {folder.name: _weights(folder) for folder in finished_models(workspace.home.models)}
    return made, seconds


def _weights(folder: Path) -> str:
    files = sorted(folder.rglob("*.safetensors"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


if __name__ == "__main__":
    main()
