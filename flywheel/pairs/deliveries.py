"""Deliveries: a file, or a folder of part files, from its path to the store."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.pairs.events.events import KNOWN_FIELDS, field_names
from flywheel.pairs.events.forms import is_readable_name, suffixes
from flywheel.pairs.events.readers import read_delivery
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.events.staging import OnLines
from flywheel.pairs.ingest import IngestReport, ingest_together
from flywheel.pairs.options import FileOptions, PairOptions
from flywheel.pairs.store.duckdb_file import Store


def ingest_files(
    store: Store, paths: Sequence[Path], options: PairOptions | None = None, names: Sequence[str] | None = None,
    progress: OnLines | None = None,
) -> list[IngestReport]:  # fmt: skip
    """Ingest deliveries, files or folders of part files, all of them looked for before the first is stored.

    `names` says what the store calls them, if not by their own names.
    """
    names = names or [path.name for path in paths]
    for path, name in zip(paths, names, strict=True):
        files_of(path, name, options or PairOptions())
    found = (ingest_delivery(store, path, name, options, progress) for path, name in zip(paths, names, strict=True))
    return list(chain.from_iterable(found))


def ingest_delivery(
    store: Store, path: Path, name: str, options: PairOptions | None = None, progress: OnLines | None = None
) -> list[IngestReport]:
    """Ingest one file, or a folder of part files, which the store calls `name`; one report a file.

    `options` say how files are read and what is redacted. Raises UnreadableFileError when a file cannot be read.
    """
    options = options or PairOptions()
    try:
        batches = read_delivery(*files_of(path, name, options), options)
        return ingest_together(store, batches, Redactor.of(options), progress, options.max_refused)
    except UnreadableFileError as error:
        raise UnreadableFileError(Redactor.of(options)(str(error))) from error


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
    parts = _part_files(path)
    strange = [part.relative_to(path) for part in parts if not is_readable_name(part)]
    if strange or not parts:
        what = f"with {strange[0]}, which is" if strange else "and holds"
        raise UnreadableFileError(f"{path} is a folder {what} none of {suffixes()}. Nothing of it was stored.")
    return parts, [f"{name}/{part.relative_to(path)}" for part in parts]


def _part_files(folder: Path) -> list[Path]:
    """The part files that a folder delivers, also in partitions such as `day=2026-09-01`.

    What its writer keeps for itself begins with _ or a dot, and is left out.
    """
    try:
        seen = [path for path in sorted(folder.iterdir()) if not path.name.startswith(("_", "."))]
    except OSError as error:
        raise UnreadableFileError(f"{folder} cannot be read ({error.strerror}). Nothing of it was stored.") from error
    partitions = [path for path in seen if path.is_dir() and "=" in path.name]
    return [*(path for path in seen if path.is_file()), *chain.from_iterable(map(_part_files, partitions))]


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
