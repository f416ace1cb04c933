"""The verb that embeds a corpus by a model, and switches between generations of its vectors."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flywheel.cli.common import Home, Json, open_workspace, print_json

if TYPE_CHECKING:
    from flywheel.pipeline.reembedding.generation import Generation
    from flywheel.pipeline.reembedding.plan import Request
    from flywheel.pipeline.reembedding.run import Estimate, Reembedding

app = typer.Typer()


_CORPUS = "Parquet or JSON-lines file, folder of them, or DuckDB file; with --cutover the output folder."
_OUTPUT = "Folder for the vectors, in a folder named as the model; with --cutover the model's name."
_NUMBERS = "What the encoder computes in; vectors are stored in float32."
_RAY = "HOST:PORT of a Ray cluster, or local for this machine's cores (default: without Ray)."
_ACTORS = "Actors on Ray (default: one a GPU, or a core where there is none)."
_CUTOVER = "Make OUTPUT/current lead to a model's vectors: flywheel reembed --cutover OUTPUT MODEL."


@app.command()
def reembed(
    corpus: Annotated[str, typer.Argument(help=_CORPUS)],
    output: Annotated[str, typer.Argument(help=_OUTPUT)],
    model: Annotated[str | None, typer.Option("--model", help="Name of a model's folder (default: the champion).")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Column of the texts (default: guessed from its name).")] = None,
    id_column: Annotated[str | None, typer.Option("--id", help="Column of the ids (default: guessed from its name).")] = None,
    table: Annotated[str | None, typer.Option("--table", help="Table of a DuckDB file (default: its only one).")] = None,
    numbers: Annotated[Literal["float32", "bfloat16"], typer.Option("--numbers", help=_NUMBERS)] = "float32",
    ray: Annotated[str | None, typer.Option("--ray", help=_RAY)] = None,
    actors: Annotated[int | None, typer.Option("--actors", min=1, help=_ACTORS)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; write nothing.")] = False,
    cutover: Annotated[bool, typer.Option("--cutover", help=_CUTOVER)] = False,
    home: Home = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Embed a corpus by the champion into files beside those of other models, and switch an index over to them."""
    if cutover:
        _cut_over(Path(corpus).expanduser(), output, as_json)
    else:
        from flywheel.pipeline.reembedding.plan import Request

        _reembed(
            Request(Path(corpus), Path(output), model, text, id_column, table, numbers), home, ray, actors, dry_run, as_json
        )


def _reembed(request: "Request", home: Path | None, ray: str | None, actors: int | None, dry_run: bool, as_json: bool) -> None:
    from flywheel.cli.console import bars, console, counter, waiting
    from flywheel.errors import FlywheelError
    from flywheel.pipeline.reembedding.engines import Here
    from flywheel.pipeline.reembedding.on_ray import OnRay, ray_cluster
    from flywheel.pipeline.reembedding.plan import plan_work
    from flywheel.pipeline.reembedding.run import reembed as embed_all

    if actors is not None and ray is None:
        raise FlywheelError("--actors is for Ray. Give --ray local or --ray HOST:PORT too.")
    workspace, out = open_workspace(home), console(as_json)
    with ray_cluster(ray, actors) if ray else nullcontext() as cluster:
        with counter("rows of the corpus read", as_json) as count:
            work = plan_work(workspace, request, cluster.actors if cluster else 1, count)
        engine: Any = None
        if work.todo:
            with waiting("loading the model", as_json):
                engine = OnRay(cluster, work) if cluster else Here(work)
        if work.plan.empty:
            out.print(
                f"{work.plan.empty:,} rows have no text and get no vector: {_listed(work.plan.empty, work.plan.empty_places)}"
            )
        with bars(as_json) as shown:
            done = embed_all(
                workspace, work, engine, dry_run,
                lambda estimate: shown.console.print(_estimate_text(estimate, engine.machines)),
                lambda done, of: shown.report("embedding", done, of),
            )  # fmt: skip
    if as_json:
        return print_json(done.to_json())
    _print_done(request, done)


def _listed(count: int, places: tuple[str, ...]) -> str:
    return ", ".join(places) + (" and others" if count > len(places) else "")


def _estimate_text(estimate: "Estimate", machines: int) -> str:
    from flywheel.evidence.words import duration, money

    workers = f", {estimate.workers} actors" if estimate.workers > 1 else ""
    cost = "set compute.price_per_hour to see dollars" if estimate.dollars is None else f"about {money(estimate.dollars)}"
    hours = f" ({machines} machines)" if machines > 1 and estimate.dollars is not None else ""
    return (
        f"{estimate.rows:,} rows to embed at {estimate.rate:,.0f} a second (measured on {estimate.sample} texts{workers}): "
        f"about {duration(estimate.seconds)}, {cost}{hours}, {_size(estimate.bytes)} on disk"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _print_done(request: "Request", done: "Reembedding") -> None:
    from flywheel.evidence.words import duration

    plan, folder = done.generation.plan, done.generation.folder
    if done.dry_run:
        missing = sum(plan.rows) - done.kept
        print(
            f"Nothing was written. {missing:,} of {sum(plan.rows):,} rows of {plan.corpus} would be embedded by {plan.model}."
        )
        return
    earlier = f", {done.kept:,} of them by earlier runs" if done.kept else f" in {duration(done.seconds)}"
    print(f"{plan.texts:,} texts have vectors of {plan.dim} numbers by {plan.model} in {folder}{earlier}.")
    print(f"Next: flywheel reembed --cutover {request.output} {plan.model}")


def _cut_over(output: Path, model: str, as_json: bool) -> None:
    from flywheel.pipeline.reembedding.generation import CURRENT, cut_over

    chosen, before = cut_over(output, model)
    if as_json:
        return print_json({"current": str(output / CURRENT), **_of(chosen), "before": _of(before) if before else None})
    print(f"{output / CURRENT} leads to {model}: {chosen.plan.texts:,} texts, {chosen.plan.dim} numbers each.")
    if before is not None and before.plan.model != model:
        same = "the same corpus" if before.plan.corpus_fingerprint == chosen.plan.corpus_fingerprint else "another state of it"
        print(f"Before it was {before.plan.model}, {before.plan.texts:,} texts of {same}.")
        print(f"Back again: flywheel reembed --cutover {output} {before.plan.model}")
    return None


def _of(generation: "Generation") -> dict[str, Any]:
    plan = generation.plan
    return {"model": plan.model, "texts": plan.texts, "dim": plan.dim, "corpus_fingerprint": plan.corpus_fingerprint}
