"""What the assets do, as plain functions on the settings: each reads what the step before it left and returns a result.

Knows no Dagster: assets and the command line call the same functions.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from flywheel.compute.launch import compute_of
from flywheel.errors import FlywheelError
from flywheel.evaluation.comparison import Baseline
from flywheel.evaluation.evaluate import Subject, api_subject, evaluate, tuned_subject, untuned_subject
from flywheel.evaluation.leaderboard import Leaderboard, build_leaderboard
from flywheel.evaluation.records import Evaluation, Terms
from flywheel.models.api.ledger import Paid
from flywheel.models.api.vectors import api_vectors
from flywheel.models.catalogue import CATALOGUE, Variant
from flywheel.models.folder import served_difference
from flywheel.models.vectors import vectors_of
from flywheel.orchestration.tidying import forget_texts, remove_layers, texts_of_pairs
from flywheel.pairs.events.seeds import seed_batch
from flywheel.pairs.forget import Selection, finish, remove_deliveries
from flywheel.pairs.forget import forget as forget_pairs
from flywheel.pairs.inbox import take_inbox
from flywheel.pairs.ingest import IngestReport, ingest, ingest_files, unaccounted
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.snapshots.folder import latest_snapshot, remove_snapshot, snapshots_with
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot, unique_texts
from flywheel.pairs.store.contradictions import Contradictions, find_contradictions
from flywheel.pairs.store.ducklake import open_store
from flywheel.pairs.store.labels import PairCounts, count_pairs
from flywheel.pairs.store.new_pairs import record_training
from flywheel.pairs.store.overview import Overview, overview
from flywheel.pipeline.api_heads import evaluate_head_on_api
from flywheel.registry.champions import Entry, Registry
from flywheel.registry.decisions import Rules, choose_challenger
from flywheel.settings import Settings
from flywheel.training.job import GRID_DIMENSIONS, TrainingJob, check_recipe, check_size, head_recipe, tuning_recipe
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener, Progress, ignore_progress
from flywheel.training.starts import DIRECTION_PAIRS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestSummary:
    """What became of some files' lines: accepted + duplicates + quarantined = lines; conflicts and embargoed are accepted."""

    lines: int
    accepted: int
    duplicates: int
    quarantined: int
    conflicts: int
    embargoed: int
    redacted: int
    files: tuple[IngestReport, ...]
    rejected: tuple[str, ...] = ()


def ingest_seed(settings: Settings) -> IngestReport | None:
    """Ingest the seed pairs the settings ask for; a second time changes nothing."""
    batch = seed_batch(settings)
    return ingest(open_store(settings), batch) if batch else None


def ingest_paths(settings: Settings, paths: list[Path], progress: Callable[[int], None] | None = None) -> IngestSummary:
    """Ingest files of events where they lie."""
    return _summary(ingest_files(open_store(settings), paths, settings, progress=progress), ())


def ingest_inbox(settings: Settings) -> IngestSummary:
    """Ingest the inbox's finished files (see `take_inbox`)."""
    return _summary(*take_inbox(open_store(settings), settings))


def _summary(reports: list[IngestReport], rejected: tuple[str, ...]) -> IngestSummary:
    counted = ("lines", "accepted", "duplicates", "quarantined", "conflicts", "embargoed", "redacted")
    totals = {name: sum(getattr(report, name) for report in reports) for name in counted}
    return IngestSummary(**totals, files=tuple(reports), rejected=rejected)


def unaccounted_lines(settings: Settings, summary: IngestSummary) -> list[str]:
    """What of an ingest does not add up, as sentences; none if all is well."""
    return unaccounted(open_store(settings), [report.batch_id for report in summary.files])


def store_overview(settings: Settings) -> Overview:
    """What the store holds, for people."""
    return overview(open_store(settings))


def contradictions(settings: Settings) -> Contradictions:
    """The contradictory triangles among the pairs."""
    return find_contradictions(open_store(settings))


def count(settings: Settings) -> PairCounts:
    """What the pairs in the store add up to."""
    return count_pairs(open_store(settings))


