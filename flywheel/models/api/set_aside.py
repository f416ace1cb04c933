"""Texts that an embedding API could not embed: set aside with its reason, so that they are not asked for every time."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from flywheel.errors import FlywheelError
from flywheel.models.shards import KEY

_FILE = "set_aside.jsonl"


@dataclass(frozen=True)
class SetAside:
    """The texts that were set aside, in a file beside the vectors: hashes and reasons, no text."""

    folder: Path

    def reasons(self, texts: Sequence[str]) -> dict[str, str]:
        """Those of `texts` that are set aside, each with the endpoint's reason. Raises FlywheelError as reading does."""
        known = self.entries()
        return {text: known[key] for text in texts if (key := _key(text)) in known} if known else {}

    def add(self, text: str, reason: str) -> None:
        """Set a text aside. Raises OSError."""
        self.add_entries({_key(text): reason})

    def add_entries(self, reasons: Mapping[str, str]) -> None:
        """Set texts aside by their hashes, each with a reason. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        entries = [{"time": time, "text_hash": key, "reason": reason} for key, reason in reasons.items()]
        with self._file.open("ab") as file:
            file.write(
                b"".join(b"\n" + json.dumps(entry).encode() + b"\n" for entry in entries)
            )  # on a line of its own, whatever a killed writer left
            file.flush()
            os.fsync(file.fileno())

    def drop(self, texts: Iterable[str]) -> None:
        """Forget that these texts were set aside."""
        if not self.entries():
            return
        keys = {_key(text) for text in texts}
        with FileLock(self.folder / "lock"):
            aside = self._file.with_name(f"{_FILE}-{uuid4().hex}")
            kept = [line for line in self._file.read_bytes().splitlines() if (e := _entry(line)) and e["text_hash"] not in keys]
            aside.write_bytes(b"".join(line + b"\n" for line in kept))
            aside.replace(self._file)

    def clear(self) -> None:
        """Forget all that were set aside."""
        self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self.folder / _FILE

    def entries(self) -> dict[str, str]:
        """The hash of each text and its reason. Raises FlywheelError when the file cannot be read."""
        try:
            lines = self._file.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise FlywheelError(
                f"{self._file} cannot be read ({error.strerror}), so which texts were set aside is not known. Move it away or "
                "fix its permissions."
            ) from error
        return {entry["text_hash"]: entry["reason"] for entry in map(_entry, lines) if entry}


def _key(text: str) -> str:
    return blake2b(text.encode(), digest_size=KEY.itemsize).hexdigest()


def _entry(line: bytes) -> dict[str, str] | None:
    """What a line says; None for one that is empty or torn."""
    try:
        entry = json.loads(line)
        return {name: str(entry[name]) for name in ("text_hash", "reason")}
    except (ValueError, KeyError, TypeError):
        return None
