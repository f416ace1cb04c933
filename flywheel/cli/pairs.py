"""Verbs for pairs: ingest, snapshot, pairs, forget."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.cli.common import Home, Json, open_home, open_workspace, print_json
from flywheel.errors import FlywheelError

if TYPE_CHECKING:
    from flywheel.pairs.preview import Preview
    from flywheel.pairs.snapshots.snapshot import Snapshot
    from flywheel.pairs.store.contradictions import Contradictions
    from flywheel.pairs.store.overview import Overview, PairEvent
    from flywheel.pipeline.forgetting import ForgetReport
    from flywheel.pipeline.workspace import Workspace

app = typer.Typer()
pairs_app = typer.Typer(no_args_is_help=False, help="What the store holds, where it came from, what contradicts itself.")
app.add_typer(pairs_app, name="pairs")


@app.command()
def ingest(paths: Annotated[list[Path], typer.Argument(help="Files of events, or folders of them.")],
           dry_run: Annotated[bool, typer.Option("--dry-run", help="Show how files are understood; store nothing.")] = False,
           home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Store files of what users left behind; doing it twice changes nothing."""
    from dataclasses import asdict

    from flywheel.cli.console import counter
    from flywheel.pairs.store.accounts import quarantine_reasons
    from flywheel.pipeline.ingest import ingest_paths, preview_paths

    workspace = open_workspace(home)
    if dry_run:
        return _show_previews(preview_paths(workspace, paths), as_json)
    with counter("lines read", as_json) as progress:
        summary = ingest_paths(workspace, paths, progress)
    counts = {k: v for k, v in asdict(summary).items() if isinstance(v, int)}
    options = workspace.settings.pairs
    if not (options.redact or options.redact_hook):
        del counts["redacted"]
    if as_json:
        print_json({**counts, "rejected": summary.rejected})
    elif summary.files:
        print(", ".join(f"{value:,} {name}" for name, value in counts.items()))
        bad = quarantine_reasons(workspace.store, [report.batch_id for report in summary.files], 11)
        for file, line, reason in bad[:10]:
            print(f"  quarantined {file}:{line}: {reason}")
        if len(bad) > 10:
            print("  ... and more; `flywheel pairs` counts the reasons")
        if summary.accepted + summary.duplicates:
            print("Next: flywheel snapshot, then flywheel train VARIANT all")
    if summary.rejected:
        raise FlywheelError("\n".join(summary.rejected))
    return None