def snapshot(settings: Settings, new_test: bool = False) -> Snapshot:
    """Export the pairs as they stand; equal data gives the same snapshot. `new_test` draws new frozen splits first."""
    return take_snapshot(open_store(settings), settings, new_test)


@dataclass(frozen=True)
class ForgetReport:
    """What `forget` took away, and which models know it still: those trained or calibrated on it, and those of which nobody
    can tell, because the snapshot they were trained on is gone.
    """

    observations: int
    pairs: int
    quarantined: int
    models: tuple[str, ...]
    unknown: tuple[str, ...]
    champion: bool
    snapshots: tuple[str, ...]
    deliveries: tuple[str, ...]


def forget(settings: Settings, selection: Selection) -> ForgetReport:
    """Make what a selection holds go away for good: from the store, the snapshots and the deliveries kept in the inbox."""
    store = open_store(settings)
    gone = forget_pairs(store, selection)
    held = snapshots_with(settings, gone.pair_ids)
    models, unknown = models_trained_on(settings, held, gone.pair_ids)
    forget_texts(settings, texts_of_pairs(held, gone.pair_ids))
    remove_layers(settings, set(held))
    for snapshot_id in held:
        remove_snapshot(settings, snapshot_id)
    deliveries = remove_deliveries(settings.inbox, gone.batch_ids)
    finish(store)
    return ForgetReport(
        observations=gone.observations,
        pairs=len(gone.pair_ids),
        quarantined=gone.quarantined,
        models=tuple(models),
        unknown=tuple(unknown),
        champion=champion_id(settings) in models,
        snapshots=tuple(held),
        deliveries=tuple(deliveries),
    )


def models_trained_on(
    settings: Settings, snapshots: dict[str, Snapshot], pair_ids: frozenset[str]
) -> tuple[list[str], list[str]]:
    """The model folders that hold something of one of these pairs, and those of which nobody can tell: their snapshot is gone,
    or they cannot be read.
    """
    found, unknown = [], []
    for folder in sorted(path.parent for path in settings.models.glob("*/flywheel.json")):
        try:
            job = TrainedModel.load(folder).job
        except FlywheelError:
            unknown.append(folder.name)
            continue
        on = snapshots.get(job.snapshot_id)
        if on is not None:
            used = [
                on.training_pairs(job.size, job.random_seed, job.interaction_share),
                on.pairs("train").head(DIRECTION_PAIRS),
                on.pairs("calibration"),
            ]
            if any(not pair_ids.isdisjoint(frame["pair_id"]) for frame in used):
                found.append(folder.name)
        elif not (settings.snapshots / job.snapshot_id).exists():
            unknown.append(folder.name)
    return found, unknown


def current_snapshot(settings: Settings) -> Snapshot:
    """The snapshot taken last. Raises FlywheelError when there is none."""
    found = latest_snapshot(settings)
    if found is None:
        raise FlywheelError("There is no snapshot yet; run `flywheel snapshot`, or materialise the asset `snapshot`.")
    return found


def training_job(settings: Settings, snapshot: Snapshot, variant: Variant, size: str, recipe: str) -> TrainingJob:
    """The spec of a cell on a snapshot. Raises FlywheelError for an unknown recipe, a wrong size, or missing weights."""
    return TrainingJob(
        variant=str(variant),
        size=check_size(size),
        recipe=check_recipe(recipe),
        random_seed=settings.random_seed,
        interaction_share=settings.interaction_share,
        snapshot_id=snapshot.snapshot_id,
        weights=vectors_of(variant.model, settings).weights_id,
        head=head_recipe(settings.recipes.get("head", {})),
        tuning=tuning_recipe(check_recipe(recipe), settings.recipes.get(recipe, {})),  # type: ignore[call-overload]
        dims=() if recipe == "head" else tuple(sorted({*GRID_DIMENSIONS[variant.base], variant.dim})),
    )


def train_cell(settings: Settings, variant: Variant, size: str, recipe: str, listener: Listener) -> TrainedModel:
    """Train a cell on the current snapshot, or find it finished."""
    on = current_snapshot(settings)
    job = training_job(settings, on, variant, size, recipe)
    watcher = _WATCHER.get()

    def hear(event: Progress) -> None:
        listener(event)
        watcher(event)

    model = compute_of(settings)(job, settings, hear)
    if job.size == ALL and variant == retrain_variant(settings) and recipe == retrain_recipe(settings):
        record_training(open_store(settings), on.snapshot_id)
    return model


