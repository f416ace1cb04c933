"""The page on the terminal."""

from textwrap import wrap

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text as Line

from flywheel.evidence.page import Facts, Page, Picture, Section, Table, Text, sentence_columns


def print_page(page: Page, out: Console) -> None:
    """The page without its pictures, at the terminal's width."""
    style = {"proven": "bold green", "not proven": "bold yellow"}.get(page.tone, "bold")
    out.print(_line(page.title), style="dim", soft_wrap=False)
    out.print(_line(f"{page.sign}. {page.answer}"), style=style, soft_wrap=False)
    out.print(_line(f"Next: {page.next_step}"), soft_wrap=False)
    if page.command:
        out.print(Line("  ") + _line(page.command), style="bold")
    for section in page.sections:
        out.print()
        out.print(_line(section.title), style="bold underline", soft_wrap=False)
        print_section(section, out)
    out.print()
    out.print(_line(page.made), style="dim", soft_wrap=False)


def print_section(section: Section, out: Console) -> None:
    """A section without its title."""
    for block in section.blocks:
        match block:
            case Text(text):
                out.print(_line(text), soft_wrap=False)
            case Facts():
                out.print(_facts(block))
            case Table() if block.rows:
                out.print(_fitted(block, out))
            case Picture() | Table():
                pass


def _line(text: str) -> Line:
    """A text of unknown origin as one line that is neither markup nor an order to the terminal."""
    return Line("".join(sign for sign in " ".join(text.split()) if sign.isprintable()))


def _facts(facts: Facts) -> Grid:
    grid = Grid.grid(padding=(0, 2, 0, 0))
    for fact in facts.facts:
        grid.add_row(_line(fact.label), Line(style="bold") + _line(fact.value), Line(style="dim") + _line(fact.note))
    return grid


def _fitted(table: Table, out: Console) -> Grid:
    """A table in which heads wrap above figures, sentences wrap in the width that is left, and names wrap last."""
    sentences = sentence_columns(table)
    fitted = Grid(box=SIMPLE, padding=(0, 1, 0, 0), expand=bool(sentences))
    for number, name in enumerate(table.columns):
        if number in sentences:
            fitted.add_column(_line(name), ratio=1, min_width=12, overflow="fold")
        elif name in table.words:
            fitted.add_column(_line(name), overflow="fold")
        else:
            widest = max(len(row[number]) for row in table.rows)
            head = Line("\n").join(map(_line, wrap(name, max(widest, 8), break_long_words=False)))
            fitted.add_column(head, justify="right", overflow="fold")
    for number, row in enumerate(table.rows):
        style = "bold" if number in table.strong else "dim" if number in table.quiet else None
        fitted.add_row(*map(_line, row), style=style)
    if not sentences and out.measure(fitted, options=out.options.update_width(1000)).maximum > out.width:
        fitted.padding = 0
    return fitted
