"""Sentences that name a remedy: the state in which each appears is built, the remedy is followed, and it leads on.

A row of the table holds the state, the command that says the sentence, and what comes when the remedy was followed and a
command (the same one, if no other is named) is run. What is followed is what the sentence says: `follow` reads it as a person
would, step by step, and does what `STEPS` knows. To add a row, name a state (or write one) and the sentence.
"""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

import flywheel
from flywheel.home import Home
from flywheel.settings import to_toml
from flywheel_tests.conftest import copy_home, verb

PACKAGE = Path(flywheel.__file__).parent
VARIANT = "all-MiniLM-L6-v2@256"
TRAIN = f"train {VARIANT} all"
Build = Callable[["Place"], None]


@dataclass(frozen=True)
class Place:
    """A home, and the folder beside it where files lie that were ingested, so that they can be ingested again."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def files(self) -> Path:
        return self.root / "files"

    def say(self, command: str) -> str:
        """Run a command that may fail; what it said, on one line."""
        done = verb(*shlex.split(command), "--home", self.home)
        return " ".join(f"{done.stdout} {done.stderr}".split())

    def do(self, command: str) -> str:
        """Run a command that must not fail."""
        done = verb(*shlex.split(command), "--home", self.home)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return " ".join(f"{done.stdout} {done.stderr}".split())

    def ingest(self, labels: list[int | None]) -> None:
        """Ingest pairs of new questions with these labels; None is a click."""
        self.files.mkdir(exist_ok=True)
        number = len(list(self.files.iterdir()))
        rows = []
        for i, label in enumerate(labels):
            item = _thing(1000 * number + i)
            a, far = f"how do I mend an {item} item", f"when does the {item} shop open"
            labelled = {"text_a": a, "text_b": f"mending some {item} item" if label else far, "label": label}
            rows.append({"type": "click", "query": a, "shown": far} if label is None else labelled)
        file = self.files / f"{number}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.do(f"ingest {file}")

    def set(self, group: str, name: str, value: object) -> None:
        """Change a setting in the home's file."""
        file = self.home / "flywheel.toml"
        kept = [line for line in file.read_text().splitlines() if not line.startswith(f"{group}.{name} =")]
        file.write_text("\n".join([*kept, f"{group}.{name} = {to_toml(value)}"]) + "\n")


_LOOKS = (
    "red", "blue", "green", "golden", "silver", "black", "white", "purple",
    "wooden", "plastic", "leather", "paper", "glass", "iron", "stone", "woollen", "rubber",
)  # fmt: skip
_WHOSE = (
    "sailor", "baker", "doctor", "farmer", "painter", "soldier", "teacher",
    "singer", "dancer", "hunter", "lawyer", "pilot", "nurse", "plumber", "waiter",
)  # fmt: skip
_WHAT = (
    "chair", "boat", "clock", "lamp", "violin", "ladder", "kettle", "tent",
    "bicycle", "umbrella", "mirror", "carpet", "basket", "helmet", "drum", "ladle",
)  # fmt: skip


def _thing(number: int) -> str:
    """Words that no other number has, and that a model tells from those of all others."""
    looks, rest = divmod(number * 1597 % 4080, len(_WHOSE) * len(_WHAT))
    return f"{_LOOKS[looks]} {_WHOSE[rest // len(_WHAT)]}'s {_WHAT[rest % len(_WHAT)]}"


# ---- states ----


def empty(place: Place) -> None:
    place.home.mkdir(parents=True, exist_ok=True)
    grid = {"grid.variants": [VARIANT], "grid.sizes": ["100", "200", "400", "all"]}
    options = {"pairs.seed_pairs": "none", "splits.frozen_from": 0, **grid}
    (place.home / "flywheel.toml").write_text("".join(f"{name} = {to_toml(value)}\n" for name, value in options.items()))


def with_labels(same: int, different: int, clicks: int = 0) -> Build:
    def build(place: Place) -> None:
        empty(place)
        place.ingest([1] * same + [0] * different + [None] * clicks)

    return build


