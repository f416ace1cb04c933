"""Rows of CSV and TSV files: whatever their quotes do, a line costs itself at most, and nothing is swallowed or made up.

Every physical line of a file is its header, goes on with a record, is stored, known already, or quarantined under its number.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.pairs.events.coding import toml
from flywheel.pairs.events.lines import Line, Unreadable
from flywheel.pairs.events.readers import understand
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.conftest import examples, verb
from flywheel_tests.helpers.deliveries import HEADER, check, clean, read, refused, take, texts

UNCLOSED = b'"never,closed,1\n'


@pytest.mark.parametrize("good", [b"a,b,1\n", b'"a","b",1\n', b'"a","b","1"\n'], ids=["bare", "quoted", "all quoted"])
@pytest.mark.parametrize("place", [0, 3, 6], ids=["first", "middle", "last"])
@pytest.mark.parametrize("unclosed", [UNCLOSED, b'never,"closed,1\n', b'never,closed,"1\n'], ids=["1st", "2nd", "3rd"])
def test_a_quote_that_never_closes_costs_its_own_line(tmp_path: Path, good: bytes, place: int, unclosed: bytes) -> None:
    found = read(tmp_path, HEADER + good * place + unclosed + good * (6 - place), "batch.csv")
    assert [each.number for each in found] == list(range(2, 9))
    stray = found.pop(place)
    if b'"' not in good and unclosed.endswith(b",1\n"):  # where nothing else is quoted, it is a character like any other
        assert stray.record == dict(zip(("text_a", "text_b", "label"), unclosed.decode().rstrip().split(","), strict=True))
    else:
        assert isinstance(stray, Unreadable)
        assert ("quote" in stray.reason, stray.raw) == (True, unclosed.rstrip())
    assert {(tuple(each.record.items()), each.raw) for each in found} == {
        ((("text_a", "a"), ("text_b", "b"), ("label", "1")), good.rstrip())
    }


def test_a_quote_that_never_closes_costs_its_own_line_in_a_long_file_too(store: Store) -> None:
    taken = take(store, HEADER + (b'"a",b,1\n' * 150 + UNCLOSED) * 2 + b"a,b,1\n" * 150, "batch.csv")
    assert sorted(taken.reasons) == [151, 302]
    assert (taken.report.lines, taken.report.header, taken.report.continuation) == (453, 1, 0)


def test_a_line_with_too_many_or_too_few_fields_is_refused(store: Store) -> None:
    lines = [
        (b"a,b,1", None),
        (b"a,b", "2 cells"),
        (b"a,b,1,", "4 cells"),
        (b"a,b,1,0", "4 cells"),
        (b"", "blank"),
        (b"  ", "blank"),
        (b",,", "text_a is empty"),
        (b"a;b;1", "1 cells"),
        (b'"a\n\nb",c,1', None),
        (b'"a ""quoted"" word",b,1', None),
        (b'say "hi",b,1', None),
        (b"a\rb,c,1", ""),
        (b"a\0,b,1", "NUL"),
        (b'"a', "quote"),
        (b'b\0",c,1', "NUL"),
        (b"a,b,1", None),
    ]
    check(take(store, HEADER + b"\n".join(text for text, _ in lines), "batch.csv"), [reason for _, reason in lines])


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"\n", "header"),
        (b"\n" + HEADER, "header"),
        (b'"text_a,text_b,label\n', "header"),
        (HEADER.replace(b"\n", b"\r") + b'"a\nb",c,1\r', "header"),
        (b"\xe9" + HEADER, "none called text_a or query"),
        (b"a,b,1\n", "none called text_a or query"),
        (b"TEXT_A,TEXT_B,LABEL\n", "none called text_a or query"),
        (b"text_a,text_a,text_b,label\n", "text_a"),
        (b"text_a,text_b,label, label\n", "label"),
    ],
)
def test_a_header_that_names_no_columns_of_ours_refuses_the_file(store: Store, header: bytes, says: str) -> None:
    assert says in refused(store, header + b"a,b,1\n" * 3, "batch.csv")


# ---- quotes that are plain characters, and others that are not ----

ORDINARY = [f"question {i},other {i},{i % 2}\n".encode() for i in range(20)]
QUOTED = [f'"one, {i}","other ""{i}""",{i % 2}\n'.encode() for i in range(20)]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("cell", range(2))
@pytest.mark.parametrize("place", [0, 10, 20])
def test_a_stray_quote_and_an_inch_mark_swallow_nothing(tmp_path: Path, delimiter: str, cell: int, place: int) -> None:
    stray = [b'"can not log in,says no,1\n', b'can not log in,"says no,1\n'][cell]
    lines = [*ORDINARY[:place], stray, *ORDINARY[place:], b'monitor of 12",other,1\n', b'other,27",0\n', b"last,row,1\n"]
    data = b"".join([HEADER, *lines]).replace(b",", delimiter.encode())
    found = read(tmp_path, data, "batch.csv")
    assert [each.number for each in found] == list(range(2, len(lines) + 2))
    assert [list(each.record.values()) for each in found] == [line.decode().rstrip().split(",") for line in lines]