def _show_previews(previews: "list[Preview]", as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json([asdict(each) for each in previews])
    else:
        for each in previews:
            if each.format:
                _print_preview(each)
    if problems := [each.problem for each in previews if each.problem]:
        raise FlywheelError("\n".join(problems))


def _print_preview(found: "Preview") -> None:
    """How a file was understood."""
    form = [found.format, found.compression, found.encoding]
    form += [f"delimiter {found.delimiter!r}", f"quoting {found.quoting}"] if found.delimiter else []
    print(f"{found.file}: " + ", ".join(each for each in form if each))
    print("  columns: " + (", ".join(f"{ours} = {theirs}" for ours, theirs in found.columns.items()) or "by our own names"))
    if found.other_columns:
        print(f"  kept beside them: {', '.join(found.other_columns)}")
    words = {1: "same", 0: "different", None: "not known"}
    for name, values in found.values.items():
        print(f"  {name}: " + ", ".join(f"{value} ({count:,}) is {words.get(m, m)}" for value, count, m in values))
    print(f"  {found.lines:,} lines: {found.header} header, {found.continuation:,} continuation, {found.events:,} events")
    for line, reason, count in found.refused:
        print(f"  {count:,} refused, the first is line {line}: {reason}")
    for pair in found.pairs:
        label = "same     " if pair["label"] else "different"
        said = f"({pair['kind']}, weight {pair['weight']:g})"
        print(f"  {pair['line']:>6}  {label}  {pair['text_a'][:60]!r} | {pair['text_b'][:60]!r}  {said}")
    print(("Settings that say so much:" if found.problem else "Settings that say so:") + f"\n{found.settings}")
    print("Nothing was stored." + ("" if found.problem else " Next: the same command without --dry-run"))


@app.command()
def snapshot(new_test: Annotated[bool, typer.Option("--new-test", help="Draw new calibration and test splits.")] = False,
             home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Export the pairs as they are, split and frozen, for training and evaluation."""
    from dataclasses import asdict

    from flywheel.orchestration.materialise import materialise
    from flywheel.pipeline.ingest import take_snapshot

    with open_home(home) as session:
        materialise(session, ["seed_pairs", "interaction_pairs", "pairs"])
        if new_test:
            take_snapshot(session.workspace, new_test=True)
        made = materialise(session, ["snapshot"])["snapshot"]
        taken = session.workspace.snapshots.load(made["snapshot_id"])
    sizes = {"train": taken.train.pairs, "calibration": taken.calibration.pairs, "test": taken.test.pairs}
    frozen_from = session.workspace.settings.splits.frozen_from
    if as_json:
        more = {"folds": taken.folds, "judging": asdict(taken.judging), "note": taken.note, "missing": taken.lack}
        return print_json({"snapshot_id": taken.snapshot_id, **sizes, "frozen_from": frozen_from, **more})
    print(f"snapshot {taken.snapshot_id}: " + ", ".join(f"{n:,} {split}" for split, n in sizes.items()))
    _print_judging(taken, frozen_from)
    for line in filter(None, (taken.note, taken.lack)):
        print(line)
    if taken.can_judge:
        print("Next: flywheel grid")
    return None


def _print_judging(taken: "Snapshot", frozen_from: int) -> None:
    """Who judges, and what they can show."""
    judging = taken.judging
    if taken.is_cross_fitted:
        begin = f"from {frozen_from:,} labelled pairs on" if frozen_from else "as soon as they can judge"
        print(
            f"All pairs train. {judging.pairs:,} labelled pairs in {judging.components:,} components judge too, in "
            f"{taken.folds} folds: each judges only models that have not seen its component. "
            f"Test pairs are set aside {begin} (splits.frozen_from)."
        )
    if taken.can_judge and judging.detectable:
        print(f"With {judging.pairs:,} pairs only a difference of about {_in_points(judging.detectable)} would show.")


def _in_points(share: float) -> str:
    """A difference of error rates, as exact as an expectation may be said."""
    size = 100 * share
    return f"{size:.0f} points" if size >= 2 else f"{size:.1f} points"


@pairs_app.callback(invoke_without_command=True)
def pairs_show(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """What the store holds, by source and day, by split, and why lines were quarantined."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from flywheel.pairs.store.overview import overview

    workspace = open_workspace(home)
    summary = overview(workspace.store)
    if as_json:
        return print_json(asdict(summary))
    _print_overview(summary, workspace.settings.pairs.seed_pairs)


@pairs_app.command("origin")
def pairs_origin(wanted: Annotated[str, typer.Argument(help="A pair's id, or the whole text of a question.")],
                 home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Every event about a pair: where it came from and which label it gave."""
    from dataclasses import asdict

    from flywheel.pairs.store.overview import origins

    events = origins(open_workspace(home).store, wanted)
    if as_json:
        return print_json([asdict(event) for event in events])
    _print_origins(events)


@pairs_app.command("contradictions")
def pairs_contradictions(home: Home = None, as_json: Json = False) -> None:
    """Texts called different that both mean the same as a third one; the worst first."""
    from dataclasses import asdict

    from flywheel.pairs.store.contradictions import find_contradictions

    contradictions = find_contradictions(open_workspace(home).store)
    if as_json:
        return print_json(asdict(contradictions))
    _print_contradictions(contradictions)


@app.command()
def forget(user: Annotated[str | None, typer.Option("--user", help="Everything this user left.")] = None,
           batch: Annotated[str | None, typer.Option("--batch", help="Everything one file brought: its batch id.")] = None,
           text: Annotated[str | None, typer.Option("--text-contains", help="Every pair whose text holds these words.")] = None,
           yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
           home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Delete pairs for good, and name the models that were trained on them."""
    from dataclasses import asdict

    from flywheel.pairs.forget import Selection, find
    from flywheel.pipeline.forgetting import forget as forget_everywhere

    workspace, selection = open_workspace(home), Selection(user, batch, text)
    match = find(workspace.store, selection)
    if match.observations + match.quarantined == 0 and not match.unfinished:
        raise FlywheelError("Nothing in the store matches; nothing was forgotten.")
    what = f"{match.observations:,} observations of {match.pairs:,} pairs and {match.quarantined:,} quarantined lines"
    if not yes and not typer.confirm(f"Delete {what} for good, and the snapshots that hold them?", err=True):
        raise FlywheelError("Nothing was forgotten.")
    report = forget_everywhere(workspace, selection)
    if as_json:
        return print_json(asdict(report))
    _print_forgotten(report, workspace)


def _print_forgotten(report: "ForgetReport", workspace: "Workspace") -> None:
    place = workspace.home
    print(
        f"Forgotten: {report.observations:,} observations of {report.pairs:,} pairs, {report.quarantined:,} quarantined lines;"
    )
    print(f"deleted: {len(report.snapshots)} snapshots, {len(report.deliveries)} delivered files in {place.inbox / 'done'}.")
    print(
        f"{len(report.models)} models were trained or calibrated on them" + (", the champion too:" if report.champion else ":")
    )
    for model in report.models:
        print(f"  {place.models / model}")
    if report.unknown:
        print(f"{len(report.unknown)} more cannot be checked (their snapshot is deleted, or they cannot be read).")
    print("Files outside the home are yours to delete. Next: flywheel snapshot, then flywheel grid trains the models again.")


def _print_overview(store: "Overview", seed_pairs: str) -> None:
    """The store as tables."""
    from flywheel.cli.console import console, new_table
    from flywheel.evidence.words import percent

    out = console(False)
    if not store.days:
        seeds = "" if seed_pairs == "none" else ", or flywheel snapshot, which brings the seed pairs"
        out.print(f"The store is empty. Next: flywheel ingest PATH{seeds}.")
        return
    counted = ["lines", "accepted", "duplicates", "quarantined", "conflicts", "embargoed"]
    counted += ["redacted"] if any(day.redacted for day in store.days) else []
    table = new_table("What came in", [], ["day", *counted])
    for day in store.days:
        table.add_row(f"{day.day} {day.source}", *(f"{getattr(day, name):,}" for name in counted))
    out.print(table)
    table = new_table("Where the pairs are", ["split", "source"], ("pairs", "duplicates"))
    for split in store.splits:
        table.add_row(split.split, split.source, f"{split.pairs:,}", percent(split.prior))
    out.print(table)
    if store.reasons:
        table = new_table("Why lines were quarantined", ["reason"], ("lines",))
        for reason, lines in store.reasons:
            table.add_row(reason, f"{lines:,}")
        out.print(table)
    if embargo := store.embargo:
        out.print(
            f"Embargo: {percent(embargo.newest)} of the newest interactions are linked to test or calibration questions, "
            f"{percent(embargo.first)} were at first ({embargo.batches} batches since the draw)."
        )
        if embargo.advice:
            out.print(embargo.advice)
    out.print("Next: flywheel pairs origin TEXT, flywheel pairs contradictions, flywheel snapshot", style="dim")


def _print_origins(events: "list[PairEvent]") -> None:
    """The events behind a pair."""
    for event in events:
        label = "same" if event.label else "different"
        print(f"{event.pair_id}  {label} ({event.kind}, weight {event.weight:g})  {event.text_a!r} | {event.text_b!r}")
        more = {"user": event.user, "time": event.time, "position": event.position, "model": event.model}
        given = ", ".join(f"{name} {value}" for name, value in more.items() if value is not None)
        print(f"  {event.type} in {event.file}:{event.line}, batch {event.batch_id}" + (f", {given}" if given else ""))


def _print_contradictions(contradictions: "Contradictions") -> None:
    """The worst contradictory triangles as a table."""
    from flywheel.cli.console import console, new_table
    from flywheel.evidence.words import percent

    share = percent(contradictions.share)
    print(f"{contradictions.pairs:,} pairs ({share}) are in a triangle whose labels contradict each other.")
    if not contradictions.worst:
        return
    table = new_table("Called different, though both mean the same as a third", ["a", "b", "through"], ("pairs",))
    for worst in contradictions.worst:
        table.add_row(worst.text_a, worst.text_b, worst.through, f"{worst.pairs:,}")
    console(False).print(table)
    print("Next: flywheel pairs origin TEXT shows who said what")
