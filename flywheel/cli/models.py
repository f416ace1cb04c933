"""Verbs for models: train, and the cache of what encoders made of texts."""

from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.cli.common import Home, Json, open_home, open_workspace, print_json
from flywheel.errors import FlywheelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flywheel.pipeline.cleanup import CachedItem

Recipe = Annotated[str, typer.Option("--recipe", help="How weights move: head, top or full.")]

app = typer.Typer()
cache_app = typer.Typer(no_args_is_help=False, help="Cached vectors and trained layers: what there is, prune.")
app.add_typer(cache_app, name="cache")


@app.command()
def train(variant: Annotated[str, typer.Argument(help="Base model and dimension: all-MiniLM-L6-v2@256.")],
          size: Annotated[str, typer.Argument(help="Number of training pairs, or all.")],
          recipe: Recipe = "head", home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Train and evaluate one model."""
    from functools import partial

    from flywheel.cli.console import ENCODING, bars, training_listener
    from flywheel.evidence.words import percent
    from flywheel.models.catalogue import Variant
    from flywheel.orchestration import grid
    from flywheel.pipeline.training import encode_ahead
    from flywheel.training.job import Cell, check_recipe, check_size
    from flywheel.training.starts import start_in_words

    cell, recipe = Cell(Variant.parse(variant), check_size(size)), check_recipe(recipe)
    with open_home(home) as session:
        snapshot = grid.ensure_snapshot(session)
        with bars(as_json) as shown:
            _, failures = encode_ahead(session.workspace, snapshot, [cell], partial(shown.report, ENCODING))
            for reason in failures.values():
                raise FlywheelError(reason)
            model, record = grid.train_one(session.with_listener(training_listener(shown)), snapshot, cell, recipe)
        grid.measure_references(session)
    result = {
        "model": str(model.folder),
        "snapshot_id": model.job.snapshot_id,
        "variant": variant,
        "size": cell.size,
        "recipe": recipe,
        "train_pairs": model.train_pairs,
        "calibration_set_error": model.calibration_set_error,
        "threshold": model.rule.threshold,
        "error": record.error,
        "seconds": model.seconds,
        "start": model.start,
        "place": model.place,
        "kept_start": model.kept_start,
    }
    if as_json:
        return print_json(result)
    if model.kept_start:
        print(f"Training did not help, so {start_in_words(model.start)} is used: {model.kept_start}.")
    elif model.place != 1:
        print(f"The model lies {model.ships}, a place chosen on pairs that it had not seen.")
    judged = "test pairs"
    if record.is_cross_fitted:
        judged = "labelled pairs, each judged by a model trained without it"
    print(f"{cell}: error {percent(record.error)} on {record.metrics.n:,} {judged}; model in {model.folder}")
    if snapshot.on_quora and record.contamination:
        print(record.contamination)
    print("Next: flywheel leaderboard")


@cache_app.callback(invoke_without_command=True)
def cache_show(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Cached vectors and trained layers, and how much disk they take."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from flywheel.pipeline.cleanup import list_cached

    items = list_cached(open_workspace(home))
    if as_json:
        return print_json([asdict(item) for item in items])
    _print_cached(items)


@cache_app.command("prune")
def cache_prune(states: Annotated[bool, typer.Option("--states", help="Delete all token states too.")] = False,
                home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Delete what no snapshot and no model needs any more. Vectors of an API stay: they were paid for."""
    from flywheel.pipeline.cleanup import prune

    freed = prune(open_workspace(home), states)
    if as_json:
        return print_json({"freed_bytes": freed})
    print(f"{freed / 1e6:,.1f} MB freed. What is needed again will be encoded again.")


def _print_cached(items: "Sequence[CachedItem]") -> None:
    """What is cached, as a table."""
    from flywheel.cli.console import console, new_table

    if not items:
        print("Nothing is cached yet. Next: flywheel grid")
        return
    table = new_table("What encoders made of texts, and trained layers", ["encoder"], ("texts", "MB"))
    for item in items:
        table.add_row(item.name, "" if item.texts is None else f"{item.texts:,}", f"{item.bytes / 1e6:,.1f}")
    console(False).print(table)
    print(f"{sum(item.bytes for item in items) / 1e6:,.1f} MB in all. Next: flywheel cache prune")
