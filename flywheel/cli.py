"""`flywheel ...`: thin. Verbs call the functions the assets call; people read stdout, programs read `--json`."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from flywheel.errors import FlywheelError, disk_is_full
from flywheel.interrupts import stoppable

if TYPE_CHECKING:
    from flywheel.orchestration.instance import Session
    from flywheel.registry.champions import Entry
    from flywheel.settings import Settings

Home = Annotated[Path | None, typer.Option("--home", help="Folder that holds all state (default: data/).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Recipe = Annotated[str, typer.Option("--recipe", help="How weights move: head, top or full.")]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Turn the pairs your users leave behind into an embedding model you own.",
    epilog="Start with `flywheel demo`, then `flywheel up`.",
)  # fmt: skip
champion_app = typer.Typer(no_args_is_help=False, help="The promoted model: show, history, promote, rollback.")
app.add_typer(champion_app, name="champion")
cache_app = typer.Typer(no_args_is_help=False, help="What encoders made of texts: size, prune.")
app.add_typer(cache_app, name="cache")
pairs_app = typer.Typer(no_args_is_help=False, help="What the store holds, where it came from, what contradicts itself.")
app.add_typer(pairs_app, name="pairs")

baseline_app = typer.Typer(no_args_is_help=False, help="The embedding API's vectors: status, embed, export, import.")
app.add_typer(baseline_app, name="baseline")


def main() -> None:
    """Run the command line; a failure that is explained prints its sentence and exits with 1."""
    try:
        app()
    except FlywheelError as error:
        _fail(str(error), 1)
    except Exception:
        home = Path(os.environ.get("FLYWHEEL_HOME", "data"))  # sessions set it to the home they work on
        if disk_is_full(home):
            _fail(f"The disk that holds {home} is full. Free some space and run the same command again.", 1)
        if home.exists() and not os.access(home, os.W_OK):
            _fail(f"{home} cannot be written. Choose another home with --home or FLYWHEEL_HOME.", 1)
        raise


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"flywheel: {sentence}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        with stoppable():
            yield
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on where this one was.", 130)


@app.command()
def demo(home: Home = None, as_json: Json = False) -> None:
    """Turn the whole loop once on the starter set: ingest, train, evaluate, promote."""
    from flywheel import demo as demonstration

    with _session(home) as session:
        demonstration.run(session, as_json)


@app.command()
def ingest(paths: Annotated[list[Path], typer.Argument(help="Files of events: .jsonl, .csv, .tsv, .parquet, also .gz, .zst.")],
           home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Store files of what users left behind; doing it twice changes nothing."""
    from dataclasses import asdict

    from flywheel.orchestration import steps
    from flywheel.pairs.ingest import quarantine_reasons
    from flywheel.pairs.lake import open_store
    from flywheel.report import counter

    settings = _settings(home)
    with _interruptible(), counter("lines read", as_json) as progress:
        summary = steps.ingest_paths(settings, paths, progress)
    counts = {k: v for k, v in asdict(summary).items() if isinstance(v, int)}
    if not (settings.redact or settings.redact_hook):
        del counts["redacted"]
    if as_json:
        return _print_json(counts)
    print(", ".join(f"{value:,} {name}" for name, value in counts.items()))
    bad = quarantine_reasons(open_store(settings), [report.batch_id for report in summary.files], 11)
    for file, line, reason in bad[:10]:
        print(f"  quarantined {file}:{line}: {reason}")
    if len(bad) > 10:
        print("  ... and more; `flywheel pairs` counts the reasons")
    print("Next: flywheel snapshot, then flywheel train VARIANT all")


