"""Verbs for models: train, grid, and the cache of what encoders made of texts."""

from typing import Annotated

import typer

from flywheel.cli.common import Home, Json, open_home, print_json, read_settings
from flywheel.errors import FlywheelError

Recipe = Annotated[str, typer.Option("--recipe", help="How weights move: head, top or full.")]

app = typer.Typer()
cache_app = typer.Typer(no_args_is_help=False, help="What encoders made of texts: size, prune.")
app.add_typer(cache_app, name="cache")


@app.command()
def train(variant: Annotated[str, typer.Argument(help="Base model and dimension: all-MiniLM-L6-v2@256.")],
          size: Annotated[str, typer.Argument(help="Number of training pairs, or all.")],
          recipe: Recipe = "head", home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Train and evaluate one model."""
    from functools import partial

    from flywheel.models.catalogue import Variant
    from flywheel.orchestration import grid, steps
    from flywheel.report import ENCODING, bars, training_listener
    from flywheel.training.job import check_recipe, check_size
    from flywheel.training.model import TrainedModel

    parsed, size, recipe = Variant.parse(variant), check_size(size), check_recipe(recipe)
    with open_home(home) as session:
        grid.ensure_snapshot(session)
        settings = session.settings
        with bars(as_json) as shown, steps.watched(training_listener(shown)):
            grid.train_one(session, parsed, size, recipe, partial(shown.report, ENCODING))
        taken = steps.current_snapshot(settings)
        job = steps.training_job(settings, taken, parsed, size, recipe)
        model = TrainedModel.load(settings.models / job.job_id)
        record = steps.evaluate_cell(settings, parsed, size, recipe)
    result = {
        "model": str(model.folder),
        "snapshot_id": job.snapshot_id,
        "variant": variant,
        "size": size,
        "recipe": recipe,
        "train_pairs": model.train_pairs,
        "calibration_error": model.calibration_error,
        "threshold": model.fit.threshold,
        "error": record.error,
        "seconds": model.seconds,
        "kept_start": model.kept_start,
    }
    if as_json:
        return print_json(result)
    if model.kept_start:
        print(f"Training brought no proven gain, so the untrained start ships: {model.kept_start}.")
    print(f"{variant} | {size}: error {record.error:.1%} on {record.metrics.n:,} test pairs, model in {model.folder}")
    if taken.on_quora and record.contamination:
        print(record.contamination)
    print("Next: flywheel leaderboard")


@app.command(name="grid")
def grid_command(variant: Annotated[list[str] | None, typer.Option(help="A variant; may be given several times.")] = None,
                 size: Annotated[list[str] | None, typer.Option(help="A size; may be given several times.")] = None,
                 recipe: Recipe = "head", home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Train and evaluate many cells: the whole grid, or the variants and sizes given."""
    from flywheel.models.catalogue import Variant
    from flywheel.orchestration import grid
    from flywheel.orchestration.partitions import GRID_VARIANTS, cell_key
    from flywheel.report import run_grid
    from flywheel.training.job import SIZES, check_recipe

    variants, sizes = [Variant.parse(text) for text in variant or GRID_VARIANTS], size or list(SIZES)
    for each in ((v, s) for v in variants for s in sizes):
        cell_key(*each)
    with open_home(home) as session:
        grid.ensure_snapshot(session)
        cells = run_grid(session, variants, sizes, check_recipe(recipe), as_json)
    if as_json:
        print_json(cells)
    if any(cell["outcome"] == "failed" for cell in cells):
        raise FlywheelError("Some cells failed; the reasons stand above. The others are finished.")


@cache_app.callback(invoke_without_command=True)
def cache_show(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """What encoders made of texts, layers that were trained, and how much disk it takes."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from flywheel.orchestration import tidying
    from flywheel.report import print_kept

    entries = tidying.list_kept(read_settings(home))
    if as_json:
        return print_json([asdict(entry) for entry in entries])
    print_kept(entries)


@cache_app.command("prune")
def cache_prune(states: Annotated[bool, typer.Option("--states", help="Remove all token states too.")] = False,
                home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Remove what no snapshot and no model needs any more. Vectors of an API stay: they were paid for."""
    from flywheel.orchestration import tidying

    freed = tidying.prune(read_settings(home), states)
    if as_json:
        return print_json({"freed_bytes": freed})
    print(f"{freed / 1e6:,.1f} MB freed. What is needed again will be encoded again.")
