"""Verbs for the embedding API: what it has embedded, paying for the rest, taking the vectors elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from flywheel.cli.common import Home, Json, print_json, read_settings

app = typer.Typer()
baseline_app = typer.Typer(no_args_is_help=False, help="The embedding API's vectors: status, embed, export, import.")
app.add_typer(baseline_app, name="baseline")


@baseline_app.callback(invoke_without_command=True)
def baseline(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Show the status when no other verb is given."""
    if context.invoked_subcommand is None:
        baseline_show(home, as_json)


@baseline_app.command("status")
def baseline_show(home: Home = None, as_json: Json = False) -> None:
    """What of the current snapshot the API has embedded, what the rest would cost, and what was paid."""
    from dataclasses import asdict

    from flywheel.orchestration.baseline import baseline_status
    from flywheel.report import print_baseline

    found = baseline_status(read_settings(home))
    if as_json:
        return print_json(asdict(found))
    print_baseline(found)


@baseline_app.command("embed")
def baseline_embed(train: Annotated[bool, typer.Option("--train", help="The questions of train too.")] = False,
                   home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Pay the API for the questions of calibration and test that it has not embedded yet."""
    from dataclasses import asdict
    from functools import partial

    from flywheel.orchestration import baseline as work
    from flywheel.report import bars, console, cost_text, paid_text

    settings = read_settings(home)
    texts = work.texts_to_embed(settings, train)
    expected, counted_by = work.estimate(settings, texts)
    out = console(as_json)
    if expected.missing:
        out.print(f"{expected.missing:,} texts to embed, {expected.cached:,} are cached: {cost_text(expected, counted_by)}")
    with bars(as_json) as shown:
        paid = work.embed(settings, texts, partial(shown.report, "embedding questions"))
    money = paid.money(settings.baseline_price)
    if as_json:
        return print_json({"estimate": asdict(expected), "counted_by": counted_by, "paid": asdict(paid), "money": money})
    print(f"Paid: {paid_text(paid, money)}." if paid.texts else f"All {len(texts):,} texts were cached; nothing was asked for.")
    print("Next: flywheel evidence")


@baseline_app.command("export")
def baseline_export(file: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
                    home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Write the API's cached vectors to a Parquet file, without their texts."""
    from flywheel.orchestration.baseline import export_baseline

    count = export_baseline(read_settings(home), file)
    if as_json:
        return print_json({"file": str(file), "vectors": count})
    print(f"{count:,} vectors in {file}. Elsewhere: flywheel baseline import {file.name}")


@baseline_app.command("import")
def baseline_import(file: Annotated[Path, typer.Argument(help="A file that `flywheel baseline export` wrote.")],
                    home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Add exported vectors to the cache; needs no key."""
    from dataclasses import asdict

    from flywheel.orchestration.baseline import import_baseline

    found = import_baseline(read_settings(home), file)
    if as_json:
        return print_json(asdict(found))
    print(f"{found.new:,} of the file's {found.vectors:,} vectors were new. Next: flywheel baseline status")
