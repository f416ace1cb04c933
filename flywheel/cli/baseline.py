"""Verbs for the embedding API: what it has embedded, paying for the rest, taking the vectors elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.cli.common import Home, Json, open_workspace, print_json

if TYPE_CHECKING:
    from flywheel.models.api.ledger import Paid
    from flywheel.pipeline.baseline import BaselineStatus, Coverage

app = typer.Typer()
baseline_app = typer.Typer(no_args_is_help=False, help="The embedding API's vectors: status, embed, export, import.")
app.add_typer(baseline_app, name="baseline")


@baseline_app.callback(invoke_without_command=True)
def baseline(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Show the status when no other verb is given."""
    if context.invoked_subcommand is None:
        status(home, as_json)


@baseline_app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """What of the current snapshot the API has embedded, what the rest would cost, and what was paid."""
    from dataclasses import asdict

    from flywheel.pipeline.baseline import baseline_status

    workspace = open_workspace(home)
    summary = baseline_status(workspace, workspace.current_snapshot())
    if as_json:
        return print_json(asdict(summary))
    _print_status(summary)


@baseline_app.command()
def embed(train: Annotated[bool, typer.Option("--train", help="Pay for the questions of train too.")] = False,
          again: Annotated[bool, typer.Option("--again", help="Drop these questions' vectors first and pay anew.")] = False,
          home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Pay the API for the questions of calibration and test that it has not embedded yet, and measure it."""
    from dataclasses import asdict
    from functools import partial

    from flywheel.cli.console import bars, console
    from flywheel.evaluation.comparison import unsound_text
    from flywheel.evidence.words import percent
    from flywheel.pipeline import baseline as work
    from flywheel.pipeline.evaluation import measure_baseline

    workspace = open_workspace(home)
    snapshot = workspace.current_snapshot()
    texts, tokens = work.texts_to_embed(snapshot, train), workspace.api.tokens
    if again:
        dropped = work.drop(workspace, texts)
        console(as_json).print(f"{dropped:,} cached vectors dropped")
    expected = work.estimate(workspace, texts)
    if expected.missing:
        cost = _cost_text(expected, tokens.counted_by)
        console(as_json).print(f"{expected.missing:,} texts to embed, {expected.cached:,} are cached: {cost}")
    with bars(as_json) as shown:
        paid = work.embed(workspace, texts, partial(shown.report, "embedding questions"))
    measured = measure_baseline(workspace, snapshot, pay=False) if snapshot.test.pairs and snapshot.calibration.pairs else None
    money = paid.money(workspace.settings.baseline.price)
    error = measured.evaluation.error if measured and measured.is_api else None
    if as_json:
        estimate = {"estimate": asdict(expected), "counted_by": tokens.counted_by}
        alarm = measured.evaluation.alarm.sentence if measured and measured.is_api and measured.evaluation.alarm else None
        return print_json({**estimate, "paid": asdict(paid), "money": money, "error": error, "alarm": alarm})
    print(f"Paid: {_paid_text(paid, money)}." if paid.texts else f"All {len(texts):,} texts were cached; nothing was paid.")
    if measured and error is not None:
        print(f"{workspace.api.model}: error {percent(error)} on {snapshot.test.pairs:,} test pairs")
        if measured.evaluation.alarm:
            print(f"No verdict is possible: {unsound_text(measured.evaluation)}")
    print("Next: flywheel leaderboard")


@baseline_app.command("export")
def export_file(file: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
                home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Write the API's cached vectors to a Parquet file, without their texts."""
    from flywheel.pipeline.baseline import export_baseline

    count = export_baseline(open_workspace(home), file)
    if as_json:
        return print_json({"file": str(file), "vectors": count})
    print(f"{count:,} vectors in {file}. Elsewhere: flywheel baseline import {file.name}")


@baseline_app.command("import")
def import_file(file: Annotated[Path, typer.Argument(help="A file that `flywheel baseline export` wrote.")],
                home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Add exported vectors to the cache; needs no key."""
    from dataclasses import asdict

    from flywheel.pipeline.baseline import import_baseline

    imported = import_baseline(open_workspace(home), file)
    if as_json:
        return print_json(asdict(imported))
    print(f"{imported.new:,} of the file's {imported.vectors:,} vectors were new. Next: flywheel baseline status")


def _print_status(status: "BaselineStatus") -> None:
    """How many of the API's vectors are here, as a table."""
    from flywheel.cli.console import console, new_table

    print(f"{status.model} at {status.dimensions} dimensions from {status.endpoint} ({status.family})")
    print(f"cached in {status.folder}")
    table = new_table(f"Texts of snapshot {status.snapshot_id}", ["split"], ("cached", "missing", "tokens", "US dollars"))
    for name, texts in {"calibration and test": status.judged, "train": status.train}.items():
        table.add_row(name, f"{texts.cached:,}", f"{texts.missing:,}", f"{texts.tokens:,}", f"{texts.money:.4f}")
    console(False).print(table)
    print(f"Tokens and money are what the missing texts would take, by {status.counted_by}.")
    print(f"Paid so far: {_paid_text(status.paid, status.paid_money)}.")
    print(f"OPENAI_API_KEY is {'set' if status.key_set else 'not set'}.")
    print(f"Next: {status.next}")


def _cost_text(cost: "Coverage", counted_by: str) -> str:
    return f"about {cost.tokens:,} tokens, {cost.money:.4f} US dollars (by {counted_by})"


def _paid_text(paid: "Paid", money: float) -> str:
    """What was paid, as the endpoint counted it."""
    rest = f"; the endpoint did not count {paid.uncounted:,} of the texts" if paid.uncounted else ""
    return f"{paid.tokens:,} tokens of {paid.texts:,} texts, {money:.4f} US dollars{rest}"
