"""Verbs for the embedding API: what it has embedded, paying for the rest, taking the vectors elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.cli.common import Home, Json, open_workspace, print_json

if TYPE_CHECKING:
    from flywheel.models.api.ledger import Paid
    from flywheel.pipeline.baseline import BaselineStatus, Coverage, FailedText

_SHOWN = 5  # texts that are named
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
          retry: Annotated[bool, typer.Option("--retry", help="Try again what the API failed on or refused.")] = False,
          again: Annotated[bool, typer.Option("--again", help="Drop these questions' vectors first and pay again.")] = False,
          home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Pay the API for the questions of calibration and test that it has not embedded yet, and measure it."""
    from dataclasses import asdict
    from functools import partial

    from flywheel.cli.console import bars, console
    from flywheel.evaluation.comparison import unsound_text
    from flywheel.evaluation.failures import way_on
    from flywheel.evidence.words import percent
    from flywheel.pairs.snapshots.snapshot import DRAW_AGAIN
    from flywheel.pipeline import baseline as work
    from flywheel.pipeline.evaluation import measure_baseline

    workspace = open_workspace(home)
    snapshot = workspace.current_snapshot()
    if retry:
        work.retry(workspace)
    texts, tokens = work.texts_to_embed(snapshot, train), workspace.api.tokens
    if again:
        dropped = work.drop(workspace, snapshot, texts)
        console(as_json).print(f"{dropped:,} cached vectors dropped")
    expected = work.estimate(workspace, texts)
    if expected.missing:
        cost = _cost_text(expected, tokens.counted_by)
        console(as_json).print(f"{expected.missing:,} texts to embed, {expected.cached:,} are cached: {cost}")
    with bars(as_json) as shown:
        paid = work.embed(workspace, texts, partial(shown.report, "embedding questions"))
    measured = measure_baseline(workspace, snapshot, pay=False) if snapshot.can_judge else None
    money = paid.money(workspace.settings.baseline.price)
    record = measured.evaluation if measured and measured.is_api else None
    failed = work.failed_texts(workspace, texts)
    if as_json:
        estimate = {"estimate": asdict(expected), "counted_by": tokens.counted_by}
        return print_json(
            {**estimate, "paid": asdict(paid), "money": money, "error": record.error if record else None,
             "failed": [asdict(each) for each in failed], "alarm": record.alarm.sentence if record and record.alarm else None}
        )  # fmt: skip
    print(f"Paid: {_paid_text(paid, money)}." if paid.texts else f"All {len(texts):,} texts were cached; nothing was paid.")
    _print_failed(failed)
    if record:
        print(f"{workspace.api.model}: error {percent(record.error)} on {record.metrics.n:,} test pairs")
    if record and record.failures:
        print(record.failures.sentence(percent(record.failures.error_without)))
    if record and record.alarm:
        print(f"No verdict is possible: {unsound_text(record)}")
    elif record and record.no_verdict:
        print(f"No verdict is possible: {record.no_verdict}. {way_on(record.no_verdict, DRAW_AGAIN)}")
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
        return print_json({**asdict(imported), "set_aside": len(imported.set_aside)})
    print(f"{imported.new:,} of the file's {imported.vectors:,} vectors were new. Next: flywheel baseline status")


def _print_status(status: "BaselineStatus") -> None:
    """How many of the API's vectors are here, as a table."""
    from flywheel.cli.console import console, new_table

    print(f"{status.model} at {status.dimensions} dimensions from {status.endpoint} ({status.family})")
    print(f"cached in {status.folder}")
    figures = ("cached", "set aside", "missing", "tokens", "US dollars")
    table = new_table(f"Texts of snapshot {status.snapshot_id}", ["split"], figures)
    for name, texts in {"calibration and test": status.judged, "train": status.train}.items():
        counts = (texts.cached, texts.failed, texts.missing, texts.tokens)
        table.add_row(name, *(f"{count:,}" for count in counts), f"{texts.money:.4f}")
    console(False).print(table)
    print(f"Tokens and money are what the missing texts would take, by {status.counted_by}.")
    _print_failed(status.failed)
    print(f"Paid so far: {_paid_text(status.paid, status.paid_money)}.")
    print(f"OPENAI_API_KEY is {'set' if status.key_set else 'not set'}.")
    print(f"Next: {status.next}")


def _print_failed(failed: "list[FailedText]") -> None:
    """Which texts the API could not embed."""
    if failed:
        print(f"Set aside, because the API fails on them ({len(failed):,}; `flywheel baseline embed --retry` tries again):")
    for each in failed[:_SHOWN]:
        print(f"  {each.begins!r}: {each.reason}")


def _cost_text(cost: "Coverage", counted_by: str) -> str:
    return f"about {cost.tokens:,} tokens, {cost.money:.4f} US dollars (by {counted_by})"


def _paid_text(paid: "Paid", money: float) -> str:
    """What was paid, as the endpoint counted it."""
    rest = f"; the endpoint did not count {paid.uncounted:,} of the texts" if paid.uncounted else ""
    return f"{paid.tokens:,} tokens of {paid.texts:,} texts, {money:.4f} US dollars{rest}"