@pytest.mark.parametrize("between", range(4))
def test_a_stray_quote_is_refused_where_other_quotes_do_their_work(tmp_path: Path, between: int) -> None:
    lines = [*QUOTED[:10], b'"can not log in,says no,1\n', *ORDINARY[:between], b'12",other,1\n', *QUOTED[10:]]
    found = read(tmp_path, b"".join([HEADER, *lines]), "batch.csv")
    refused_lines = [each.number for each in found if isinstance(each, Unreadable)]
    assert refused_lines == [12, 13 + between]  # the second may be the end of a text that the first began
    assert [each.number for each in found] == list(range(2, len(lines) + 2))
    assert found[0].record == {"text_a": "one, 0", "text_b": 'other "0"', "label": "0"}


@pytest.mark.parametrize("between", range(2, 5))
@pytest.mark.parametrize("end", [b'"",",other\n', b'""how\n\n",other\n'])
def test_where_no_label_tells_rows_apart_two_damaged_rows_swallow_none(tmp_path: Path, between: int, end: bytes) -> None:
    rows = b"".join(b"question %d,other %d\n" % (i, i) for i in range(between))
    found = read_as_duplicates(tmp_path, b'text_a,text_b\n"stray,other\n' + rows + end + b"last,row\n")
    whole = [each.number for each in found if isinstance(each, Line) and len(each.record) == 2 and each.span == 1]
    assert {*range(3, between + 3), between + 3 + end.count(b"\n")} <= set(whole)


@pytest.mark.parametrize("between", range(1, 4))
def test_where_no_label_tells_rows_apart_a_stray_quote_swallows_none(tmp_path: Path, between: int) -> None:
    lines = [b'"can not log in,says no\n', *(f"question {i},other {i}\n".encode() for i in range(between)), b'12",other\n']
    found = read_as_duplicates(tmp_path, b"text_a,text_b\n" + b"".join(lines) + b"last,row\n")
    assert [each.number for each in found] == list(range(2, between + 5))
    assert [list(each.record.values()) for each in found][-1] == ["last", "row"]


def test_rows_that_a_coding_leaves_out_are_not_swallowed_either(tmp_path: Path) -> None:
    said = PairOptions(labels={"entailment": 1, "contradiction": 0})
    lines = b'"stray,b,neutral\nx,y,neutral\n12",z,entailment\n' + b'"p, q",r,contradiction\n' * 3
    (tmp_path / "batch.csv").write_bytes(HEADER + lines)
    (found,) = understand([tmp_path / "batch.csv"], ["batch.csv"], said)
    assert [each.number for each in found.batch.lines] == list(range(2, 8))


def test_backslashes_before_quotes_are_read_as_spark_writes_them(store: Store) -> None:
    rows: list[tuple[bytes, set[str]]] = [
        (rb'"he said \"hi\", twice",b,1', {'he said "hi", twice', "b"}),
        (rb'c,"\"quoted\"",0', {"c", '"quoted"'}),
        (rb'"C:\new \"x\"",d,1', {'C:\\new "x"', "d"}),
        (rb'"a, path C:\temp\\",e,1', {"a, path C:\\temp\\", "e"}),
        (rb'"ends in \"",f,0', {'ends in "', "f"}),
        (rb"bare \"quotes\",g,1", {'bare "quotes"', "g"}),
    ]
    taken = take(store, HEADER + b"\n".join(row for row, _ in rows), "batch.csv")
    check(taken, [None] * len(rows))
    assert [texts(taken.only(number)) for number in range(1, 7)] == [expected for _, expected in rows]


