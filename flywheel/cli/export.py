"""The verb that hands a model to other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.cli.common import Home, Json, open_workspace, print_json
from flywheel.errors import FlywheelError

if TYPE_CHECKING:
    from flywheel.pipeline.exporting import Export

app = typer.Typer()


@app.command()
def export(
    to: Annotated[str, typer.Option("--to", help="onnx, openvino, hub, mlflow, or the folder to copy it to.")] = "folder",
    model: Annotated[str | None, typer.Option("--model", help="Name of a model's folder (default: the champion).")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write (default: in the home's exports).")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Repository on the hub, or the model's name in MLflow.")] = None,
    home: Home = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Hand the champion to other programs: as a folder, as ONNX or OpenVINO, to a Hugging Face hub or to MLflow."""
    from flywheel.cli.console import bars, waiting
    from flywheel.pipeline import exporting

    workspace = open_workspace(home)
    chosen = exporting.model_to_export(workspace, model)
    if to in exporting.GRAPHS:
        with bars(as_json) as shown:
            made = exporting.export_graph(workspace, chosen, to, out, shown.report)
    elif to == "hub":
        with waiting("uploading", as_json):
            made = exporting.export_to_hub(chosen, name)
    elif to == "mlflow":
        with waiting("uploading", as_json):
            made = exporting.export_to_mlflow(workspace, chosen, name)
    else:
        if to != "folder" and out is not None:
            raise FlywheelError(f"--to {to} and --out {out} name two folders. Give one of them.")
        made = exporting.export_folder(workspace, chosen, out if to == "folder" else Path(to))
    if as_json:
        return print_json(made.to_json())
    _print_export(made)


def _print_export(made: "Export") -> None:
    """What was exported, what was measured, and how to load it."""
    from flywheel.cli.console import console, new_table
    from flywheel.pipeline.export_card import verdict
    from flywheel.pipeline.parity import instruction_set

    print(f"{made.variant} is at {made.place}. {made.loaders} Its threshold is {made.threshold:.4f}.")
    if made.reports:
        columns = "largest difference", "decisions that differ", "times torch", "texts/s"
        table = new_table(f"Beside torch on {made.reports[0].texts:,} texts, {instruction_set()}", ["engine"], columns)
        for each in made.reports:
            flips = f"{each.flips} of {each.pairs:,}"
            row = f"{each.largest_difference:.1e}", flips, f"{each.speed:.2f}", f"{each.texts_per_second:,.0f}"
            table.add_row(each.engine, *row)
        console(False).print(table)
        for each, kept in zip(made.reports[1:], made.kept[1:], strict=True):
            print(verdict(each, kept, made.reports[0]))
    print(f"Load it:\n\n{made.loading}")
