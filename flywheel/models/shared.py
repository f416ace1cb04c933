"""Shards of cached vectors that several machines have: each goes to the root once, and comes from there once.

A shard is never changed and its name is its own, so nothing is compared: what is there by a name that is not known here is
fetched, what is here and was not sent is sent. A list in the folder keeps both apart, so that shards that were joined here
are neither fetched nor sent again. A shard that is deleted at the root leaves a file with the keys that went for good; every
machine deletes them once. A shard that is lost without one is sent again. All of it needs the folder's lock.
"""

import json
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from flywheel import storage
from flywheel.files import write_json
from flywheel.models.shards import KEY, KEYS, LENGTHS, VECTORS, Keep, remove_shard, shard_names, thin_out

SENT = "root.json"  # the list
_GONE = ".gone"
_KEYS_LAST = (VECTORS, LENGTHS, KEYS)  # where the keys are, the others are too


@dataclass(frozen=True)
class _Known:
    """`seen`: shards of the root whose vectors are here. `sent`: shards here whose vectors are all at the root. `gone`: shards
    that were deleted at the root, and what went with them here too.
    """

    seen: set[str]
    sent: set[str]
    gone: set[str]


class SharedShards:
    """Keeps the shards in `folder` in step with those at `uri`."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.uri = uri

    def pull(self) -> None:
        """Fetch the shards that are new at the root, and delete what went there for good."""
        (there, gone), known = self._there(), self._known()
        self._follow(gone - known.gone, known)
        there -= gone  # a deletion may have been cut off
        if lost := known.seen - there - gone:
            known.seen.difference_update(lost)
            known.sent.clear()
        for name in sorted(there - known.seen):
            if _fetch(self.uri, name, self.folder):
                known.seen.add(name)
                known.sent.add(name)
        self._note(known)

    def push(self) -> None:
        """Send the shards that were made here."""
        known = self._known()
        for name in sorted(set(shard_names(self.folder)) - known.sent):
            self._send(self.folder, name)
            known.seen.add(name)
            known.sent.add(name)
            self._note(known)

    def note_joined(self, names: list[str], joined: str) -> None:
        """Remember that a shard here holds what several held, so that it is not sent where they were."""
        known = self._known()
        if known.sent.issuperset(names):
            known.sent.add(joined)
            self._note(known)

    def thin_out(self, keep: Keep) -> None:
        """Replace each shard at the root by one with those texts that `keep` says, by their keys.

        A kill leaves a shard that the same again replaces.
        """
        (there, _), known = self._there(), self._known()
        for name in sorted(there):
            keys = self._keys(name)
            kept = keep(keys)
            if kept.all():
                continue
            with tempfile.TemporaryDirectory() as folder:
                if not _fetch(self.uri, name, Path(folder)):
                    continue
                left, _ = thin_out(Path(folder), name, keep)
                if left is not None:
                    self._send(Path(folder), left)
            storage.write(f"{self.uri}/{name}{_GONE}", keys[~kept].tobytes())
            for suffix in _KEYS_LAST[::-1]:
                storage.delete_file(f"{self.uri}/{name}{suffix}")
            known.gone.add(name)
            if name in known.seen and left is not None:
                known.seen.add(left)
            known.seen.discard(name)
            self._note(known)

    def thin_out_here(self, keep: Keep) -> int:
        """The same for the shards here; returns how many texts went."""
        known = self._known()
        removed = self._thin_out(keep, known)
        self._note(known)
        return removed

    def _thin_out(self, keep: Keep, known: _Known) -> int:
        removed = 0
        for name in shard_names(self.folder):
            left, went = thin_out(self.folder, name, keep)
            removed += went
            if left is not None and name in known.sent:
                known.sent.add(left)
        return removed

    def _follow(self, gone: set[str], known: _Known) -> None:
        """Delete here, once, what went at the root with these shards."""
        contents = [storage.read(f"{self.uri}/{name}{_GONE}") or b"" for name in sorted(gone)]
        if went := b"".join(contents):
            keys = np.unique(np.frombuffer(went, KEY))
            self._thin_out(lambda some: ~np.isin(some, keys), known)
        known.gone.update(gone)
        known.seen.difference_update(gone)

    def _there(self) -> tuple[set[str], set[str]]:
        """The whole shards at the root, and those that were deleted."""
        files = storage.files(self.uri)
        return _named(files, KEYS), _named(files, _GONE)

    def _keys(self, name: str) -> np.ndarray:
        here = self.folder / f"{name}{KEYS}"
        content = here.read_bytes() if here.exists() else storage.read(f"{self.uri}/{name}{KEYS}")
        return np.empty(0, KEY) if content is None else np.load(BytesIO(content), allow_pickle=False)

    def _send(self, folder: Path, name: str) -> None:
        for suffix in _KEYS_LAST:
            if (file := folder / f"{name}{suffix}").exists():
                storage.put(file, f"{self.uri}/{name}{suffix}")

    def _known(self) -> _Known:
        with suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads((self.folder / SENT).read_bytes())
            if noted["root"] == self.uri:
                return _Known(*(set(noted[name]) for name in ("seen", "sent", "gone")))
        return _Known(set(), set(), set())

    def _note(self, known: _Known) -> None:
        here = known.sent.intersection(shard_names(self.folder))
        noted = {"root": self.uri, "seen": sorted(known.seen), "sent": sorted(here), "gone": sorted(known.gone)}
        write_json(self.folder / SENT, noted)


def _named(files: Iterable[str], suffix: str) -> set[str]:
    return {path.removesuffix(suffix) for path in files if path.endswith(suffix)}


def _fetch(uri: str, name: str, folder: Path) -> bool:
    """Copy a shard here; False where it was deleted meanwhile. Not every shard has lengths."""
    for suffix in _KEYS_LAST:
        content = storage.read(f"{uri}/{name}{suffix}")
        if content is not None:
            aside = folder / f"{name}{suffix}.tmp"
            aside.write_bytes(content)
            aside.replace(folder / f"{name}{suffix}")
        elif suffix != LENGTHS:
            remove_shard(folder, name)
            return False
    return True