def setting(group: str, name: str, value: object, first: Build) -> Build:
    def build(place: Place) -> None:
        first(place)
        place.set(group, name, value)

    return build


def after(first: Build, *commands: str) -> Build:
    def build(place: Place) -> None:
        first(place)
        for command in commands:
            place.say(command)

    return build


def once(name: str, build: Build) -> Build:
    """A copy of a state that is built once."""

    def copy(place: Place) -> None:
        made = Place(place.root.parent / name)
        if not made.root.exists():
            build(made)
        copy_home(made.root, place.root)

    return copy


ENOUGH = with_labels(260, 260)
CLICKS = with_labels(0, 0, 200)
drawn = once("drawn", after(ENOUGH, "snapshot"))
trained = once("trained", after(drawn, TRAIN))


def few_steps(place: Place) -> None:
    """A home whose recipe top is over soon."""
    trained(place)
    for name in ("min_steps", "epochs"):
        place.set("training", f"recipes.top.{name}", 1)


def lost(place: Place) -> None:
    """A first decision that made no champion."""
    trained(place)
    assert "No champion yet" in place.do("champion promote")


def all_forgotten(place: Place) -> None:
    drawn(place)
    place.do("forget --text-contains item --yes")


def damaged(*parts: str, content: bytes = b"{") -> Build:
    """A home with two snapshots, a file of whose first or of the home is damaged."""

    def build(place: Place) -> None:
        drawn(place)
        first = next((place.home / "snapshots").glob("*/manifest.json")).parent
        place.ingest([1, 0])
        place.do("snapshot")
        (place.home.joinpath(*parts) if len(parts) > 1 else first / parts[0]).write_bytes(content)

    return build


def damaged_model(place: Place) -> None:
    trained(place)
    next((place.home / "models").glob("*/flywheel.json")).write_text("{")


def damaged_decision(place: Place) -> None:
    lost(place)
    next((place.home / "registry").glob("history/*.json")).write_text("{}")


def half_shared(place: Place) -> None:
    shared = place.root / "shared"
    setting("storage", "root", f"file://{shared}", ENOUGH)(place)
    place.do("snapshot")
    next(shared.glob("snapshots/*/manifest.json")).unlink()
    shutil.rmtree(next((place.home / "snapshots").glob("*/manifest.json")).parent)


def no_database(place: Place) -> None:
    drawn(place)
    Home(place.home).database.write_bytes(b"no database" * 1_000)


def other_version(place: Place) -> None:
    drawn(place)
    with duckdb.connect(str(Home(place.home).database)) as db:
        (version,) = (row[0] for row in db.execute("SHOW TABLES").fetchall() if row[0].startswith("version_"))
        db.execute(f"ALTER TABLE {version} RENAME TO version_1")


# ---- following a remedy ----


def _ingest_named(place: Place, *named: str | None) -> None:
    wanted = {kind: int((number or "0").replace(",", "")) for number, kind in zip(named[::2], named[1::2], strict=True)}
    place.ingest([1] * wanted.get("same", 0) + [0] * wanted.get("different", 0))


def _ingest_again(place: Place) -> None:
    for file in sorted(place.files.iterdir()):
        place.do(f"ingest {file}")


def _delete(place: Place, folder: str) -> None:
    shutil.rmtree(folder)


def _set(place: Place, group: str, name: str, value: str) -> None:
    number = re.fullmatch(r"(?:at least )?([\d.]*\d)", value)
    place.set(group, name, json.loads(number[1]) if number else 0.1 if value == "a share above 0" else value)


def _run(place: Place, *commands: str | None) -> None:
    command = next(filter(None, commands)).removeprefix("flywheel ")
    command = TRAIN if command == "train" else command
    if command.endswith(("FILE", "PATH")):
        place.ingest([1] * 220 + [0] * 220)
    else:
        place.do(command)