def test_quotes_are_read_as_the_settings_say(store: Store) -> None:
    data = HEADER + b'"a",b,1\n"c, d",e,1\n'
    taken = take(store, data, "batch.csv", PairOptions(quoting="none", max_refused=1.0))
    check(taken, [None, "4 cells"])
    assert texts(taken.only(1)) == {'"a"', "b"}
    check(take(store, data, "batch.csv", PairOptions(quoting="standard")), [None, None])


def test_quotes_that_are_plain_though_most_look_otherwise_are_read_after_doing_what_the_refusal_says(tmp_path: Path) -> None:
    path, home = tmp_path / "titles.tsv", tmp_path / "home"
    rows = [b'"title %d"\tabout %d\t1\n' % (i, i) for i in range(4)] + [b'"he" said %d\tshe said\t0\n' % i for i in range(3)]
    path.write_bytes(HEADER.replace(b",", b"\t") + b"".join(rows))
    asked = verb("ingest", path, "--home", home)
    setting = "pairs.quoting = " + asked.stdout.partition("pairs.quoting = ")[2].split()[0]
    (home / "flywheel.toml").write_text(setting + "\n")
    done = verb("ingest", path, "--home", home, "--json")
    assert (done.returncode, json.loads(done.stdout)["accepted"]) == (0, 7)


# ---- lines and records ----


def test_a_record_may_be_on_several_lines(store: Store) -> None:
    taken = take(store, HEADER + b'"one\ntwo, three\n\nfour",b,1\nplain,row,0\n"ends in a line\n",c,1\n', "batch.csv")
    check(taken, [None] * 3)
    assert texts(taken.only(1)) == {"one two, three four", "b"}
    assert (taken.report.lines, taken.report.header, taken.report.continuation) == (8, 1, 4)


def test_lines_within_a_text_that_look_nearly_like_rows_are_text(store: Store) -> None:
    taken = take(store, HEADER + b'"see:\na,b\na,b,c\na,b,1,2\n,,1\nend",b,1\n', "batch.csv")
    check(taken, [None])
    assert texts(taken.only(1)) == {"see: a,b a,b,c a,b,1,2 ,,1 end", "b"}


def test_a_header_may_be_on_two_lines_and_below_a_line_that_names_the_delimiter(store: Store) -> None:
    said = PairOptions(columns={"text_a": "first\ntext", "text_b": "second"})
    for begin in (b"", b"sep=;\r\n", b"SEP=;\n"):
        data = begin + b'"first\ntext";second;label\r\n"a; b";c;1\r\nbad;row;7\r\n\r\n'
        taken = take(store, data, "batch.csv", said)
        check(taken, [None, "none of 1 or 0", "blank"])
        assert taken.report.header == 2 + bool(begin)
        assert texts(taken.only(1)) == {"a; b", "c"}


def test_a_damaged_record_of_several_lines_leaves_no_row_made_of_its_rest(tmp_path: Path) -> None:
    for damaged in (b'""one\ntwo",b,1\n', b'one\ntwo",b,1\n', b'"one"\ntwo",b,1\n', b'"one\nx,y,1\ntwo",b,1\n'):
        found = read(tmp_path, HEADER + b"".join(QUOTED[:5]) + damaged + b"".join(QUOTED[5:]), "batch.csv")
        numbers = {each.number for each in found if isinstance(each, Line) and len(each.record) == 3}
        allowed = {*range(2, 7), *range(7 + damaged.count(b"\n"), 22 + damaged.count(b"\n"))}
        assert numbers - {8} == allowed if b"x,y,1" in damaged else numbers == allowed


