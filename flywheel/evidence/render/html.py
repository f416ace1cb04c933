"""The page as one HTML file that needs nothing beside it: it opens from a mail attachment and prints."""

from base64 import b64encode
from typing import Any

from markupsafe import Markup, escape

from flywheel.evidence.page import Block, Page, Table, sentence_columns, without_controls


def render_html(page: Page) -> str:
    """The page as HTML without scripts and without a reference to anything outside; every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flywheel.evidence.render", "."),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"coded": _coded, "kind": _kind, "data_uri": _data_uri, "looks": _looks}
    return environment.get_template("page.html.jinja").render(page=page, sign=page.sign)


def _finalize(value: Any) -> Any:
    return without_controls(value) if isinstance(value, str) else value


def _coded(text: str) -> Markup:
    """A text of ours, in which text between backticks is a command."""
    pieces = [escape(piece) for piece in without_controls(text).split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(piece) if i % 2 else piece for i, piece in enumerate(pieces))


def _kind(block: Block) -> str:
    return type(block).__name__


def _looks(table: Table) -> list[str]:
    """The classes of each column's cells."""
    sentences = sentence_columns(table)
    return [
        "words sentence" if number in sentences else "words" if column in table.words else "figure"
        for number, column in enumerate(table.columns)
    ]


def _data_uri(svg: str) -> str:
    """A drawing as an image, not as part of the document: its ids cannot clash, and nothing in it can run or load."""
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
