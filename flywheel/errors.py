"""The one exception family that reaches people: its message is what happened and what to do, in a sentence or two."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FlywheelError(Exception):
    """A failure explained to the person who reads it; the command line prints it and exits with 1."""


class NoVerdictError(FlywheelError):
    """Two models cannot be compared on these pairs, whatever their figures."""


class UnreadableFileError(FlywheelError):
    """A file of interactions that cannot be read at all; its neighbours can."""


class TryAgainError(FlywheelError):
    """A failure that time alone may lift: the same again may succeed."""


class StoreBusyError(TryAgainError):
    """The database stayed locked by another process for longer than the bounded wait."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """What a library's error says, on one line of at most `limit` characters and without a full stop."""
    return " ".join(str(error).split())[:limit].rstrip(". ")


def validation_fault(error: Exception) -> str:
    """What is wrong with a file, in a line: of what pydantic found the first, with the field's place in the file."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}".removeprefix(": ")


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turn a package that is not installed into a `FlywheelError` that says which extra of flywheel has it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise FlywheelError(
            f"{purpose} needs the package {package}. Install it with pip install 'flywheel[{extra}]', or in a clone with "
            f"pip install -c constraints.txt -e '.[{extra}]'."
        ) from error


def disk_is_full(path: Path) -> bool:
    """Whether less than a mebibyte is left where `path` lies, so that any failed write there has this cause."""
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(place).free < 2**20


@contextmanager
def explain_disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or read-only disk under `where` into a `FlywheelError` that says what to do."""
    try:
        yield
    except FlywheelError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FlywheelError(
                f"The disk that holds {where} is full: nothing was saved. Free some space and run the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
            raise FlywheelError(
                f"{error.filename or where} cannot be written ({error.strerror}). "
                "Choose another home with --home or FLYWHEEL_HOME, or change the permissions."
            ) from error
        raise
    except Exception as error:  # libraries that write files in other languages raise errors of their own
        if disk_is_full(where):
            raise FlywheelError(
                f"The disk that holds {where} is full: nothing was saved. Free some space and run the same command again."
            ) from error
        raise
