"""Verbs for models: base models, train, and the cache of what encoders made of texts."""

from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.cli.common import Home, Json, open_home, open_workspace, print_json
from flywheel.errors import FlywheelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flywheel.pipeline.base_models import CheckedModel, KnownModel
    from flywheel.pipeline.cleanup import CachedItem

Recipe = Annotated[str, typer.Option("--recipe", help="How weights move: head, top or full.")]

app = typer.Typer()
cache_app = typer.Typer(no_args_is_help=False, help="Cached vectors and trained layers: what there is, prune.")
app.add_typer(cache_app, name="cache")
models_app = typer.Typer(no_args_is_help=False, help="Base models: what is known of them, check one.")
app.add_typer(models_app, name="models")


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
    from flywheel.training.readable import cut_in_words
    from flywheel.training.starts import start_in_words

    cell, recipe = Cell(Variant.parse(variant), check_size(size)), check_recipe(recipe)
    with open_home(home) as session:
        session.workspace.vectors(cell.variant.base).check_dim(cell.variant.dim)
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
        "cut": dict(model.cut),
    }
    if as_json:
        return print_json(result)
    if model.kept_start:
        print(f"Training did not help, so {start_in_words(model.start)} is used: {model.kept_start}.")
    elif model.place != 1:
        print(f"The model lies {model.ships}, a place chosen on pairs that it had not seen.")
    for source, share in model.cut.items():
        print(cut_in_words(source, share, cell.variant.base))
    judged = "test pairs"
    if record.is_cross_fitted:
        judged = "labelled pairs, each judged by a model trained without it"
    print(f"{cell}: error {percent(record.error)} on {record.metrics.n:,} {judged}; model in {model.folder}")
    if snapshot.on_quora and record.contamination:
        print(record.contamination)
    print("Next: flywheel leaderboard")


@models_app.callback(invoke_without_command=True)
def models_show(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """The base models that are known, and whether their weights are at hand; nothing is downloaded."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from flywheel.pipeline.base_models import list_models

    known = list_models(open_workspace(home))
    if as_json:
        return print_json([asdict(each) for each in known])
    _print_known(known)


@models_app.command("check")
def models_check(name: Annotated[str, typer.Argument(help="Base model: all-MiniLM-L6-v2.")],
                 home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Load a base model, encode some texts, and say how quick it is and which recipes it allows."""
    from dataclasses import asdict

    from flywheel.pipeline.base_models import check_model

    checked = check_model(open_workspace(home), name)
    if as_json:
        return print_json(asdict(checked))
    _print_checked(checked)


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


def _print_known(known: "Sequence[KnownModel]") -> None:
    """Base models, as a table."""
    from flywheel.cli.console import console, new_table

    table = new_table("Base models", ["model", "licence", "weights"], ("width", "reads"))
    for each in known:
        where = each.weights or each.problem or f"not here: {each.origin}"
        read = "" if each.reads is None else f"{each.reads:,}"
        table.add_row(each.name, each.licence, where, "" if each.width is None else str(each.width), read)
    console(False).print(table)
    for each in known:
        print(f"{each.name}: {each.contamination}{'' if each.met else ' Its real weights were never met by our tests.'}")
    print("Next: flywheel models check NAME")


def _print_checked(checked: "CheckedModel") -> None:
    dims = f", trained for {', '.join(map(str, checked.dims))} as well" if checked.dims else ""
    print(f"{checked.name}: {checked.kind} in {checked.weights}")
    print(f"Vectors of {checked.width} numbers{dims}: any dimension from 1 to {checked.width} can be asked for.")
    print("It reads texts of any length." if checked.reads is None else f"It reads {checked.reads:,} tokens of a text at most.")
    print(f"Before every text: {checked.prompt!r}." if checked.prompt else "No prompt stands before texts.")
    print("It gives its published vector." if checked.published else "There is no published vector to check it by.")
    print(f"{checked.texts_per_second:,.0f} texts a second on {checked.device}.")
    for recipe, reason in checked.recipes.items():
        print(f"Recipe {recipe}: {reason or 'yes'}")
    print(f"Next: flywheel train {checked.name}@{min(256, checked.width)} all")