def served_vectors_difference(settings: Settings, model: TrainedModel) -> float:
    """Largest difference between the vectors the saved folder gives and the ones evaluation uses, on a few questions."""
    texts = unique_texts(current_snapshot(settings).pairs("calibration"))[:32]
    subject = tuned_subject(model, vectors_of(Variant.parse(model.job.variant).model, settings))
    return served_difference(model.folder, texts, subject.embed(texts))


def evaluate_cell(settings: Settings, variant: Variant, size: str, recipe: str) -> Evaluation:
    """Evaluate a trained cell, and the untuned model beside it. Raises FlywheelError when the cell is not trained."""
    on = current_snapshot(settings)
    job = training_job(settings, on, variant, size, recipe)
    vectors = vectors_of(variant.model, settings)
    model = TrainedModel.load(settings.models / job.job_id)
    _evaluate(settings, untuned_subject(variant, on, vectors), on)
    return _evaluate(settings, tuned_subject(model, vectors), on)


def measure_baseline(settings: Settings) -> Baseline:
    """Evaluate the API where its vectors are cached or a key is set, else the local baseline (setting `baseline`)."""
    on = current_snapshot(settings)
    api = api_vectors(settings)
    texts = unique_texts(on.pairs("calibration"), on.pairs("test"))
    use_api = settings.baseline == "openai" or (
        settings.baseline == "auto" and (settings.openai_api_key is not None or not api.missing(texts))
    )
    if use_api:
        paid = api.fill(texts)
        return Baseline(_evaluate(settings, api_subject(api), on), True, None, paid)
    variant = Variant.parse(settings.baseline_local)
    subject = untuned_subject(variant, on, vectors_of(variant.model, settings), kind="baseline")
    advice = (
        f"The baseline is the untuned {variant}, not {settings.baseline_model}. "
        "Set OPENAI_API_KEY and run `flywheel baseline embed`, or materialise `baseline_scores`, to measure the API."
    )
    return Baseline(_evaluate(settings, subject, on), False, advice, Paid())


def _evaluate(settings: Settings, subject: Subject, on: Snapshot) -> Evaluation:
    return evaluate(subject, on, settings.evaluations, terms_of(settings))[0]


def terms_of(settings: Settings) -> Terms:
    """On which terms models are evaluated."""
    return Terms(settings.min_components, settings.target_prior)


def evaluate_opponents(settings: Settings) -> None:
    """Train and evaluate a head on the API's vectors at each size of the board's cells whose pairs have theirs cached.

    At the smallest dimension of the board. What goes wrong with one is logged and takes nothing else along.
    """
    board = leaderboard(settings)
    if settings.baseline == "local" or not board.tuned:
        return
    variant = min((Variant.parse(row.variant) for row in board.tuned), key=lambda variant: variant.dim)
    for size, random_seed in dict.fromkeys((row.size, row.random_seed) for row in board.tuned):
        assert size is not None
        drawn = settings.model_copy(update={"random_seed": random_seed})
        try:
            job = training_job(drawn, board.snapshot, variant, size, "head")
            evaluate_head_on_api(
                api_vectors(settings), job, board.snapshot, settings.evaluations, terms_of(settings), _WATCHER.get()
            )
        except FlywheelError as error:
            log.warning("No head on the vectors of %s at size %s: %s", settings.baseline_model, size, error)


def retrain_variant(settings: Settings) -> Variant:
    """What a retraining run trains: the champion's variant, or the setting `retrain_variant` while there is none."""
    present = registry(settings).current()
    return Variant.parse(present.champion.variant if present and present.champion else settings.retrain_variant)


def retrain_recipe(settings: Settings) -> str:
    """By which recipe a retraining run trains: the champion's, or head while there is none."""
    present = registry(settings).current()
    return present.champion.recipe if present and present.champion else "head"