def test_a_cell_without_a_value_is_none(store: Store) -> None:
    taken = take(store, b"text_a,text_b,label,user\na,b,1,\\N\n\\N,b,1,u\nc,d,1, \n", "batch.csv")
    check(taken, [None, "text_a is empty", None])
    assert [taken.only(number)["user_id"] for number in (1, 3)] == [None, None]


def test_two_files_of_duplicates_without_a_label_need_no_more_than_a_constant(tmp_path: Path) -> None:
    found = read_as_duplicates(tmp_path, b'label_free,text_a,text_b\n1,"hello, you\nthere",b\n')
    assert found[0].record["text_a"] == "hello, you\nthere"


def read_as_duplicates(folder: Path, data: bytes) -> list[Any]:
    (folder / "batch.csv").write_bytes(data)
    (found,) = understand([folder / "batch.csv"], ["batch.csv"], PairOptions(constants={"type": "duplicate"}))
    return list(found.batch.lines)


# ---- random files of known rows ----

LAYOUTS = [
    ("text_a", "text_b", "label"), ("label", "text_a", "text_b"), ("text_a", "label", "text_b"),
    ("id", "text_a", "text_b", "label", "note"), ("text_a", "text_b"),
]  # fmt: skip
PIECES = [
    "how",
    "to",
    "log in",
    '5"',
    '"',
    '""',
    ",",
    ";",
    "\t",
    "|",
    "\n",
    '"x"',
    "\u00e9",
    "don't",
    "a, b",
    'say "hi"',
    "\n\n",
]
WIDE = ["\u0416", "\u65e5\u672c", "\U0001f600", "\u05e9", "\\", "C:\\new", "\u2028", "1", "0", "same"]
plain = st.integers(0, 9999).map(lambda n: f"plain question {n}")
ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


def texts_of(pieces: Sequence[str]) -> st.SearchStrategy[str]:
    joined = st.lists(st.sampled_from(pieces) | st.sampled_from([" ", "x"]), min_size=1, max_size=6).map("".join)
    return joined.filter(lambda text: bool(clean(text)))


@dataclass(frozen=True)
class RandomFile:
    """A file, its rows with the line that each begins on, and which of them were damaged afterwards."""

    data: bytes
    encoding: str
    delimiter: str
    layout: tuple[str, ...]
    rows: dict[int, tuple[int, dict[str, str]]]
    damaged: frozenset[int]
    lines: int


@st.composite
def random_files(draw: st.DrawFn, most_damaged: int) -> RandomFile:
    encoding = draw(st.sampled_from(ENCODINGS))
    wild = texts_of(PIECES if encoding == "cp1252" else PIECES + WIDE)
    layout, delimiter = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(",\t;|"))
    text = draw(st.sampled_from([plain, plain | wild, wild]))
    kinds = {"label": st.sampled_from([0, 1]), "id": st.integers(0, 99)}
    records = draw(st.lists(st.tuples(*(kinds.get(name, text) for name in layout)), min_size=6, max_size=25))
    style = {"quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))}
    end = draw(st.sampled_from(["\n", "\r\n"]))
    written = [one_row(layout, delimiter, end, **style), *(one_row(each, delimiter, end, **style) for each in records)]
    # Where no label tells rows apart, two damaged quotes can make a record that nobody could tell from a sound one.
    most = most_damaged if "label" in layout else min(most_damaged, 1)
    damaged = draw(st.sets(st.integers(1, len(records)), max_size=most))
    for which in damaged:
        body = written[which].removesuffix(end)
        spots = [0, len(body), *(i for i, each in enumerate(body) if each in delimiter + '"')]
        place = draw(st.sampled_from(spots) | st.integers(0, len(body)))
        stray = body[:place] + '"' + body[place:]
        written[which] = draw(st.sampled_from([stray, stray, body[:place] + body[place + 1 :], body[:place]])) + end
    number, rows = 1, {}
    for which, (record, row) in enumerate(zip([layout, *records], written, strict=True)):
        if which and which not in damaged:
            rows[number] = (row.count("\n"), {name: clean(str(cell)) for name, cell in zip(layout, record, strict=True)})
        number += row.count("\n")
    data = "".join(written).encode(encoding)
    return RandomFile(data, encoding, delimiter, layout, rows, frozenset(damaged), number - 1)


def one_row(cells: Sequence[Any], delimiter: str, end: str, **style: Any) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, **style).writerow(cells)
    return text.getvalue()


