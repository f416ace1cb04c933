"""What the values of a column mean: a label, a thumb, a type of event. A column is read as a whole before a line of it is.

A value that happens to fit says nothing by itself: 1 is "same" in a column of 0 and 1, the second worst grade in one of 0 to 5,
and "neutral" in one of 0, 1, 2 and -1.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Literal

from flywheel.errors import UnreadableFileError

LABELS = {"1": 1, "true": 1, "same": 1, "0": 0, "false": 0, "different": 0}
THUMBS = {
    **dict.fromkeys(("up", "1", "+1", "true", "thumbs_up", "thumbs up", "thumbsup", "👍", "like", "positive"), "up"),
    **dict.fromkeys(
        ("down", "0", "-1", "false", "thumbs_down", "thumbs down", "thumbsdown", "👎", "dislike", "negative"), "down"
    ),
}
_WHOLE = re.compile(r"-?\d+\.0*")
_MANY = 1000  # distinct values that are kept
_LONG = 60  # characters beyond which a value is not shown
_STRAYS = 2  # values outside the coding that are slips, not a coding
_STRAY_SHARE = 0.01
_NUMBER_SHARE = 0.0001  # the same for numbers: 2 among many of 0 and 1 may be the best grade of three, and rare
_TONE = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f]")  # of an emoji's skin, and what asks for its colours
# Words by which a column's name says that 1 means different, or down.
_OPPOSITE = {
    "label": re.compile(r"differ|distan|dissimil|unrelat|mismatch|distinct|contradict|(?:^|_)(?:not?|non|un)_"),
    "thumb": re.compile(r"down|dislike|negativ|bad|(?:^|_)(?:not?|non|un)_|unhelp"),
}
_PAIRS_OF_CLASSES = {
    ("0", "1"), ("false", "true"), ("no", "yes"), ("different", "same"), ("negative", "positive"), ("down", "up"),
    ("thumbs_down", "thumbs_up"), ("dislike", "like"),
}  # fmt: skip


def written(value: Any) -> str:
    """A value as one text, whatever carried it: 1, 1.0, "1" and " 1.0 " are `1`; True and "TRUE" are `true`."""
    return _written(value) if isinstance(value, str | int | float) else str(value).casefold()


@lru_cache(maxsize=4096, typed=True)
def _written(value: str | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = _TONE.sub("", str(value)).strip().casefold()
    if _WHOLE.fullmatch(text):
        text = text.partition(".")[0]
    elif isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        text = str(int(value))
    return "0" if text == "-0" else text


def toml(value: Any) -> str:
    """A text, number, list or table as TOML writes it on one line."""
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{json.dumps(str(key), ensure_ascii=False)} = {toml(each)}" for key, each in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Coding:
    """Values of a column, as `written`, and what each means; or a `cut`: numbers from there up, or down (`below`), mean 1.

    `said`: the user has said so, and what is not named is left out.
    """

    meaning: Mapping[str, Any]
    cut: float | None = None
    below: bool = False
    said: bool = False

    @classmethod
    def of(
        cls, said: Mapping[str, Any], usual: Mapping[str, Any], cut: float | None = None, cut_below: float | None = None
    ) -> "Coding":
        """The user's coding if there is one, else the usual one."""
        if cut is not None or cut_below is not None:
            return cls({}, cut if cut_below is None else cut_below, cut_below is not None, True)
        return cls({written(value): meaning for value, meaning in said.items()}, said=True) if said else cls(usual)

    def read(self, value: Any) -> Any:
        """What a value means, or None if it is outside the coding."""
        if self.cut is None:
            return self.meaning.get(written(value)) if isinstance(value, str | int | float) else None
        number = _number(value)
        return None if number is None else int(number <= self.cut if self.below else number >= self.cut)

    def could_be(self, cell: str) -> bool:
        """Whether a cell could hold a value of the column, also one that the user's coding leaves out."""
        leaves_out = self.said and self.cut is None and len(cell) <= _LONG and '"' not in cell
        return leaves_out or self.read(cell) is not None


@dataclass
class Column:
    """What a column held: how often each value was seen, and where first. `classes` are the file's own names of 0, 1, ..."""

    seen: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    lines: int = 0
    classes: tuple[str, ...] = ()

    def add(self, value: Any, where: str) -> None:
        """Count one value, found at `where`."""
        self.lines += 1
        key = written(value)
        if key in self.seen:
            self.seen[key] += 1
        elif len(self.seen) < _MANY:
            self.seen[key] = 1
            self.first[key] = where


