"""A page as data: built once, shown as HTML, as Markdown in the Dagster UI, and as text on the terminal."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Tone = Literal["proven", "not proven", "not decided", "open"]
# How the answer is, in a sign and in words: no reader has to see colours.
SIGNS: Mapping[Tone, str] = {
    "proven": "✓ Proven better",
    "not proven": "✗ Not proven better",
    "not decided": "? Not decided yet",
    "open": "? Not known yet",
}
# Columns of words with a longer cell than this hold sentences, which break or are cut; the others hold names.
_NAME_LENGTH = 40
# Control characters but for tab and newline: terminals obey some, HTML allows none.
_CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


@dataclass(frozen=True)
class Fact:
    """A figure with its name, and what it rests on."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """Some figures side by side."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Text:
    """One paragraph of plain words."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of texts under `columns`; those named in `words` are read from the left, the others are figures.

    Rows numbered in `strong` are emphasised, rows in `quiet` are greyed. A table without rows is not shown.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[str]
    strong: frozenset[int] = frozenset()
    quiet: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG, for a desk and for a phone; `alt` says what it shows."""

    alt: str
    wide_svg: str
    narrow_svg: str


Block = Facts | Text | Table | Picture


@dataclass(frozen=True)
class Section:
    """A part of the page; a `folded` one opens when it is asked for."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """The page: what it answers in one sentence, what to do next (and by which command), then the sections.

    `tone` says how the answer is: proven, not proven, or not decided yet; `against` what it is about.
    """

    title: str
    answer: str
    tone: Tone
    against: str
    next_step: str
    command: str | None
    made: str
    sections: tuple[Section, ...]

    @property
    def sign(self) -> str:
        """The tone in words."""
        return SIGNS[self.tone] + (f" than {self.against}" if self.tone in ("proven", "not proven") else "")


def as_plain(page: Page) -> dict[str, Any]:
    """The page as plain values for programs; of a picture only what it shows."""
    plain = asdict(page)
    for section in plain["sections"]:
        section["blocks"] = [{"picture": each["alt"]} if "alt" in each else _sorted_sets(each) for each in section["blocks"]]
    return plain


def _sorted_sets(block: dict[str, Any]) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in block.items()}


def sentence_columns(table: Table) -> frozenset[int]:
    """The columns that hold sentences, such as users' texts."""
    words = [number for number, column in enumerate(table.columns) if column in table.words]
    return frozenset(number for number in words if any(len(row[number]) > _NAME_LENGTH for row in table.rows))


def without_controls(text: str) -> str:
    """A text of unknown origin without control characters; tabs and newlines stay, a carriage return goes."""
    return text.translate(_CONTROL)