def options_for(file: RandomFile) -> PairOptions:
    said = {} if "label" in file.layout else {"constants": {"type": "duplicate"}}
    return PairOptions(max_refused=1.0, encoding="cp1252" if file.encoding == "cp1252" else None, **said)


def faults(file: RandomFile, found: Sequence[Line | Unreadable], header: int) -> list[str]:
    """What became of rows that were not damaged, other than that they came back exactly or were refused by themselves."""
    by_line = {each.number: each for each in found}
    spans = [each.span if isinstance(each, Line) else 1 for each in found]
    wrong = [] if header + sum(spans) == file.lines else [f"{header} and {sum(spans)} of {file.lines} lines"]
    for number, (span, record) in file.rows.items():
        line = by_line.get(number)
        if isinstance(line, Unreadable):
            event("an undamaged row is refused")
        elif line is None:
            wrong.append(f"{number} is swallowed")
        elif (line.span, {name: clean(cell) for name, cell in line.record.items()}) != (span, record):
            wrong.append(f"{number} is {line}, not {record}")
        else:
            within = [each for each in found if number < each.number < number + span]
            wrong += [f"{each} is a part of {number}" for each in within]
    return wrong


@hypothesis_settings(max_examples=examples(300), deadline=None)
@given(file=random_files(most_damaged=3))
def test_rows_beside_damaged_ones_come_back_exactly_or_are_refused_by_themselves(
    tmp_path_factory: pytest.TempPathFactory, file: RandomFile
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.csv"
    path.write_bytes(file.data)
    (found,) = understand([path], [path.name], options_for(file))
    assert (found.form.delimiter, found.form.columns) == (file.delimiter, file.layout)
    assert faults(file, list(found.batch.lines), found.batch.header) == []


@hypothesis_settings(max_examples=examples(200), deadline=None)
@given(file=random_files(most_damaged=0))
def test_rows_that_were_written_properly_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, file: RandomFile) -> None:
    path = tmp_path_factory.getbasetemp() / "proper.csv"
    path.write_bytes(file.data)
    (found,) = understand([path], [path.name], options_for(file))
    lines = list(found.batch.lines)
    # Only a text that holds a whole row on a line of its own is not believed.
    refused_lines = {each.number: each.reason for each in lines if isinstance(each, Unreadable)}
    assert all("rows themselves" in reason for number, reason in refused_lines.items() if number in file.rows)
    assert refused_lines or [each.number for each in lines] == list(file.rows)
    assert faults(file, lines, found.batch.header) == []


@hypothesis_settings(max_examples=examples(15), deadline=None)
@given(file=random_files(most_damaged=2))
def test_through_the_verb_every_line_of_a_random_file_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, file: RandomFile
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "random.csv").write_bytes(file.data)
    said = {"max_refused": 1.0, **({} if "label" in file.layout else {"constants": {"type": "duplicate"}})}
    said |= {"encoding": "cp1252"} if file.encoding == "cp1252" else {}
    lines = [f"{name} = {toml(value)}" for name, value in said.items()]
    (home / "flywheel.toml").write_text("\n".join(["[pairs]", *lines]))
    done = verb("ingest", home / "random.csv", "--home", home, "--json")
    counts = json.loads(done.stdout)
    if counts["rejected"]:  # every line is refused for one reason
        assert done.returncode == 1
        return
    records = counts["accepted"] + counts["duplicates"] + counts["quarantined"]
    assert (done.returncode, counts["lines"]) == (0, file.lines)
    assert records + counts["header"] + counts["continuation"] == file.lines
    store = Store(home / "flywheel.duckdb")
    with store.transaction() as db:
        stored = {line: (a, b) for line, a, b in db.execute("SELECT line, text_a, text_b FROM observations").fetchall()}
        quarantined = {line for (line,) in db.execute("SELECT line FROM quarantine").fetchall()}
    for number, (_, record) in file.rows.items():
        assert number in quarantined or set(stored[number]) == {record["text_a"], record["text_b"]}
