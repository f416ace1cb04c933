"""`flywheel ingest --dry-run`: how a file was understood, with settings that say the same; it stores nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from flywheel_tests.conftest import verb
from flywheel_tests.helpers.deliveries import HEADER, packed, parquet_file

RECORDS = [{"text_a": "how to sync", "text_b": "sync my files", "label": 1}, {"text_a": "c", "text_b": "d", "label": 0}]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
ROWS = b"how to sync,sync my files,1\nc,d,0\n"
GRADES = b"sentence1,sentence2,score\n" + b"".join(b"x%d,y%d,%d\n" % (i, i, i % 6) for i in range(12))

# A file, the settings it needs, and what is said of its form.
FORMS: dict[str, tuple[bytes, str, dict[str, Any]]] = {
    "a.jsonl": (LINES, "", {"format": "JSON lines", "encoding": "utf-8"}),
    "a.ndjson.gz": (packed(LINES, ".gz"), "", {"format": "JSON lines", "compression": "gzip"}),
    "a.json": (json.dumps(RECORDS, indent=2).encode(), "", {"format": "JSON array"}),
    "a.csv": (HEADER + ROWS, "", {"format": "CSV", "delimiter": ",", "quoting": "standard"}),
    "semi.csv": (b"\xef\xbb\xbf" + (HEADER + ROWS).replace(b",", b";"), "", {"delimiter": ";", "encoding": "utf-8-sig"}),
    "wide.tsv": ((HEADER + ROWS).replace(b",", b"\t").decode().encode("utf-16"), "", {"delimiter": "\t", "encoding": "utf-16"}),
    "excel.csv": (HEADER + "Stra\u00dfe,Gr\u00f6\u00dfe \u00e4ndern,1\nc,d,0\n".encode("cp1252"), "", {"encoding": "cp1252"}),
    "plain.tsv": (b'text_a\ttext_b\tlabel\n"not closed\tb\t1\n"he" said\td\t0\n', "", {"quoting": "none"}),
    "spark.csv": (HEADER + b'"he said \\"hi\\"",b,1\nc,"\\"d\\"",0\n', "", {"quoting": "backslash"}),
    "a (1)*[x]?.csv": (HEADER + ROWS, "", {"format": "CSV"}),
    "a.parquet": (parquet_file(RECORDS), "", {"format": "Parquet", "encoding": None, "delimiter": None}),
    "grades.csv": (GRADES, 'columns = {text_a = "sentence1", text_b = "sentence2", label = "score"}\ncut = 4', {}),
    "words.csv": (
        b"a,b,gold\nx,y,entailment\np,q,contradiction\nr,s,neutral\n",
        'columns = {text_a = "a", text_b = "b", label = "gold"}\nlabels = {entailment = 1, contradiction = 0}', {},
    ),
    "thumbs.csv": (
        b"input,output,value,when\nhow,so,good,1/9/2026\nwhy,thus,bad,2/9/2026\n",
        'columns = {query = "input", answer = "output", thumb = "value", time = "when"}\nconstants = {type = "thumb"}\n'
        'thumbs = {good = "up", bad = "down"}\nday_first = true', {},
    ),
    "nested.ndjson": (
        b'{"kind": "pick", "event": {"q": "how", "item": ["so"], "rank": 2}, "user": 17}\n',
        'columns = {type = "kind", query = "event.q", shown = "event.item.0", position = "event.rank"}\n'
        'types = {pick = "click"}', {},
    ),
}  # fmt: skip


def home_of(folder: Path, settings: str, name: str) -> Path:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (home / "flywheel.toml").write_text(f'[pairs]\nseed_pairs = "none"\n\n[pairs.files."{name}"]\n{settings}\n')
    return home


def dry(path: Path, home: Path) -> dict[str, Any]:
    done = verb("ingest", "--dry-run", path, "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    return dict(found)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_printed_says_how_a_file_is_read_and_pasted_into_the_settings_it_says_the_same(
    tmp_path: Path, name: str
) -> None:
    data, settings, form = FORMS[name]
    path = tmp_path / name
    path.write_bytes(data)
    home = home_of(tmp_path, settings, name)
    first = dry(path, home)
    assert {field: first[field] for field in form} == form
    assert (first["problem"], first["events"] > 0, len(first["pairs"]) == min(first["events"], 10)) == (None, True, True)
    assert first["settings"].startswith(f'[pairs.files."{name}"]\n')
    (home / "flywheel.toml").write_text('[pairs]\nseed_pairs = "none"\n\n' + first["settings"])
    again = dry(path, home)
    assert {**again, "refused": []} == {**first, "refused": []}  # a value that was unknown is then left out
    assert [kind[0] for kind in again["refused"]] == [kind[0] for kind in first["refused"]]
    assert not list(home.glob("*.duckdb*"))
    stored = json.loads(verb("ingest", path, "--home", home, "--json").stdout)
    assert (stored["lines"], stored["accepted"]) == (first["lines"], first["events"])


def test_a_dry_run_makes_nothing_in_a_home_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(HEADER + ROWS)
    said = verb("ingest", "--dry-run", tmp_path / "a.csv", "--home", tmp_path / "home")
    assert said.returncode == 0
    assert not (tmp_path / "home").exists() or not any((tmp_path / "home").rglob("*"))
    for words in (
        "CSV, utf-8, delimiter ','",
        "label: 0 (1) is different, 1 (1) is same",
        "'how to sync' | 'sync my files'",
        "Nothing was",
    ):
        assert words in said.stdout
    assert '[pairs.files."a.csv"]' in said.stdout


def test_only_the_first_ten_pairs_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(HEADER + b"".join(b"x%d,y%d,1\n" % (i, i) for i in range(30)))
    found = dry(tmp_path / "a.csv", tmp_path / "home")
    assert [pair["line"] for pair in found["pairs"]] == list(range(2, 12))
    assert (found["events"], found["header"]) == (30, 1)


def test_a_file_that_would_be_refused_shows_its_problem_and_what_was_understood(tmp_path: Path) -> None:
    (tmp_path / "grades.csv").write_bytes(GRADES)
    home = home_of(tmp_path, 'columns = {text_a = "sentence1", text_b = "sentence2", label = "score"}', "grades.csv")
    done = verb("ingest", "--dry-run", tmp_path / "grades.csv", "--home", home, "--json")
    (found,) = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["problem"].startswith("grades.csv: score holds ")
    assert found["problem"] in " ".join(done.stderr.split())
    assert (found["delimiter"], found["columns"]["label"]) == (",", "score")
    assert ["5", 2, None] in found["values"]["label"]
    said = verb("ingest", "--dry-run", tmp_path / "grades.csv", "--home", home)
    assert (said.returncode, "5 (2) is not known" in said.stdout, "Next:" in said.stdout) == (1, True, False)


def test_files_that_cannot_be_understood_keep_none_from_being_shown(tmp_path: Path) -> None:
    contents = {"a.csv": HEADER + ROWS, "array.jsonl": b"[{}]", "theirs.csv": b"q1,q2\na,b\n", "b.jsonl": LINES}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    done = verb("ingest", "--dry-run", *(tmp_path / name for name in contents), "--home", tmp_path / "home", "--json")
    found = {each["file"]: each for each in json.loads(done.stdout)}
    assert done.returncode == 1
    assert {name: each["events"] for name, each in found.items()} == {
        "a.csv": 2,
        "array.jsonl": 0,
        "theirs.csv": 0,
        "b.jsonl": 2,
    }
    assert "one JSON array" in found["array.jsonl"]["problem"]
    assert "none called text_a or query" in found["theirs.csv"]["problem"]
    said = verb("ingest", "--dry-run", *(tmp_path / name for name in contents), "--home", tmp_path / "home")
    assert (said.returncode, said.stdout.count("Nothing was stored")) == (1, 2)
    missing = verb("ingest", "--dry-run", tmp_path / "missing.csv", "--home", tmp_path / "home", "--json")
    assert (missing.returncode, "missing.csv is not a file" in " ".join(missing.stderr.split())) == (1, True)


def test_a_folder_of_part_files_is_shown_part_by_part_and_its_settings_name_the_folder(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "export").mkdir(exist_ok=True)
        (tmp_path / "export" / f"part-{number}.csv").write_bytes(HEADER + b"x%d,y,%d\n" % (number, number))
    done = verb("ingest", "--dry-run", tmp_path / "export", "--home", tmp_path / "home", "--json")
    found = json.loads(done.stdout)
    assert [each["file"] for each in found] == ["export/part-0.csv", "export/part-1.csv"]
    assert found[0]["settings"] == found[1]["settings"]
    home = home_of(tmp_path, "", "other.csv")
    (home / "flywheel.toml").write_text(found[0]["settings"])
    again = verb("ingest", "--dry-run", tmp_path / "export", "--home", home, "--json")
    assert json.loads(again.stdout) == found


def test_what_is_redacted_before_storing_is_not_shown_either(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(HEADER + b"write to ann@example.com,b,1\nc,d,0\n")
    home = tmp_path / "home"
    home.mkdir()
    (home / "flywheel.toml").write_text('[pairs]\nredact = ["email"]\n')
    for as_json in ([], ["--json"]):
        said = verb("ingest", "--dry-run", tmp_path / "a.csv", "--home", home, *as_json)
        assert (said.returncode, "ann@example" in said.stdout + said.stderr) == (0, False)