# How a step is worded, and what a person then does.
STEPS: list[tuple[str, Callable[..., None]]] = [
    (r"Ingest about ([\d,]+) more pairs labelled (\w+)(?: and ([\d,]+) more pairs labelled (\w+))?", _ingest_named),
    (r"Ingest labelled pairs of new questions", lambda place: place.ingest([1] * 300 + [0] * 300)),
    (r"ingest the delivered files", _ingest_again),
    (r"(?<=[Ss]et )([a-z]+)\.([a-z_.]+) to (a share above 0|(?:at least )?[\d.]*\d|\w+)", _set),
    (r"[Mm]ove it away", lambda place: Home(place.home).database.unlink()),
    (r"move (/\S+) away", _delete),
    (r"(/\S+) holds no complete snapshot\. Delete that folder", _delete),
    (r"(/\S+)/flywheel\.json is damaged, .* Delete the folder", _delete),
    (r"(/\S+)/\w+\.parquet is damaged .*? Remove the snapshot's folder", _delete),
    (r"`(flywheel [^`]+)`|Next: (flywheel [^,.]+)|^(flywheel \S.*)", _run),
]


def follow(place: Place, said: str) -> None:
    """Do what a sentence says, in its order."""
    found: list[tuple[int, Callable[..., None], tuple[str | None, ...]]] = []
    for pattern, step in STEPS:
        found += [(match.start(), step, match.groups()) for match in re.finditer(pattern, said)]
    assert found, f"no step is known in {said!r}"
    for _, step, groups in sorted(found, key=lambda each: each[0]):
        step(place, *groups)


# ---- the table ----


@dataclass(frozen=True)
class Row:
    """`said` is a pattern of the sentence, up to the end of its remedy; `then` of what the command `run` says afterwards."""

    state: Build
    command: str
    said: str
    then: str
    run: str | None = None
    slow: bool = False


NAMED = r"Ingest about .*? then run `flywheel snapshot`"
ANEW = r"Ingest labelled pairs of new questions, then run `flywheel snapshot --new-test`"
DRAWN = r"snapshot \w+: \d+ train, \d\d+ calibration, \d\d+ test With .* would show\. Next: flywheel grid"
FOLDED = r"All pairs train\. 1\d\d labelled pairs in .* in 10 folds: .* would show\. .*Next: flywheel grid"

