"""Deliveries: a file, or a folder of part files, from its path to the store."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.pairs.events import staging
from flywheel.pairs.events.events import KNOWN_FIELDS, field_names
from flywheel.pairs.events.forms import is_readable_name, suffixes
from flywheel.pairs.events.lines import Batch
from flywheel.pairs.events.readers import read_delivery
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.events.staging import OnLines
from flywheel.pairs.ingest import IngestReport, ingest_deliveries
from flywheel.pairs.options import FileOptions, PairOptions
from flywheel.pairs.store.duckdb_file import Store

Delivery = tuple[Path, str]  # a file, or a folder of part files, and what the store calls it


def ingest_files(
    store: Store, paths: Sequence[Path], options: PairOptions | None = None, names: Sequence[str] | None = None,
) -> list[IngestReport]:  # fmt: skip
    """Ingest deliveries, files or folders of part files, all of them looked for before the first is stored.

    `names` says what the store calls them, if not by their own names. Raises UnreadableFileError for the first that is refused.
    """
    deliveries = list(zip(paths, names or [path.name for path in paths], strict=True))
    for path, name in deliveries:
        files_of(path, name, options or PairOptions())
    reports: list[IngestReport] = []
    for _, outcome in ingest_each(store, deliveries, options or PairOptions()):
        if isinstance(outcome, UnreadableFileError):
            raise outcome
        reports += outcome
    return reports


def ingest_each(
    store: Store, deliveries: Sequence[Delivery], options: PairOptions, progress: OnLines | None = None
) -> Iterator[tuple[Delivery, list[IngestReport] | UnreadableFileError]]:
    """Ingest deliveries, and give each with one report a file, or with why it was refused, as soon as it is stored.

    Small ones are stored together. `options` say how files are read and what is redacted. `progress` hears after each chunk
    how many lines it had.
    """
    redactor = Redactor.of(options)
    group: list[tuple[Delivery, list[Batch]]] = []
    lines = 0

    def stored() -> Iterator[tuple[Delivery, list[IngestReport] | UnreadableFileError]]:
        outcomes = ingest_deliveries(store, [batches for _, batches in group], redactor, progress, options.max_refused)
        for (delivery, _), outcome in zip(group, outcomes, strict=True):
            yield delivery, _without_secrets(outcome, redactor)
        group.clear()

    for delivery in deliveries:
        try:
            batches = read_delivery(*files_of(*delivery, options), options)
        except UnreadableFileError as error:
            yield delivery, _without_secrets(error, redactor)
            continue
        group.append((delivery, batches))
        lines += sum(batch.total for batch in batches)
        if lines >= staging.CHUNK:
            yield from stored()
            lines = 0
    if group:
        yield from stored()


def _without_secrets(
    outcome: list[IngestReport] | UnreadableFileError, redactor: Redactor
) -> list[IngestReport] | UnreadableFileError:
    if isinstance(outcome, UnreadableFileError):
        return UnreadableFileError(redactor(str(outcome))).with_traceback(outcome.__traceback__)
    return outcome


def files_of(path: Path, name: str, options: PairOptions) -> tuple[list[Path], list[str]]:
    """The files of a delivery, a file or a folder called `name`, and what the store calls them.

    Raises UnreadableFileError when there are none, and FlywheelError for settings that name no field.
    """
    for each in (options, *options.files.values()):
        _check_fields(each)
    if not _is_there(path):
        raise UnreadableFileError(f"{path} is not a file. Nothing of it was ingested; give the path of a {suffixes()} file.")
    if not path.is_dir():
        return [path], [name]
    parts = _part_files(path, name)
    strange = [part.relative_to(path) for part in parts if not is_readable_name(part)]
    if strange or not parts:
        what = f"with {strange[0]}, which is" if strange else "and holds"
        raise UnreadableFileError(f"{name} is a folder {what} none of {suffixes()}. Nothing of it was stored.")
    return parts, [f"{name}/{part.relative_to(path)}" for part in parts]


def _part_files(folder: Path, name: str) -> list[Path]:
    """The part files that a folder called `name` delivers, also in partitions such as `day=2026-09-01`.

    What its writer keeps for itself begins with _ or a dot, and is left out.
    """
    try:
        seen = [path for path in sorted(folder.iterdir()) if not path.name.startswith(("_", "."))]
    except OSError as error:
        raise UnreadableFileError(f"{name} cannot be read ({error.strerror}). Nothing of it was stored.") from error
    partitions = [path for path in seen if path.is_dir() and "=" in path.name]
    return [
        *(path for path in seen if path.is_file()),
        *chain.from_iterable(_part_files(each, f"{name}/{each.name}") for each in partitions),
    ]


def _check_fields(options: FileOptions) -> None:
    """Raise FlywheelError for a setting that names a field or a type which no event has."""
    known = field_names()
    for setting, names in (("columns", options.columns.keys()), ("constants", options.constants.keys())):
        if strange := sorted(names - known):
            raise FlywheelError(
                f"Nothing was ingested: pairs.{setting} names {', '.join(strange)}, which no event has; it takes "
                f"{', '.join(sorted(known))}."
            )
    if "event_id" in options.constants:
        raise FlywheelError("Nothing was ingested: pairs.constants names event_id, and then all lines would be one event.")
    said = {*options.types.values(), *(str(v) for k, v in options.constants.items() if k == "type")}
    if strange := sorted(said - KNOWN_FIELDS.keys()):
        raise FlywheelError(
            f"Nothing was ingested: the settings below [pairs] name the type {', '.join(strange)}, and events are "
            f"{', '.join(KNOWN_FIELDS)}."
        )


def _is_there(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False