def judge(file: str, name: str, column: Column, coding: Coding, what: Literal["label", "thumb"]) -> None:
    """Raise UnreadableFileError unless the column `name` of `file` is in the coding, but for slips.

    Slips are one or two values, or less than one in a hundred if they are words, one in ten thousand if they are numbers.
    Numbers from -1 to 5 may be grades or classes: one or two of them are slips among hundreds of lines only. A column whose
    name, or whose classes' names in the file, say that 1 is "different" is never read as the contrary. With a coding that the
    user has said, what it does not name is left out line by line; only a cut is no word against a column of distances.
    """
    if not column.lines:
        return
    if _OPPOSITE[what].search(_words(name)) and not coding.below and (coding.cut is not None or not coding.said):
        raise UnreadableFileError(
            f"{file}: by its name {name} says the opposite of a {what}. Nothing of it was stored. "
            f"{_remedy(file, column, what, opposite=True)}"
        )
    if coding.said:
        return
    if len(column.classes) > 1 and not _same_is_one(column.classes):
        named = ", ".join(f"{value} {name!r}" for value, name in enumerate(column.classes[:8]))
        raise UnreadableFileError(
            f"{file}: by its own words {name} is {named}. Nothing of it was stored. {_remedy(file, column, what)}"
        )
    outside = {value for value in column.seen if coding.read(value) is None}
    if both := what == "thumb" and {"0", "-1"} <= column.seen.keys():  # one of them is down, and the other says nothing
        outside |= {"0", "-1"}
    if not both and _are_slips(column, outside):
        return
    shown = sorted(outside, key=lambda value: (-column.seen[value], value))[:8]
    named = ", ".join(f"{_whole(value)} ({column.first[value]})" for value in shown)
    named += " and others" if len(outside) > 8 else ""
    inside = ", ".join(sorted(column.seen.keys() - outside)[:8])
    raise UnreadableFileError(
        f"{file}: {name} holds {named}"
        + (f" besides {inside}" if inside else "")
        + f", which is no {what} by any coding that is "
        f"known. Nothing of it was stored. {_remedy(file, column, what)}"
    )


def _are_slips(column: Column, outside: set[str]) -> bool:
    lines, few = column.lines, min(_STRAYS, column.lines // 2)
    strays = lines - sum(count for value, count in column.seen.items() if value not in outside)
    numbers = {value: number for value in outside if (number := _number(value)) is not None}
    near = sum(column.seen[value] for value, number in numbers.items() if -1 <= number <= 5)
    return (
        strays <= max(few, _STRAY_SHARE * lines)
        and sum(column.seen[value] for value in numbers) <= max(few, _NUMBER_SHARE * lines)
        and near <= max(min(few, _STRAY_SHARE * lines), _NUMBER_SHARE * lines)
        and len(column.seen) < _MANY
    )


def _words(name: str) -> str:
    """The last part of a column's name in words: isDifferent is is_different."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+", "_", name.rpartition(".")[2]).lower()


def _same_is_one(classes: tuple[str, ...]) -> bool:
    """Whether of two classes the second is "same", or "up": `not_duplicate, duplicate`."""
    first, second = (
        (written(name).replace(" ", "_").replace("-", "_") for name in classes[:2]) if len(classes) == 2 else ("", "")
    )
    opposite = first.removeprefix("not_").removeprefix("non_").removeprefix("un").removeprefix("no_")
    return second != "" and first != second and (opposite == second or (first, second) in _PAIRS_OF_CLASSES)


def _remedy(file: str, column: Column, what: str, opposite: bool = False) -> str:
    common = sorted(column.seen, key=lambda value: (-column.seen[value], value))[:6]
    values = [*map(str, range(len(column.classes)))] or sorted(common)
    numbers = [number for number in map(_number, column.seen) if number is not None]
    setting = f"in the home's flywheel.toml: [pairs.files.{toml(PurePath(file).parts[0])}] and below it"
    filled = f"{what}s = {{{_filled(values, 'up or down' if what == 'thumb' else '1 or 0')}}}"
    said = f"Say what the values mean {setting} {filled}, where a value that is not named is left out"
    if what == "label" and numbers and len(numbers) == len(column.seen) and not column.classes:
        low, high = min(numbers), max(numbers)
        grades = f"or, if they are grades, from where on they mean the same: cut = {low + (high - low) * 0.75:g}; "
        distances = f"or, if they are distances, up to where they mean the same: cut_below = {low + (high - low) * 0.25:g}."
        return f"{said}; {'' if opposite else grades}{distances}"
    return f"{said}."


def _filled(values: list[str], meaning: str) -> str:
    return ", ".join(f"{json.dumps(value, ensure_ascii=False)} = {meaning}" for value in values if len(value) <= _LONG)


def _whole(value: str) -> str:
    """A value in a sentence, whole or not at all: half of it might be half of what is redacted."""
    return value if len(value) <= _LONG else f"a text of {len(value):,} characters"


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) != float("inf") and number == number else None
