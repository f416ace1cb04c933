"""One page, three looks: whatever users wrote, each shows every figure and does nothing else."""

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from flywheel.cli.console import console
from flywheel.evidence.page import SIGNS, Fact, Facts, Page, Picture, Section, Table, Text, Tone
from flywheel.evidence.render.html import render_html
from flywheel.evidence.render.markdown import render_markdown
from flywheel.evidence.render.terminal import print_page

HOSTILE = (
    "<script>alert('1')</script>",
    "said \"no\" & 'never' <img src=x onerror=alert(1)>",
    "first line\nsecond | line\r\n| third",
    "`code` **bold** [link](https://evil.example) ![x](http://evil.example/x.png) <b>html</b>",
    "see https://evil.example or www.evil.example or me@evil.example, ~~gone~~ &lt; $x$",
    "word" * 80,
    "👩\u200d🔬 😀 naïve",
    "كيف أعيد تعيين كلمة المرور؟",
    "\u202ereversed",
    "\x1b[31mred\x1b]0;title\x07 \x9b2J [bold red]markup[/] \x00",
    "- a list",
    "1. a list",
    "# a heading",
    "---",
    "\\| \\",
    "</td></table></details>{{ page.title }}{% for %}",
    "",
)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 {}"><path id="p" d="M0 0h4v3z"/></svg>'
FIGURES = tuple((text, f"{1000 + i:,}", f"-{i}.25 %", f"{i}.1 to {i}.9 %") for i, text in enumerate(HOSTILE))
COLUMNS = ("text", "pairs", "difference, in percent of pairs", "95 % interval")
VOID = {"meta", "img", "source"}


def page(tone: Tone = "proven") -> Page:
    names = (
        ("all-MiniLM-L6-v2@256", "head", "39.51 %"),
        ("all-mpnet-base-v2@512", "full", "32.52 %"),
        ("untuned", "", "41.0 %"),
    )
    board = Table(
        ("model", "recipe", "error"), names, frozenset({"model", "recipe"}), strong=frozenset({1}), quiet=frozenset({2})
    )
    empty = Table(("nowhere to be seen", "b"), (), frozenset())
    facts = Facts(
        (Fact("Error", "32.53 %", "29.6 to 35.7 %"), Fact(HOSTILE[0], HOSTILE[3], HOSTILE[1]), Fact("Pairs", "2,784"))
    )
    return Page(
        title="Evidence <for> you",
        answer="Use it & save",
        tone=tone,
        against="the API",
        next_step="Serve it, then <look>",
        command="flywheel serve --note 'a `b` <c>'",
        made="Made on Monday",
        sections=(
            Section("At a glance", (facts, *map(Text, HOSTILE))),
            Section("A picture", (Picture('Error "falls" ] <fast>', SVG.format(2), SVG.format(5)),)),
            Section("The | board", (board, empty)),
            Section("What breaks", (Table(COLUMNS, FIGURES, frozenset({"text"})),), folded=True),
        ),
    )


class Reader(HTMLParser):
    """Elements with attributes, the text, and that every element is closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def markdown_tokens(text: str) -> list[Token]:
    """Blocks and what stands inside them, as a parser with tables, strikethrough and HTML reads them."""
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


@pytest.fixture(params=[80, 120])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a terminal without colours that is 80 columns wide is sent, and what a pipe is."""
    if request.param == 80:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", "80")
    print_page(page(), console(False))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= request.param
    return shown


