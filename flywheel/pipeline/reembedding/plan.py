"""What is to be embedded: the corpus read once, its generation planned or found again, and the parts that are missing."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.models.embedder import Numbers, folder_fingerprint
from flywheel.pairs.corpus.source import Corpus, open_corpus
from flywheel.pairs.corpus.survey import OnRows, survey
from flywheel.pipeline.exporting import model_to_export
from flywheel.pipeline.reembedding.generation import Generation, Part, Plan
from flywheel.pipeline.workspace import Workspace

_LEAST_ROWS, _USUAL_ROWS, _MOST_ROWS = 256, 8192, 131_072
_PARTS_A_WORKER, _MANY_PARTS = 8, 10_000


@dataclass(frozen=True)
class Request:
    """What is to be embedded, by which model (None: the champion), where to; columns and table that are None are guessed."""

    corpus: Path
    output: Path
    model: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    table: str | None = None
    numbers: Numbers = "float32"


@dataclass(frozen=True)
class Work:
    """A plan with all that it takes: the model's `folder`, the corpus, and the parts that are not there yet."""

    folder: Path
    corpus: Corpus
    generation: Generation
    todo: tuple[Part, ...]
    sample: tuple[str, ...]
    device: str
    stamp: tuple[tuple[int, int], ...]

    @property
    def plan(self) -> Plan:
        """Of the generation."""
        return self.generation.plan

    @cached_property
    def rows(self) -> int:
        """Rows that are to be embedded."""
        return sum(part.rows for part in self.todo)


def plan_work(workspace: Workspace, request: Request, workers: int, on_rows: OnRows | None = None) -> Work:
    """Read the corpus once and plan its generation, or find the one that an earlier run has begun; writes nothing to it.

    Raises FlywheelError when there is no model, as `open_corpus` and `survey` do, and when the output folder holds a
    generation of this model that is of another corpus, of other weights or in other numbers.
    """
    model = model_to_export(workspace, request.model)
    corpus = open_corpus(request.corpus, request.id_column, request.text_column, request.table)
    output = request.output.expanduser().absolute()
    if corpus.path == output or output in corpus.path.parents or corpus.path in output.parents:
        raise FlywheelError(
            f"The output folder {output} and the corpus {corpus.path} lie in each other. Choose another folder."
        )
    folder = output / model.name
    begun = Generation.read(folder)
    stamp = corpus.stamp()
    found = survey(corpus, workspace.home.spill, workspace.settings.storage.memory_limit, on_rows)
    plan = Plan(
        model=model.name, variant=str(model.job.variant), model_fingerprint=folder_fingerprint(model.folder),
        numbers=request.numbers, dim=Variant.parse(model.job.variant).dim, corpus=str(corpus.path), table=corpus.table,
        id_column=corpus.id_column, text_column=corpus.text_column, ids="int64" if found.ids_are_numbers else "string",
        corpus_fingerprint=found.fingerprint, pieces=corpus.pieces, rows=found.rows, texts=found.texts, empty=found.empty,
        empty_places=found.empty_places, part_rows=begun.plan.part_rows if begun else part_rows(sum(found.rows), workers),
    )  # fmt: skip
    if begun is not None:
        _refuse_another(begun, plan)
    generation = begun or Generation(folder, plan)
    missing = tuple(generation.missing())
    return Work(model.folder, corpus, generation, missing, found.sample, workspace.settings.encoding.device, stamp)


def part_rows(rows: int, workers: int) -> int:
    """How many rows a part has: few enough that every worker has several parts and a kill costs little, but up to 131,072 where
    there would be more than 10,000 parts.
    """
    most = max(_USUAL_ROWS, min(_MOST_ROWS, rows // _MANY_PARTS))
    return max(_LEAST_ROWS, min(most, rows // (_PARTS_A_WORKER * workers)))


def _refuse_another(begun: Generation, plan: Plan) -> None:
    before, remedy = begun.plan, f"Choose another output folder, or remove {begun.folder}, then run the same command again."
    if before.model_fingerprint != plan.model_fingerprint:
        raise FlywheelError(f"{begun.folder} holds vectors of another model of this name: its files have changed. {remedy}")
    if before.numbers != plan.numbers:
        raise FlywheelError(
            f"{begun.folder} holds vectors computed in {before.numbers}, not in {plan.numbers}. Give --numbers "
            f"{before.numbers}, or choose another output folder."
        )
    if before.corpus_fingerprint != plan.corpus_fingerprint:
        raise FlywheelError(
            f"{begun.folder} holds vectors of {before.texts:,} texts of {before.corpus}, and {plan.corpus} has other ones "
            f"({plan.texts:,}): it has changed since, or is another corpus. {remedy}"
        )
    if before.rows != plan.rows:
        raise FlywheelError(f"The rows of {plan.corpus} lie in other files than when {begun.folder} was begun. {remedy}")
