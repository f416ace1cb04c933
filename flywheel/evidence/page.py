"""A page as data: said once, shown as HTML, as Markdown in the Dagster UI, and as text on the terminal."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


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

    Rows numbered in `strong` stand out, rows in `quiet` step back. A table without rows is not shown.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[str]
    strong: frozenset[int] = frozenset()
    quiet: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG for a desk and for a phone, and as PNG for where SVG cannot be shown; `alt` says what it shows."""

    alt: str
    wide_svg: str
    narrow_svg: str
    png: bytes


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

    `tone` says how the answer is: proven, not proven, or that nothing can be said yet.
    """

    title: str
    answer: str
    tone: Literal["proven", "not proven", "open"]
    next_step: str
    command: str | None
    made: str
    sections: tuple[Section, ...]


def as_plain(page: Page) -> dict[str, Any]:
    """The page as plain values for programs; of a picture only what it shows."""
    plain = asdict(page)
    for section in plain["sections"]:
        section["blocks"] = [{"picture": each["alt"]} if "alt" in each else _sorted_sets(each) for each in section["blocks"]]
    return plain


def _sorted_sets(block: dict[str, Any]) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in block.items()}