def test_html_is_well_formed_and_reaches_for_nothing_outside() -> None:
    html = render_html(page())
    reader = Reader(html)
    assert reader.open == []
    assert not reader.all("script")
    assert not reader.all("link")
    assert {tag for tag, _ in reader.elements} >= {"header", "main", "section", "details", "dl", "table", "picture", "footer"}
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") or name in ("href", "style") for name in attributes)
        for name in ("src", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_html_shows_users_texts_word_for_word_but_for_control_characters() -> None:
    reader = Reader(render_html(page()))
    expected = [re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", cell) for row in FIGURES for cell in row]
    assert reader.cells[-len(expected) :] == expected
    assert "nowhere to be seen" not in reader.cells
    texts = [attributes for attributes in reader.all("th") if attributes.get("scope") == "row"]
    assert all(attributes["dir"] == "auto" for attributes in texts)


def test_html_has_one_picture_for_each_width_and_says_once_what_it_shows() -> None:
    reader = Reader(render_html(page()))
    (narrow,), (wide,) = reader.all("source"), reader.all("img")
    assert [b64decode(str(uri).partition("base64,")[2]).decode() for uri in (wide["src"], narrow["srcset"])] == [
        SVG.format(2),
        SVG.format(5),
    ]
    assert wide["alt"] == 'Error "falls" ] <fast>'
    assert "max-width" in str(narrow["media"])


def test_html_marks_rows_and_tells_figures_from_words() -> None:
    reader = Reader(render_html(page()))
    assert [attributes.get("class") for attributes in reader.all("tr")[:4]] == [None, None, "strong", "quiet"]
    assert [attributes["class"] for attributes in reader.all("td")[:2]] == ["words", "figure"]
    assert [attributes["class"] for attributes in reader.all("th")[-1:]] == ["words sentence"]


@pytest.mark.parametrize("tone", list(SIGNS))
def test_every_look_says_in_words_how_the_answer_is(tone: Tone, capsys: pytest.CaptureFixture[str]) -> None:
    print_page(page(tone), console(False))
    for shown in (render_html(page(tone)), render_markdown(page(tone)), capsys.readouterr().out):
        assert SIGNS[tone] + (" than the API" if "proven" in tone else "") in shown


def test_a_page_without_command_and_sections_has_every_look(capsys: pytest.CaptureFixture[str]) -> None:
    bare = replace(page("open"), command=None, sections=())
    print_page(bare, console(False))
    for shown in (render_html(bare), render_markdown(bare), capsys.readouterr().out):
        assert "Made on Monday" in shown
    assert Reader(render_html(bare)).open == []


def test_markdown_has_tables_with_as_many_cells_in_every_row_and_users_texts_in_them() -> None:
    tokens = markdown_tokens(render_markdown(page()))
    assert sum(token.type == "table_open" for token in tokens) == 2
    rows: list[list[str]] = []
    for token, inside in pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append("".join(child.content for child in inside.children or ()))
    assert [len(row) for row in rows] == [3] * 4 + [4] * (1 + len(FIGURES))
    for row, expected in zip(rows[-len(FIGURES) :], FIGURES, strict=True):
        plain = " ".join(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", expected[0]).split())
        assert [cell.replace("\u2060", "") for cell in row] == [plain, *expected[1:]]


def test_markdown_makes_neither_html_nor_links_nor_lists_of_users_texts() -> None:
    text = render_markdown(page())
    tokens = markdown_tokens(text)
    kinds = {token.type for token in tokens}
    assert not kinds & {"hr", "html_block", "html_inline", "link_open", "code_inline", "s_open", "ordered_list_open"}
    assert [token.content for token in tokens if token.type == "code_block"] == ["flywheel serve --note 'a `b` <c>'\n"]
    assert sum(token.type == "heading_open" for token in tokens) == 1 + len(page().sections)
    assert sum(token.type == "list_item_open" for token in tokens) == 3
    assert not [token for token in tokens if token.type == "image"]
    assert "Picture in the page's file: Error" in text
    # What GitHub's flavour would link by itself, wherever it stands in a text.
    shown = "\n".join(token.content for token in tokens if token.type == "text")
    assert "evil" in shown
    assert "39.51 %" in text
    assert not re.search(r"https?://|www\.|[-.\w+]@[-\w]+\.\w", shown, re.IGNORECASE)


def test_terminal_shows_every_figure_and_every_word_of_users_texts(terminal: str) -> None:
    for row in FIGURES:
        assert all(figure in terminal for figure in row[1:])
    for seen in ("39.51 %", "32.52 %", "32.53 %", "2,784", "all-mpnet-base-v2@512", "Made on Monday", "flywheel serve --note"):
        assert seen in terminal
    assert "nowhere to be seen" not in terminal
    folded = "".join(part.strip() for part in terminal.splitlines())
    assert sum(map(len, re.findall(r"(?:word|wor|wo|w|ord|rd|d)+", folded))) >= 320


def test_terminal_gets_no_orders_from_users_texts(terminal: str) -> None:
    assert not [sign for sign in terminal if not sign.isprintable() and sign != "\n"]
    assert "[bold red]markup[/]" in terminal
