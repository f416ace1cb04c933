"""The verb that deletes what nothing needs any more, or says what that is."""

from typing import Annotated

import typer

from flywheel.cli.common import Home, Json, open_workspace, print_json

app = typer.Typer()


@app.command()
def housekeeping(dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
                 home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Delete what nothing needs any more: old snapshots, their models and records, and what caches hold for them."""
    from flywheel.cli.console import console, new_table, waiting
    from flywheel.pipeline.cleanup import prunable_bytes
    from flywheel.pipeline.housekeeping import find_leftovers, tidy

    workspace = open_workspace(home)
    with waiting("looking at what is in use", as_json):
        found = find_leftovers(workspace)
        cached = prunable_bytes(workspace, {each.folder.name for each in found})
    room = {kind: [each for each in found if each.kind == kind] for kind in ("snapshot", "model", "evaluation")}
    if not dry_run:
        with waiting("deleting", as_json):
            freed = tidy(workspace)
    if as_json:
        listed = [{"kind": each.kind, "folder": each.folder, "bytes": each.bytes} for each in found]
        return print_json({"leftovers": listed, "cached_bytes": cached, **({} if dry_run else {"freed_bytes": freed})})
    table = new_table("would go" if dry_run else "gone", ["what"], ["folders", "MB"])
    for kind, each in room.items():
        table.add_row(f"{kind}s", f"{len(each):,}", f"{sum(leftover.bytes for leftover in each) / 1e6:,.1f}")
    table.add_row("of caches", "-", f"{cached / 1e6:,.1f}")
    console(False).print(table)
    if dry_run:
        print("Next: flywheel housekeeping")
    else:
        print(f"{freed / 1e6:,.1f} MB are free again, caches included.")
    return None