@pairs_app.callback(invoke_without_command=True)
def pairs_show(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """What the store holds, by source and day, by split, and why lines were quarantined."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from flywheel.pairs.lake import open_store
    from flywheel.pairs.overview import overview
    from flywheel.report import print_overview

    found = overview(open_store(_settings(home)))
    if as_json:
        return _print_json(asdict(found))
    print_overview(found)


@pairs_app.command("origin")
def pairs_origin(wanted: Annotated[str, typer.Argument(help="A pair's id, or the whole text of a question.")],
                 home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Where a pair came from: every event that said something of it."""
    from dataclasses import asdict

    from flywheel.pairs.lake import open_store
    from flywheel.pairs.overview import origins
    from flywheel.report import print_origins

    found = origins(open_store(_settings(home)), wanted)
    if as_json:
        return _print_json([asdict(origin) for origin in found])
    print_origins(found)


@pairs_app.command("contradictions")
def pairs_contradictions(home: Home = None, as_json: Json = False) -> None:
    """Texts called different that both mean the same as a third one; the worst first."""
    from dataclasses import asdict

    from flywheel.pairs.contradictions import find_contradictions
    from flywheel.pairs.lake import open_store
    from flywheel.report import print_contradictions

    found = find_contradictions(open_store(_settings(home)))
    if as_json:
        return _print_json(asdict(found))
    print_contradictions(found)


@app.command()
def forget(user: Annotated[str | None, typer.Option("--user", help="Everything this user left.")] = None,
           batch: Annotated[str | None, typer.Option("--batch", help="Everything a delivery brought: its id.")] = None,
           text: Annotated[str | None, typer.Option("--text-contains", help="Every pair whose text holds these words.")] = None,
           yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
           home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Make pairs go away for good, and name the models that were trained on them."""
    from dataclasses import asdict

    from flywheel.orchestration import steps
    from flywheel.pairs.forget import Selection, find
    from flywheel.pairs.lake import open_store

    settings, selection = _settings(home), Selection(user, batch, text)
    found = find(open_store(settings), selection)
    if found.observations + found.quarantined == 0 and not found.unfinished:
        raise FlywheelError("Nothing in the store matches; nothing was forgotten.")
    said = f"{found.observations:,} observations of {found.pairs:,} pairs and {found.quarantined:,} quarantined lines"
    if not yes and not typer.confirm(f"{said} will be gone for good, and the snapshots that hold them. Go on?", err=True):
        raise FlywheelError("Nothing was forgotten.")
    report = steps.forget(settings, selection)
    if as_json:
        return _print_json(asdict(report))
    print(
        f"Forgotten: {report.observations:,} observations of {report.pairs:,} pairs, {report.quarantined:,} quarantined lines;"
    )
    print(f"removed: {len(report.snapshots)} snapshots, {len(report.deliveries)} delivered files in {settings.inbox / 'done'}.")
    print(
        f"{len(report.models)} models were trained or calibrated on them" + (", the champion too:" if report.champion else ":")
    )
    for model in report.models:
        print(f"  {settings.models / model}")
    if report.unknown:
        print(f"{len(report.unknown)} more cannot be read or were trained on snapshots that are gone: nobody can tell.")
    print("Files outside the home are yours to delete. Next: flywheel snapshot, then flywheel grid trains the models anew.")


@app.command()
def snapshot(new_test: Annotated[bool, typer.Option("--new-test", help="Draw new calibration and test splits.")] = False,
             home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Export the pairs as they stand, split and frozen, for training and evaluation."""
    from flywheel.orchestration import steps
    from flywheel.orchestration.materialise import materialise

    with _session(home) as session:
        materialise(session, ["seed_pairs", "interaction_pairs", "pairs"])
        if new_test:
            steps.snapshot(session.settings, new_test=True)
        materialise(session, ["snapshot"])
        taken = steps.current_snapshot(session.settings)
    sizes = {"train": taken.train.pairs, "calibration": taken.calibration.pairs, "test": taken.test.pairs}
    if as_json:
        return _print_json({"snapshot_id": taken.snapshot_id, **sizes})
    print(f"snapshot {taken.snapshot_id}: " + ", ".join(f"{n:,} {split}" for split, n in sizes.items()))
    print("Next: flywheel grid")


@app.command()
def train(variant: Annotated[str, typer.Argument(help="Base model and dimension: all-MiniLM-L6-v2@256.")],
          size: Annotated[str, typer.Argument(help="Number of training pairs, or all.")],
          recipe: Recipe = "head", home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Train and evaluate one model."""
    from functools import partial

    from flywheel.models.catalogue import Variant
    from flywheel.orchestration import grid, steps
    from flywheel.report import ENCODING, bars, training_listener
    from flywheel.training.job import TrainedModel, check_recipe, check_size

    parsed, size, recipe = Variant.parse(variant), check_size(size), check_recipe(recipe)
    with _session(home) as session:
        grid.ensure_snapshot(session)
        settings = session.settings
        with bars(as_json) as shown, steps.watched(training_listener(shown)):
            grid.train_one(session, parsed, size, recipe, partial(shown.report, ENCODING))
        job = steps.training_job(settings, steps.current_snapshot(settings), parsed, size, recipe)
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
        return _print_json(result)
    if model.kept_start:
        print(f"Training brought no proven gain, so the untrained start ships: {model.kept_start}.")
    print(f"{variant} | {size}: error {record.error:.1%} on {record.metrics.n:,} test pairs, model in {model.folder}")
    if settings.seed == "quora" and record.contamination:
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
    with _session(home) as session:
        grid.ensure_snapshot(session)
        cells = run_grid(session, variants, sizes, check_recipe(recipe), as_json)
    if as_json:
        _print_json(cells)
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

    entries = tidying.list_kept(_settings(home))
    if as_json:
        return _print_json([asdict(entry) for entry in entries])
    print_kept(entries)


@cache_app.command("prune")
def cache_prune(states: Annotated[bool, typer.Option("--states", help="Remove all token states too.")] = False,
                home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Remove what no snapshot and no model needs any more. Vectors of an API stay: they were paid for."""
    from flywheel.orchestration import tidying

    freed = tidying.prune(_settings(home), states)
    if as_json:
        return _print_json({"freed_bytes": freed})
    print(f"{freed / 1e6:,.1f} MB freed. What is needed again will be encoded again.")


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

    found = baseline_status(_settings(home))
    if as_json:
        return _print_json(asdict(found))
    print_baseline(found)


@baseline_app.command("embed")
def baseline_embed(train: Annotated[bool, typer.Option("--train", help="The questions of train too.")] = False,
                   home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Pay the API for the questions of calibration and test that it has not embedded yet."""
    from dataclasses import asdict
    from functools import partial

    from flywheel.orchestration import baseline as work
    from flywheel.report import bars, console, cost_text, paid_text

    settings = _settings(home)
    texts = work.texts_to_embed(settings, train)
    expected, counted_by = work.estimate(settings, texts)
    out = console(as_json)
    if expected.missing:
        out.print(f"{expected.missing:,} texts to embed, {expected.cached:,} are cached: {cost_text(expected, counted_by)}")
    with _interruptible(), bars(as_json) as shown:
        paid = work.embed(settings, texts, partial(shown.report, "embedding questions"))
    money = paid.money(settings.baseline_price)
    if as_json:
        return _print_json({"estimate": asdict(expected), "counted_by": counted_by, "paid": asdict(paid), "money": money})
    print(f"Paid: {paid_text(paid, money)}." if paid.texts else f"All {len(texts):,} texts were cached; nothing was asked for.")
    print("Next: flywheel evidence")


@baseline_app.command("export")
def baseline_export(file: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
                    home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Write the API's cached vectors to a Parquet file, without their texts."""
    from flywheel.orchestration.baseline import export_baseline

    with _interruptible():
        count = export_baseline(_settings(home), file)
    if as_json:
        return _print_json({"file": str(file), "vectors": count})
    print(f"{count:,} vectors in {file}. Elsewhere: flywheel baseline import {file.name}")


@baseline_app.command("import")
def baseline_import(file: Annotated[Path, typer.Argument(help="A file that `flywheel baseline export` wrote.")],
                    home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Add exported vectors to the cache; needs no key."""
    from dataclasses import asdict

    from flywheel.orchestration.baseline import import_baseline

    with _interruptible():
        found = import_baseline(_settings(home), file)
    if as_json:
        return _print_json(asdict(found))
    print(f"{found.new:,} of the file's {found.vectors:,} vectors were new. Next: flywheel baseline status")


@app.command()
def leaderboard(home: Home = None, as_json: Json = False) -> None:
    """Every evaluated model of the current snapshot beside the baseline."""
    from flywheel.evidence.sections import board_section
    from flywheel.evidence.terminal import print_section
    from flywheel.orchestration import steps
    from flywheel.report import bars, console, training_listener

    with _session(home) as session:
        settings = session.settings
        _ensure_baseline(session)
        with bars(as_json) as shown, steps.watched(training_listener(shown)):
            steps.evaluate_opponents(settings)
        board = steps.leaderboard(settings)
    if as_json:
        return _print_json(board.to_json())
    print_section(board_section(board, steps.champion_id(settings)), console(False))
    print("Next: flywheel evidence")


@app.command()
def evidence(home: Home = None, as_json: Json = False) -> None:
    """The page for a sceptic: which model, how much better, how sure, at what cost, what breaks, what to do next."""
    from flywheel.evidence.page import as_plain
    from flywheel.evidence.terminal import print_page
    from flywheel.orchestration import findings
    from flywheel.report import console, waiting

    with _session(home) as session:
        settings = session.settings
        _ensure_baseline(session)
        with waiting("comparing, drawing, timing", as_json):
            page, file = findings.save_page(settings)
    if as_json:
        return _print_json({**as_plain(page), "file": str(file)})
    print_page(page, console(False))
    print(f"The same as one file for a browser: {file}")


@champion_app.callback(invoke_without_command=True)
def champion(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Show the champion when no other verb is given."""
    if context.invoked_subcommand is None:
        show(home, as_json)


@champion_app.command()
def show(home: Home = None, as_json: Json = False) -> None:
    """The champion: where its model lies, its threshold and its figures."""
    from flywheel.orchestration import steps

    settings = _settings(home)
    present = steps.registry(settings).current()
    if present is None or present.champion is None:
        raise FlywheelError("There is no champion yet; run `flywheel champion promote` once cells are evaluated.")
    _print_entry(settings, present, as_json)


@champion_app.command()
def history(home: Home = None, as_json: Json = False) -> None:
    """Every decision and rollback, oldest first."""
    from dataclasses import asdict

    from flywheel.orchestration import steps

    entries = steps.registry(_settings(home)).history()
    if as_json:
        return _print_json([asdict(entry) for entry in entries])
    for entry in entries:
        who = entry.verdict.challenger_name if entry.verdict else entry.champion and entry.champion.variant
        print(f"{entry.number:>4}  {entry.time}  {entry.action:<11}  {who}  {entry.verdict.reason if entry.verdict else ''}")
    if not entries:
        print("No decision yet.")


@champion_app.command()
def promote(home: Home = None, as_json: Json = False) -> None:
    """Judge the best challenger now; it is promoted only if it is provably better."""
    from flywheel.orchestration import steps
    from flywheel.orchestration.materialise import materialise

    with _session(home) as session:
        settings = session.settings
        _ensure_baseline(session)
        materialise(session, ["leaderboard", "champion"])
        entry = next(entry for entry in reversed(steps.registry(settings).history()) if entry.verdict)
    _print_entry(settings, entry, as_json)


@champion_app.command()
def rollback(to: Annotated[int | None, typer.Argument(help="Entry of the history; default: the one before.")] = None,
             home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Restore an earlier champion."""
    from flywheel.orchestration import steps

    settings = _settings(home)
    _print_entry(settings, steps.rollback(settings, to), as_json)


@app.command()
def up(home: Home = None, port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000) -> None:
    """Open the Dagster UI on this home, with sensors and schedule running."""
    from flywheel.orchestration.server import serve_ui

    with _session(home) as session:
        settings = session.settings
    sys.exit(serve_ui(settings, port))


@app.command()
def config(home: Home = None, as_json: Json = False) -> None:
    """Every setting with its value; secrets never stand among them."""
    settings = _settings(home)
    values = settings.model_dump(mode="json")
    if as_json:
        return _print_json(values)
    for name, value in values.items():
        print(f"{name} = {value!r}    # {type(settings).model_fields[name].description or ''}".rstrip(" #"))


def _settings(home: Path | None) -> "Settings":
    from flywheel.settings import load_settings

    return load_settings(home)


@contextmanager
def _session(home: Path | None) -> "Iterator[Session]":
    from flywheel.orchestration.instance import open_session
    from flywheel.orchestration.materialise import silence_dagster

    settings = _settings(home)
    silence_dagster()
    with _interruptible(), open_session(settings) as session:
        yield session


def _ensure_baseline(session: "Session") -> None:
    """Measure the baseline; where that takes paying the API, say first about how much."""
    from flywheel.orchestration import baseline, grid
    from flywheel.report import console, cost_text

    grid.ensure_snapshot(session)
    settings = session.settings
    if settings.baseline != "local" and settings.openai_api_key:
        expected, counted_by = baseline.estimate(settings, baseline.texts_to_embed(settings, train=False))
        if expected.missing:
            said = f"{settings.baseline_model} is paid for {expected.missing:,} texts: {cost_text(expected, counted_by)}"
            console(True).print(said)
    grid.ensure_baseline(session)


def _print_entry(settings: "Settings", entry: "Entry", as_json: bool) -> None:
    """Show an entry of the history and who is champion now."""
    from dataclasses import asdict

    from flywheel.evidence.sections import decision_section
    from flywheel.evidence.terminal import print_section
    from flywheel.orchestration import steps
    from flywheel.report import console

    present = steps.registry(settings).current()
    champion = present.champion if present else None
    folder = str(settings.models / champion.model) if champion else None
    if as_json:
        fields = {**asdict(champion), "model": folder} if champion else {"model": None}
        verdict = asdict(entry.verdict) if entry.verdict else None
        return _print_json({**fields, "entry": entry.number, "action": entry.action, "verdict": verdict})
    print_section(decision_section(entry, present, settings.seed == "quora"), console(False))
    if folder:
        print(f"Model folder: {folder}")
    return None


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


if __name__ == "__main__":
    main()
