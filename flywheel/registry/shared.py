"""The history of decisions that several homes share: at the root every entry is a file that one machine alone can create."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flywheel import storage
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.files import write_bytes, write_json

HISTORY, POINTER = "history", "champion.json"
# At the root the pointer is a file for each entry that made a champion. The highest counts: no slow machine moves it back.
_CHAMPIONS = "champions"
_ROOT = "root.json"


@dataclass(frozen=True)
class SharedHistory:
    """Keeps the registry in `folder` in step with the one at `uri`."""

    folder: Path
    uri: str

    def pull(self) -> None:
        """Fetch the entries, and the pointer, that the root has and this home does not; give it what only this home has.

        Raises FlywheelError when the two are different histories.
        """
        there = storage.files(self.uri)
        theirs, champions = _numbers(there, HISTORY), _numbers(there, _CHAMPIONS)
        ours = {int(file.stem) for file in (self.folder / HISTORY).glob("*.json")}
        self._check_same(ours & theirs)
        # An entry is written before its pointer, so it is there even where the listing was too early to have it.
        for number in sorted((theirs | champions) - ours):
            if content := storage.read(self._place(HISTORY, number)):
                write_bytes(self._file(number), content)
        for number in sorted(ours - theirs):
            self.create(number)
        newest, pointed = max(champions, default=0), self._pointer()
        if newest > pointed:
            write_json(self.folder / POINTER, {"entry": newest})
        elif pointed > newest:
            self.point_to(pointed)

    def create(self, number: int, content: bytes | None = None) -> None:
        """Write an entry at the root, this home's own without `content`.

        Raises TryAgainError when another machine has written one of that number.
        """
        if not storage.create(self._place(HISTORY, number), self._file(number).read_bytes() if content is None else content):
            raise TryAgainError(
                f"Another machine wrote entry {number} of {self.uri} at the same moment, so this one wrote none. Run the same "
                "command again: it looks at what has changed."
            )

    def point_to(self, number: int) -> None:
        """Make the champion of an entry the present one, unless that of a later one is."""
        storage.create(self._place(_CHAMPIONS, number), json.dumps({"entry": number}).encode())

    def _check_same(self, common: set[int]) -> None:
        """Compare the entries of both, once for each root."""
        known = self.folder / _ROOT
        with suppress(OSError, ValueError):
            if json.loads(known.read_bytes()) == self.uri:
                return
        for number in sorted(common):
            if self._file(number).read_bytes() != storage.read(self._place(HISTORY, number)):
                raise FlywheelError(
                    f"{self.folder} and {self.uri} have different histories: entry {number} is another one. Set storage.root "
                    "to an address that no other home has decided at, or work in a new home, which takes over what is there."
                )
        write_json(known, self.uri)

    def _pointer(self) -> int:
        try:
            return int(json.loads((self.folder / POINTER).read_bytes())["entry"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            return 0  # the root's takes its place

    def _file(self, number: int) -> Path:
        return self.folder / HISTORY / f"{number:06}.json"

    def _place(self, kind: str, number: int) -> str:
        return f"{self.uri}/{kind}/{number:06}.json"


def _numbers(files: dict[str, str], kind: str) -> set[int]:
    names = (path.removeprefix(f"{kind}/").removesuffix(".json") for path in files if path.startswith(f"{kind}/"))
    return {int(name) for name in names if name.isdecimal()}