def rollback(settings: Settings, to: int | None) -> Entry:
    """Restore an earlier champion whose model folder is there (see `Registry.rollback`)."""
    target = registry(settings).rollback_target(to)
    assert target.champion is not None
    TrainedModel.load(settings.models / target.champion.model)
    return registry(settings).rollback(target.number)


def leaderboard(settings: Settings) -> Leaderboard:
    """The leaderboard of the current snapshot."""
    on = current_snapshot(settings)
    return build_leaderboard(on, settings.evaluations, terms_of(settings), champion_id(settings))


def champion_id(settings: Settings) -> str | None:
    """The champion's model folder name, or None."""
    present = registry(settings).current()
    return present.champion.model if present and present.champion else None


def registry(settings: Settings) -> Registry:
    """The home's champions."""
    return Registry(settings.registry)


def decide_champion(settings: Settings) -> tuple[Entry, bool]:
    """Judge the next challenger, if there is one; returns the history's entry and whether it is new.

    Raises FlywheelError when there is nothing to judge.
    """
    match = next_match(settings, lambda: measure_baseline(settings).evaluation)
    if match is None:
        present = registry(settings).current()
        assert present is not None
        return present, False
    rules = Rules(settings.max_broken_share, settings.max_retrieval_loss)
    return registry(settings).decide(*match, settings.evaluations, rules)


def next_match(settings: Settings, baseline: Callable[[], Evaluation]) -> tuple[Evaluation, Evaluation] | None:
    """The candidate with the lowest calibration error, and the champion, or the baseline while there is none.

    None where the champion itself is that candidate. Raises FlywheelError when there is no candidate.
    """
    board, champion = leaderboard(settings), evaluate_champion(settings)
    candidates = [row for row in board.tuned if (settings.models / row.record_id / "flywheel.json").exists()]
    if champion is None:
        return choose_challenger(candidates), baseline()
    challenger = choose_challenger([*candidates, champion])
    return None if challenger.record_id == champion.record_id else (challenger, champion)


def evaluate_champion(settings: Settings) -> Evaluation | None:
    """The champion on the current snapshot's test pairs; None while there is none, or when its folder cannot be read."""
    if (name := champion_id(settings)) is None:
        return None
    try:
        champion = TrainedModel.load(settings.models / name)
    except FlywheelError as error:
        log.warning("The champion cannot be read, so that the next one is judged against the baseline: %s", error)
        return None
    vectors = vectors_of(Variant.parse(champion.job.variant).model, settings)
    return _evaluate(settings, tuned_subject(champion, vectors), current_snapshot(settings))


def texts_of_cells(settings: Settings, sizes: Sequence[str]) -> list[str]:
    """Every text that cells of these sizes and their evaluation need, whatever their variant."""
    on = current_snapshot(settings)
    # Sizes nest, so that the largest holds the others; only `all` has pairs of another kind.
    largest = {max((size for size in sizes if size != ALL), key=int, default=ALL), *({ALL} & set(sizes))}
    frames = [on.training_pairs(size, settings.random_seed, settings.interaction_share) for size in sorted(largest)]
    return unique_texts(*frames, on.pairs("train").head(DIRECTION_PAIRS), on.pairs("calibration"), on.pairs("test"))


_WATCHER: ContextVar[Listener] = ContextVar("watcher", default=ignore_progress)


@contextmanager
def watched(listener: Listener) -> Iterator[None]:
    """Let `listener` hear, too, how far trainings of this thread are."""
    token = _WATCHER.set(listener)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def encode_ahead(
    settings: Settings, variants: Sequence[Variant], sizes: Sequence[str], progress: Callable[[int, int], None]
) -> tuple[int, dict[str, str]]:
    """Encode all that the cells of `variants` x `sizes` and their evaluation will need.

    Returns how many texts were new, and for each base model that cannot be loaded why.
    """
    texts = texts_of_cells(settings, sizes)
    encoded, failures = 0, {}
    for base in dict.fromkeys(variant.base for variant in variants):
        try:
            vectors = vectors_of(CATALOGUE[base], settings)
            encoded += vectors.missing(texts)
            vectors.features(texts, progress)
        except FlywheelError as error:
            failures[base] = str(error)
    return encoded, failures
