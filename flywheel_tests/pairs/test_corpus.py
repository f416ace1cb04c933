"""A corpus is read in any of its forms, in bounded memory, and what is wrong with it is said with its place."""

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flywheel.errors import FlywheelError
from flywheel.pairs.corpus.source import open_corpus
from flywheel.pairs.corpus.survey import Survey, survey
from flywheel_tests.helpers.corpora import KINDS, some_texts, write_corpus

TEXTS: list[str | None] = [*some_texts(300), None, "  ", ""]
IDS: list[object] = [10 * n for n in range(len(TEXTS))]


def surveyed(path: Path, scratch: Path, **columns: Any) -> Survey:
    return survey(open_corpus(path, **columns), scratch / "scratch", "256MB")


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_rows_from_any_row_on(kind: str, tmp_path: Path) -> None:
    corpus = open_corpus(write_corpus(tmp_path, kind, IDS, TEXTS))
    for skip in (0, 1, 96, 97, 98, 150):
        ids = [each for piece in range(len(corpus.pieces)) for b in corpus.batches(piece, skip) for each in b["id"].to_pylist()]
        per_piece = len(IDS) // 2 if kind == "folder" else len(IDS)
        expected = IDS[skip:] if kind != "folder" else [*IDS[skip:per_piece], *IDS[per_piece + skip :]]
        assert ids == expected


def test_the_fingerprint_is_of_ids_and_texts_whatever_they_lie_in(tmp_path: Path) -> None:
    found = {kind: surveyed(write_corpus(tmp_path / kind, kind, IDS, TEXTS), tmp_path) for kind in KINDS}
    assert len({each.fingerprint for each in found.values()}) == 1
    assert {(each.texts, each.empty, sum(each.rows)) for each in found.values()} == {(300, 3, 303)}
    assert found["parquet"].empty_places == ("row 301", "row 302", "row 303")
    assert found["jsonl"].empty_places == ("line 601", "line 603", "line 605")
    assert found["folder"].empty_places[0] == "row 150 of b.parquet"
    shifted = [*TEXTS[:2], str(TEXTS[2]) + str(TEXTS[3])[0], str(TEXTS[3])[1:], *TEXTS[4:]]
    others = {
        "moved": ([*IDS[1::-1], *IDS[2:]], TEXTS), "shifted": (IDS, shifted), "emptied": (IDS, [*TEXTS[:-1], None]),
        "named": ([str(each) for each in IDS], TEXTS),
    }  # fmt: skip
    prints = {surveyed(write_corpus(tmp_path / name, "parquet", *rows), tmp_path).fingerprint for name, rows in others.items()}
    assert len(prints - {found["parquet"].fingerprint}) == len(others)


def test_ids_that_occur_twice_are_named_with_their_places(tmp_path: Path) -> None:
    ids = [f"doc {n}" for n in range(20_000)]
    ids[17_000], ids[9_000] = ids[5], ids[6]
    path = write_corpus(tmp_path, "folder", [*ids], [f"text {n}" for n in range(len(ids))])
    with pytest.raises(FlywheelError, match=r"'doc 5' .* row 6 of a.parquet and at row 7,001 of b.parquet; 1 more"):
        surveyed(path, tmp_path)
    assert not list((tmp_path / "scratch").iterdir())


WRONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no id": ([{"id": 1, "text": "a"}, {"id": None, "text": "b"}], "Line 2 of .* has no id"),
    "no field": ([{"id": 1, "text": "a"}, {"id": 2, "txt": "b"}], "Line 2 of .* no field 'text'; it has id, txt"),
    "a number for a text": ([{"id": 1, "text": "a"}, {"id": 2, "text": 2.5}], "Line 2 of .* a float where its text belongs"),
    "ids of two kinds": ([{"id": 1, "text": "a"}, {"id": "2", "text": "b"}], "Line 2 of .* '2' as its id"),
    "true as an id": ([{"id": True, "text": "a"}], "Line 1 of .* True as its id"),
    "an enormous id": ([{"id": 2**64 - 1, "text": "a"}], "larger than 64 bits"),
    "no text at all": ([{"id": 1, "text": ""}, {"id": 2, "text": None}], "holds no text"),
    "two texts": ([{"id": 1, "text": "a", "content": "b"}], "text and content could all be the texts.*--text"),
    "no texts": ([{"id": 1, "words": "a"}], "none is plainly the texts.*--text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_line_is_said_with_its_number(name: str, tmp_path: Path) -> None:
    rows, sentence = WRONG[name]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(FlywheelError, match=sentence):
        surveyed(tmp_path / "corpus.jsonl", tmp_path)


NOT_UTF8 = pa.Array.from_buffers(pa.string(), 1, [*pa.array(["a"]).buffers()[:2], pa.py_buffer(b"\xff")])
COLUMNS: dict[str, tuple[pa.Table, str]] = {
    "floats for ids": (pa.table({"id": [1.0, 2.0], "text": ["a", "b"]}), "ids of .* are of type double"),
    "a null id": (pa.table({"id": [1, None], "text": ["a", "b"]}), "Row 2 of .* has no id"),
    "numbers for texts": (pa.table({"id": [1, 2], "text": [1, 2]}), "texts of .* are of type int64.*--text"),
    "not UTF-8": (pa.table({"id": [1], "text": NOT_UTF8}), "not valid UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_other_types_are_refused(name: str, tmp_path: Path) -> None:
    table, sentence = COLUMNS[name]
    pq.write_table(table, tmp_path / "corpus.parquet")
    with pytest.raises(FlywheelError, match=sentence):
        surveyed(tmp_path / "corpus.parquet", tmp_path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "broken.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": 2,')
    (tmp_path / "broken.jsonl.gz").write_bytes(b"\x1f\x8bnothing")
    (tmp_path / "broken.duckdb").write_bytes(b"nothing" * 1000)
    (tmp_path / "notes.txt").write_text("nothing")
    for name in ("broken.parquet", "broken.jsonl", "broken.jsonl.gz", "broken.duckdb", "notes.txt", "gone.parquet"):
        with pytest.raises(FlywheelError, match=name):
            surveyed(tmp_path / name, tmp_path)


def test_what_is_by_custom_no_data_is_left_out_of_a_folder(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, "folder", [1, 2], ["a", "b"])
    for name in ("_delta_log/1.checkpoint.parquet", ".hidden.parquet", "notes.txt", "_SUCCESS"):
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).write_text("no corpus")
    (corpus / "year=2026").mkdir()
    write_corpus(corpus / "year=2026", "jsonl", [3], ["c"])
    assert open_corpus(corpus).pieces == ("a.parquet", "b.parquet", "year=2026/corpus.jsonl")
    assert surveyed(corpus, tmp_path).texts == 3


def test_a_table_is_guessed_or_asked_for(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, "duckdb", [1, 2], ["a", "b"])
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE VIEW recent AS SELECT uuid() AS uuid, text AS body FROM docs")
    with pytest.raises(FlywheelError, match=r"has the tables docs, recent\. Name one with --table"):
        open_corpus(path)
    with pytest.raises(FlywheelError, match="has no table 'doc'; it has docs, recent"):
        open_corpus(path, table="doc")
    assert open_corpus(path, table="docs").id_column == "id"
    assert surveyed(path, tmp_path, table="recent").texts == 2
    with pytest.raises(FlywheelError, match="has no column 'txt'; it has id, text, other"):
        open_corpus(path, table="docs", text_column="txt")


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    used = []
    for rows in (20_000, 100_000):
        words = random.Random(0)
        table = pa.table({"id": range(rows), "text": [f"text {words.random()} {words.random()}" for _ in range(rows)]})
        pq.write_table(table, tmp_path / f"{rows}.parquet", row_group_size=8192)
        del table
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        highest = 0

        def look(_: int) -> None:
            nonlocal highest
            highest = max(highest, pa.total_allocated_bytes() - before)  # noqa: B023

        survey(open_corpus(tmp_path / f"{rows}.parquet"), tmp_path / "scratch", "64MB", look)
        used.append((tracemalloc.get_traced_memory()[1], highest))
        tracemalloc.stop()
    (python, arrow), (python_more, arrow_more) = used
    assert python_more < 1.5 * python + 2**20
    assert arrow_more < 1.5 * arrow + 2**20
