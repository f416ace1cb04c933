"""The documentation agrees with the code: commands, settings, links, the event table, the generated pages."""

import json
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from flywheel.cli.app import app
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.events import event_schema
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.overview import origins
from flywheel.settings import Settings, groups

ROOT = Path(__file__).parents[1]
GENERATED = runpy.run_path(str(ROOT / "docs" / "generate.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [page for page in PAGES if page not in GENERATED["pages"]()]
OTHER_VARIABLES = {"FLYWHEEL_HOME", "FLYWHEEL_ALARM_URLS", "FLYWHEEL_"}

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
by_written_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)


@pytest.mark.parametrize("page", GENERATED["pages"](), ids=lambda page: page.name)
def test_a_generated_page_is_current(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == GENERATED["pages"]()[page], f"{page.name} is old: run {GENERATED['COMMAND']}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [target for target in links(page.read_text(encoding="utf-8")) if not leads_somewhere(page, target)]
    assert not broken, f"{page.name} links to {broken}, which are not there"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert set(PAGES) - {ROOT / "README.md"} <= linked


@by_written_page
def test_every_command_exists(page: Path) -> None:
    wrong = [f"{command}: {reason}" for command in commands(page.read_text(encoding="utf-8")) if (reason := refusal(command))]
    assert not wrong, f"{page.name} shows commands that do not work: {wrong}"


WRONG = ["flywheel nothing", "flywheel cache clean", "flywheel up --prot 1", "flywheel forget --user", "flywheel demo all"]


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_noticed(command: str) -> None:
    assert refusal(command)
    assert list(commands(f"`{command}`\n```bash\n{command}\n```\n")) == [command, command]


@by_page
def test_every_setting_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(rf"`({'|'.join(groups())})\.(?!py|html)([a-z_]+)", text))
    unknown = [f"{group}.{name}" for group, name in names if name not in groups()[group].model_fields]
    variables = {f"FLYWHEEL_{group}__{name}".upper() for group, options in groups().items() for name in options.model_fields}
    unknown += sorted(set(re.findall(r"\bFLYWHEEL_\w*", text)) - variables - OTHER_VARIABLES)
    assert not unknown, f"{page.name} names settings that do not exist: {unknown}"


@by_page
def test_every_block_of_settings_is_valid(page: Path) -> None:
    for block in fenced(page.read_text(encoding="utf-8"), "toml"):
        Settings(**tomllib.loads(block))


def test_the_event_table_agrees_with_the_schema() -> None:
    definitions, rows = event_schema()["$defs"], dict(event_rows())
    assert set(rows) == set(definitions) - {"text", "identifier", "position", "common"}
    for name, row in rows.items():
        required = set(definitions[name]["required"]) - {"type"}
        optional = set(definitions[name]["properties"]) - required - {"type"}
        assert (set(words(row[1])), set(words(row[2]))) == (required, optional), name
    shared = [cells[0].strip("`") for cells in table_rows("| field | meaning |")]
    assert set(shared) == set(definitions["common"]["properties"])


EXAMPLES: dict[str, dict[str, Any]] = {
    "label": {"text_a": "one", "text_b": "two", "label": 1},
    "duplicate": {"text_a": "one", "text_b": "two"},
    "search": {"query": "one", "shown": ["two", "three"], "clicked": [2]},
    "click": {"query": "one", "shown": "two"},
    "skip": {"query": "one", "shown": "two"},
    "thumb": {"query": "one", "answer": "two", "thumb": "up"},
}


def test_the_event_table_says_what_becomes_of_an_event(tmp_path: Path) -> None:
    store = Store(tmp_path / "flywheel.duckdb")
    for name, event in EXAMPLES.items():
        texts = {"text_a", "text_b", "query", "shown", "answer"}
        own = {key: [f"{name} {text}" for text in value] if isinstance(value, list) else f"{name} {value}"
               for key, value in event.items() if key in texts}  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"type": name, **event, **own}))
        ingest_files(store, [tmp_path / f"{name}.jsonl"])
    for name, row in event_rows():
        became = origins(store, f"{name} one")
        kinds, weights = {event.kind for event in became}, {f"{event.weight:g}" for event in became}
        assert kinds == set(re.findall("explicit|implied", row[5])[:1]), name
        assert weights == set(re.findall(r"\d(?:\.\d+)?", row[6])), name


def links(text: str) -> list[str]:
    """Where links and images point, without those to the web and without code."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in target]


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether the file of a link is there, and the heading in it."""
    path, _, heading = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    return file.exists() and (not heading or heading in headings(file.read_text(encoding="utf-8")))


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def fenced(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[str]:
    """Every `flywheel ...` in a code block's line or in code within a sentence."""
    blocks = chain(fenced(text, "bash"), fenced(text, "console"))
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))]
    return (command.removeprefix(".venv/bin/") for command in (*lines, *spans) if re.match(r"(\.venv/bin/)?flywheel ", command))


def refusal(command: str) -> str | None:
    """Why the command line would not take a command; None if it would. Missing arguments are not looked at."""
    verb: Any = typer.main.get_command(app)
    arguments = shlex.split(command, comments=True)[1:]
    while isinstance(verb, TyperGroup) and arguments and not arguments[0].startswith("-") and arguments[0] != "...":
        if arguments[0] not in verb.commands:
            return f"there is no {arguments[0]}"
        verb = verb.commands[arguments.pop(0)]
    options = {name: parameter for parameter in verb.params for name in parameter.opts if name.startswith("-")}
    accepted = sum(not parameter.opts[0].startswith("-") for parameter in verb.params)
    given = 0
    while arguments:
        word = arguments.pop(0)
        if not word.startswith("-"):
            given += word != "..."
        elif word != "--help" and word not in options:
            return f"there is no option {word}"
        elif word != "--help" and not options[word].is_flag and not (arguments and arguments.pop(0)):
            return f"{word} takes a value"
    many = any(parameter.nargs == -1 for parameter in verb.params)
    return None if many or given <= accepted else f"it takes {accepted} arguments"


def table_rows(header: str) -> list[list[str]]:
    """The cells of a table in docs/data.md."""
    rows = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition(header)[2].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def event_rows() -> list[tuple[str, list[str]]]:
    """The rows of the event table, by the event's name."""
    rows = table_rows("| event | required fields | optional fields | texts | label | kind | weight |")
    return [(words(row[0])[0], row) for row in rows]


def words(cell: str) -> list[str]:
    """What is written as code in a cell."""
    return re.findall(r"`([^`]+)`", cell)