ROWS = {
    "no baseline": Row(drawn, "evidence", r"has not been measured on snapshot \w+\. Run `flywheel grid`", "Next:", slow=True),
    "no candidate": Row(
        drawn, "champion promote", r"under the present settings; `flywheel grid`", "not promoted|Model folder", slow=True
    ),
    "a damaged model": Row(
        damaged_model, TRAIN, r"/\S+/flywheel\.json is damaged, .* Delete the folder and train .* with `flywheel train`",
        "Next: flywheel leaderboard",
    ),
    "nothing at all": Row(empty, TRAIN, rf"there are no interaction pairs\. .*{NAMED}", FOLDED, "snapshot"),
    "too few pairs": Row(with_labels(30, 30), "grid", rf"in 60 components\. .* {NAMED}", FOLDED, "snapshot"),
    "too few to be set aside": Row(with_labels(60, 60), "snapshot", rf"in 120 components\. .* {NAMED}", DRAWN),
    "one label only": Row(with_labels(150, 0), "snapshot", rf"150 explicit .* and 0 that say different.* {NAMED}", FOLDED),
    "the other label only": Row(
        with_labels(0, 150), TRAIN, rf" 0 explicit .* and 150 that say.* {NAMED}", FOLDED, "snapshot", slow=True
    ),
    "clicks only": Row(CLICKS, "grid", rf"none of the 200 interaction pairs has one\. .*{NAMED}", FOLDED, "snapshot"),
    "clicks only, board": Row(
        after(CLICKS, "snapshot"), "leaderboard", rf"none of the 200 .*{NAMED}", "Next: flywheel grid", slow=True
    ),
    "clicks only, API": Row(
        after(CLICKS, "snapshot"), "baseline", rf"Next: Only .*{NAMED}", "Next: set OPENAI_API_KEY", slow=True
    ),
    "a share of nothing": Row(
        setting("splits", "interaction_test_share", 0.0, ENOUGH), "snapshot",
        r"Set splits\.interaction_test_share to a share above 0, then run `flywheel snapshot`", DRAWN,
    ),
    "splits too small": Row(
        setting("splits", "max_split_pairs", 20, ENOUGH), "snapshot",
        r"Set splits\.max_split_pairs to at least 41, then run `flywheel snapshot`", DRAWN,
    ),
    "nothing new for a test": Row(
        drawn, "snapshot --new-test", r"Nothing was changed\. .* Ingest about .* then run `flywheel snapshot --new-test`",
        "Next: flywheel grid", "snapshot",
    ),
    "all forgotten": Row(
        all_forgotten, TRAIN, rf"no verdict: in calibration, 0 components are fewer .* {NAMED}", DRAWN, "snapshot"
    ),
    "more components wanted than are frozen": Row(
        after(setting("evaluation", "min_components", 140, trained), f"grid --variant {VARIANT} --size all"),
        "champion promote",
        rf"No verdict is possible: .*\. {ANEW}",
        DRAWN, "snapshot", slow=True,
    ),
    "frozen pairs that were judged and can judge no more": Row(
        setting("evaluation", "min_components", 140, lost), "snapshot",
        rf"carry no verdict: in \w+, \d+ components .* Decisions were made on them, .* {ANEW}", DRAWN, "snapshot", slow=True,
    ),
    "frozen pairs that can judge no more": Row(
        setting("evaluation", "min_components", 190, drawn), "snapshot",
        rf"carry no verdict: in \w+, \d+ components are fewer .* {NAMED}", DRAWN,
    ),
    "no snapshot": Row(ENOUGH, "leaderboard", r"no snapshot yet\. Run `flywheel snapshot`", "No model has been evaluated"),
    "no cell fits": Row(
        trained, f"grid --variant {VARIANT} --size 102400",
        r"None of the 1 cells can be trained: sizes above \d+ cannot be filled, .* Run `flywheel grid .* --size all`",
        "Next: flywheel leaderboard", f"grid --variant {VARIANT} --size all",
    ),
    "no champion and no decision": Row(
        trained, "champion", r"no champion yet\. Run .* then `flywheel champion promote`", "kept", "champion history", slow=True
    ),
    "no champion after a decision": Row(lost, "champion", r"no champion yet\. Run `flywheel evidence`", "Next:", "evidence"),
    "one size only": Row(
        after(with_labels(500, 500), "snapshot", TRAIN, "champion promote"), "evidence",
        rf"flywheel grid --variant {VARIANT}(?= At a glance)", "Next: (Twice the pairs|Promote)", slow=True,
    ),
    "an older snapshot is damaged": Row(
        damaged("manifest.json"), "cache prune",
        r"/\S+ holds no complete snapshot\. Delete that folder, then run `flywheel snapshot`", "MB freed",
    ),
    "a shared snapshot is half there": Row(
        half_shared, "leaderboard", r"is not complete: .* Upload it again: a snapshot by `flywheel snapshot`", "Next:"
    ),
    "more layers than there are": Row(
        setting("training", "recipes.top.layers", 9, few_steps), f"{TRAIN} --recipe top",
        r"Set training\.recipes\.top\.layers to 5", "Next: flywheel leaderboard", slow=True,
    ),
    "a damaged decision": Row(
        damaged_decision, "champion promote", r"is damaged, .* move /\S+ away and run `flywheel champion promote`", "kept",
        "champion history",
    ),
    "the database is none": Row(
        no_database, "pairs", r"cannot be opened as a database: .* move it away and ingest the delivered files", "interaction"
    ),
    "a store of another version": Row(
        other_version, "snapshot", r"written by another version of flywheel\. Move it away and ingest the delivered files",
        DRAWN, "snapshot",
    ),
    "an empty store": Row(empty, "pairs", r"The store is empty\. Next: flywheel ingest PATH", "What came in"),
    "a local baseline by setting": Row(
        setting("baseline", "source", "local", lost), "evidence", r"To measure the API, set baseline\.source to auto",
        "To measure the API, set OPENAI_API_KEY",
    ),
}  # fmt: skip


CASES = [pytest.param(row, id=name, marks=[pytest.mark.slow] if row.slow else []) for name, row in ROWS.items()]


