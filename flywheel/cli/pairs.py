"""Verbs for pairs: ingest, snapshot, pairs, forget."""

from pathlib import Path
from typing import Annotated

import typer

from flywheel.cli.common import Home, Json, open_home, print_json, read_settings
from flywheel.errors import FlywheelError

app = typer.Typer()
pairs_app = typer.Typer(no_args_is_help=False, help="What the store holds, where it came from, what contradicts itself.")
app.add_typer(pairs_app, name="pairs")


@app.command()
def ingest(paths: Annotated[list[Path], typer.Argument(help="Files of events: .jsonl, .csv, .tsv, .parquet, also .gz, .zst.")],
           home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Store files of what users left behind; doing it twice changes nothing."""
    from dataclasses import asdict

    from flywheel.orchestration import steps
    from flywheel.pairs.ingest import quarantine_reasons
    from flywheel.pairs.store.ducklake import open_store
    from flywheel.report import counter

    settings = read_settings(home)
    with counter("lines read", as_json) as progress:
        summary = steps.ingest_paths(settings, paths, progress)
    counts = {k: v for k, v in asdict(summary).items() if isinstance(v, int)}
    if not (settings.redact or settings.redact_hook):
        del counts["redacted"]
    if as_json:
        return print_json(counts)
    print(", ".join(f"{value:,} {name}" for name, value in counts.items()))
    bad = quarantine_reasons(open_store(settings), [report.batch_id for report in summary.files], 11)
    for file, line, reason in bad[:10]:
        print(f"  quarantined {file}:{line}: {reason}")
    if len(bad) > 10:
        print("  ... and more; `flywheel pairs` counts the reasons")
    print("Next: flywheel snapshot, then flywheel train VARIANT all")


@app.command()
def snapshot(new_test: Annotated[bool, typer.Option("--new-test", help="Draw new calibration and test splits.")] = False,
             home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Export the pairs as they stand, split and frozen, for training and evaluation."""
    from flywheel.orchestration import steps
    from flywheel.orchestration.materialise import materialise

    with open_home(home) as session:
        materialise(session, ["seed_pairs", "interaction_pairs", "pairs"])
        if new_test:
            steps.snapshot(session.settings, new_test=True)
        materialise(session, ["snapshot"])
        taken = steps.current_snapshot(session.settings)
    sizes = {"train": taken.train.pairs, "calibration": taken.calibration.pairs, "test": taken.test.pairs}
    if as_json:
        return print_json({"snapshot_id": taken.snapshot_id, **sizes})
    print(f"snapshot {taken.snapshot_id}: " + ", ".join(f"{n:,} {split}" for split, n in sizes.items()))
    print("Next: flywheel grid")


@pairs_app.callback(invoke_without_command=True)
def pairs_show(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """What the store holds, by source and day, by split, and why lines were quarantined."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from flywheel.pairs.store.ducklake import open_store
    from flywheel.pairs.store.overview import overview
    from flywheel.report import print_overview

    found = overview(open_store(read_settings(home)))
    if as_json:
        return print_json(asdict(found))
    print_overview(found)


@pairs_app.command("origin")
def pairs_origin(wanted: Annotated[str, typer.Argument(help="A pair's id, or the whole text of a question.")],
                 home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Where a pair came from: every event that said something of it."""
    from dataclasses import asdict

    from flywheel.pairs.store.ducklake import open_store
    from flywheel.pairs.store.overview import origins
    from flywheel.report import print_origins

    found = origins(open_store(read_settings(home)), wanted)
    if as_json:
        return print_json([asdict(origin) for origin in found])
    print_origins(found)


@pairs_app.command("contradictions")
def pairs_contradictions(home: Home = None, as_json: Json = False) -> None:
    """Texts called different that both mean the same as a third one; the worst first."""
    from dataclasses import asdict

    from flywheel.pairs.store.contradictions import find_contradictions
    from flywheel.pairs.store.ducklake import open_store
    from flywheel.report import print_contradictions

    found = find_contradictions(open_store(read_settings(home)))
    if as_json:
        return print_json(asdict(found))
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
    from flywheel.pairs.store.ducklake import open_store

    settings, selection = read_settings(home), Selection(user, batch, text)
    found = find(open_store(settings), selection)
    if found.observations + found.quarantined == 0 and not found.unfinished:
        raise FlywheelError("Nothing in the store matches; nothing was forgotten.")
    said = f"{found.observations:,} observations of {found.pairs:,} pairs and {found.quarantined:,} quarantined lines"
    if not yes and not typer.confirm(f"{said} will be gone for good, and the snapshots that hold them. Go on?", err=True):
        raise FlywheelError("Nothing was forgotten.")
    report = steps.forget(settings, selection)
    if as_json:
        return print_json(asdict(report))
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
