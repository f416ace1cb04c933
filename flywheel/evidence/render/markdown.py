"""The page as Markdown, for Dagster's UI."""

import re
from collections.abc import Iterable

from flywheel.evidence.page import Block, Facts, Page, Picture, Section, Text, without_controls

# What means something inside a line, and what only does at its start (lists, headings, rules).
_ANYWHERE = re.compile(r"[\\`*_\[\]<>|~$&#!]")
_AT_START = re.compile(r"^(\d*)([-+=.)])(?!\w)")
# Where a viewer would make links of bare addresses, even of escaped ones (GitHub's flavour does): `http:` | `//`,
# `www` | `.`, `name@` | `host.org`.
_LINK = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)(?=[-\w]+\.)", re.IGNORECASE)
_WORD_JOINER = "\u2060"


def render_markdown(page: Page) -> str:
    """The page with tables in GitHub's flavour and without its pictures, for which an event has no room.

    No text of it becomes markup, HTML or a link.
    """
    lines = [
        f"# {_escape(page.title)}",
        f"**{_escape(page.sign)}. {_escape(page.answer)}**",
        f"Next: {_escape(page.next_step)}",
    ]
    if page.command:
        lines.append("\n".join(f"    {line}" for line in without_controls(page.command).split("\n")))
    lines += [f"## {_escape(section.title)}\n\n{render_section(section)}" for section in page.sections]
    return "\n\n".join([*lines, _escape(page.made)]) + "\n"


def render_section(section: Section) -> str:
    """A section without its title."""
    return "\n\n".join(_block(block) for block in section.blocks)


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return _escape(text)
        case Facts(facts):
            return "\n".join(
                f"- {_escape(fact.label)}: **{_escape(fact.value)}**" + (f" ({_escape(fact.note)})" if fact.note else "")
                for fact in facts
            )
        case Picture(alt=alt):
            return f"*Picture in the page's file: {_escape(alt)}*"
        case table:
            lines = [_row(map(_escape, table.columns))] if table.rows else []
            lines += [_row("---" if column in table.words else "---:" for column in table.columns)] if table.rows else []
            for number, row in enumerate(table.rows):
                mark = "**" if number in table.strong else "*" if number in table.quiet else ""
                lines.append(_row(f"{mark}{cell}{mark}" if cell else "" for cell in map(_escape, row)))
            return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """One line that shows the text and does nothing else."""
    line = " ".join(without_controls(text).split())
    return _AT_START.sub(r"\1\\\2", _ANYWHERE.sub(r"\\\g<0>", _LINK.sub(_WORD_JOINER, line)))