@pytest.mark.parametrize("row", CASES)
def test_a_remedy_leads_on_from_the_state_in_which_it_is_named(row: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp() / "remedies"
    base.mkdir(exist_ok=True)
    place = Place(base / str(len(list(base.iterdir()))))
    row.state(place)
    said = place.say(row.command)
    match = re.search(row.said, said)
    assert match, f"{row.command} said {said!r}"
    follow(place, match[0])
    assert re.search(row.then, then := place.do(row.run or row.command)), then
    assert not re.search(row.said, then), f"the remedy is named again: {then}"


# ---- the inventory: every failure that names a command is in the table, or its remedy is followed elsewhere ----

# A piece of the sentence, and the tests that follow its remedy, or that it was followed by hand; a command that only shows
# what there is needs neither.
ELSEWHERE = {
    "run `flywheel demo` again; finished cells stay": "cli/test_demo.py",
    "was evaluated with and with": "no verb compares records of different terms",
    "`flywheel up --port N`": "by hand",
    "`flywheel up` is running on": "by hand",
    "`flywheel pairs origin TEXT` names it": "by hand",
    "Run `flywheel snapshot`, then train again on the new one": "pairs/test_snapshots.py",
    "Delete it, then run `flywheel snapshot`, which writes it again": "pairs/test_snapshots.py",
    "is damaged: . Run `flywheel snapshot`, which writes it again": "pairs/test_snapshots.py",
    "Remove the snapshot's folder and run `flywheel snapshot`": "pairs/test_snapshots.py",
    "A fresh test set takes pairs that neither": "the table: its remedy is that of the missing pairs",
    "Put a copy of it back, or name another entry": "cli/test_demo.py",
    "the champion has changed meanwhile": "registry/test_registry.py (the same call with the present champion)",
    "`flywheel champion history` lists them": "shows what there is",
    "The champion has not been evaluated on snapshot": "by hand",
    "Nothing has been evaluated on snapshot": "the table: that of the baseline",
    "under the present settings. Run `flywheel grid`": "the table: that of a candidate",
    "Train the model with `flywheel train`": "the table: that of a damaged model",
    "Delete its folder and train the model again": "the table: that of its record",
    "Set OPENAI_API_KEY and run `flywheel baseline embed`, which buys them": "pipeline/test_baseline.py",
    "`train` holds no pairs": "the table: that of pairs that are missing",
    "could not embed one text or both of every test pair": "models/test_failing_texts.py (one text, by the same command)",
    "`flywheel up` starts it again": "by hand",
    "Delete it; `flywheel grid` evaluates again": "evaluation/test_shared_records.py",
    "so nothing was dropped. Set it and run `flywheel baseline embed --again`": "pipeline/test_sane_sides.py",
}
# What an API answers, a Dagster of one's own and settings have tables of their own beside those rooms' tests.
OTHER_TABLES = ("models/api/", "orchestration/instance.py", "settings.py")


def named_commands() -> dict[str, str]:
    """The fixed words of every failure in the package that names a command, by where it is."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        where = str(file.relative_to(PACKAGE))
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        for call in calls if not where.startswith(OTHER_TABLES) else []:
            words = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            said = " ".join(" ".join(words).split())
            if getattr(call.func, "id", "") in ("FlywheelError", "Missing") and "`flywheel " in said:
                found[f"{where}:{call.lineno}"] = said
    return found


def test_every_failure_that_names_a_command_is_in_the_table_or_followed_elsewhere() -> None:
    sentences = named_commands()
    assert len(sentences) > 20
    of_rows = [re.sub(r"\\", "", piece) for row in ROWS.values() for piece in re.split(r"\.\*\??|\\[dSw]\+", row.said)]
    known = [piece for piece in of_rows if len(piece) > 15] + list(ELSEWHERE)
    new = {where: said for where, said in sentences.items() if not any(piece in said for piece in known)}
    assert not new, "add a row to ROWS that builds the state and follows the remedy"
    old = [piece for piece in ELSEWHERE if not any(piece in said for said in sentences.values())]
    assert not old, "no sentence says this any more"
