"""What the values of a column mean: read as a whole first, never stored inverted or by chance, and asked for by a setting.

Every refusal names the user's column, the values, where they stand, and a setting; here that setting is put into the home as
the sentence has it, and the file is then read.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.coding import THUMBS, Coding, Column, judge, written
from flywheel.pairs.events.readers import understand
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.conftest import verb
from flywheel_tests.helpers.deliveries import KINDS, contents, file_of, json_file, refused, table_file, take
from flywheel_tests.pairs.test_ingest import rows


def labelled(labels: Sequence[Any], name: str = "label") -> list[dict[str, Any]]:
    return [{"text_a": f"one {n}", "text_b": f"other {n}", name: label} for n, label in enumerate(labels)]


def judged(folder: Path, records: Sequence[Mapping[str, Any]], suffix: str = ".jsonl", **said: Any) -> str | None:
    """The sentence that refuses a file for the coding of its columns, if it is refused; without a store."""
    path = folder / f"batch{suffix}"
    path.write_bytes(file_of(records, suffix))
    try:
        for each in understand([path], [path.name], PairOptions(**said)):
            each.judge()
    except UnreadableFileError as error:
        return str(error)
    return None


# ---- what is another coding, as a whole column ----

FOREIGN: dict[str, Sequence[Any]] = {
    "grades 0 to 5": [0.0, 1.0, 2.5, 5.0, 3.8, 1.0],
    "grades 0 to 5, whole": [0, 1, 2, 3, 4, 5],
    "grades 1 to 5": [1, 2, 3, 4, 5, 1],
    "grades 1 or 5": [1, 5, 1, 5],
    "grades 0 to 10": [0, 1, 7, 10, 3],
    "grades 0 to 100": [0, 1, 55, 100, 87],
    "percent": ["0%", "1%", "87%", "100%"],
    "shares": [0.0, 1.0, 0.5, 0.93],
    "cosines": [-1.0, 1.0, 0.2, -0.4],
    "1 and -1": [1, -1, 1, -1],
    "1 and 2": [1, 2, 1, 2],
    "entailment codes": [0, 1, 2, 0, 1, 2],
    "entailment codes and -1": [0, 2, -1, 1],
    "entailment codes, two of them": [0, 2, 0, 2],
    "entailment words": ["entailment", "neutral", "contradiction"],
    "yes and no": ["yes", "no", "yes", "no"],
    "Y and N": ["Y", "N", "Y"],
    "ja und nein": ["ja", "nein", "ja"],
    "да и нет": ["да", "нет", "да"],
    "はい": ["はい", "いいえ", "はい"],
    "gleich": ["gleich", "verschieden", "gleich"],
    "paraphrase": ["paraphrase", "not_paraphrase", "paraphrase"],
    "lists": [[1], [0], [1]],
    "objects": [{"choice": "same"}, {"choice": "different"}],
    "times": ["2026-01-01", "2026-01-02"],
    "a rare third class": [0] * 900 + [1] * 95 + [2] * 5,
    "a class seen once in ten": [1, 0, 1, 0, 1, 0, 1, 0, 1, 2],
    "a rare high grade": [0] * 900 + [1] * 97 + [10] * 3,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_coding_is_refused_and_its_values_are_named(tmp_path: Path, name: str) -> None:
    labels = FOREIGN[name]
    sentence = judged(tmp_path, labelled(labels, "verdict"), columns={"label": "verdict"}) or ""
    outside = next(label for label in labels if written(label) not in ("0", "1"))
    line = labels.index(outside) + 1
    assert sentence.startswith("batch.jsonl: verdict holds ")
    assert f"{written(outside)} (line {line})" in sentence
    assert "Nothing of it was stored." in sentence
    assert '[pairs.files."batch.jsonl"]' in sentence


KNOWN: dict[str, Sequence[Any]] = {
    "0 and 1": [0, 1, 1], "floats": [0.0, 1.0, 1.0], "texts": ["0", "1", " 1.0 "], "all the same": [1, 1, 1],
    "booleans": [False, True, True], "pandas": ["False", "True", "TRUE"], "words": ["different", "same", "Same "],
    "mixed words": ["0", "same", True], "gaps": [0, None, 1, "", 1],
    "one typo in ten": [1, 0, 1, 0, 1, 0, 1, 0, 1, 11],
    "one typo in a thousand": [0] * 500 + [1] * 499 + [11], "one slip of words": [0, 1, 1, 0, "unsure"],
    "slips in a large file": [1, 0] * 20_000 + [2] * 4,
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_coding_is_read_whatever_writes_it_and_slips_are_left_to_their_lines(tmp_path: Path, name: str) -> None:
    assert judged(tmp_path, labelled(KNOWN[name])) is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", ["grades 0 to 5", "1 and 2", "entailment codes", "entailment words", "shares", "cosines"])
def test_it_is_so_in_every_format(tmp_path: Path, name: str, suffix: str) -> None:
    assert "label holds" in str(judged(tmp_path, labelled(FOREIGN[name]), suffix))


PARQUET = {
    "booleans": (pa.array([True, False, None]), [1, 0, None]),
    "decimals": (pa.array([Decimal("1.00"), Decimal("0.00"), None]), [1, 0, None]),
    "float32": (pa.array([1.0, 0.0, None], pa.float32()), [1, 0, None]),
    "a dictionary": (pa.array(["same", "different", None]).dictionary_encode(), [1, 0, None]),
    "graded decimals": (pa.array([Decimal("1.00"), Decimal("0.00"), Decimal("0.50")]), None),
    "a dictionary of other words": (pa.array(["yes", "no", "yes"]).dictionary_encode(), None),
    "lists": (pa.array([[1], [0], [1]]), None),
}


@pytest.mark.parametrize("name", PARQUET)
def test_a_column_of_parquet_is_its_values_whatever_its_type(store: Store, name: str) -> None:
    column, labels = PARQUET[name]
    data = table_file({"text_a": ["a", "b", "c"], "text_b": ["d", "e", "f"], "label": column})
    if labels is None:
        assert "label holds" in refused(store, data, "batch.parquet")
        return
    taken = take(store, data, "batch.parquet")
    assert [taken.only(n)["label"] if n in taken.observations else None for n in (1, 2, 3)] == labels


# ---- names that say the opposite ----


@pytest.mark.parametrize(
    "name", ["distance", "cosine_distance", "is_different", "isDifferent", "meta.different", "dissimilarity", "not_duplicate",
             "non-duplicate", "is_not_same", "mismatch", "contradiction"],
)  # fmt: skip
def test_a_column_that_is_called_the_opposite_is_never_read_as_the_contrary(tmp_path: Path, name: str) -> None:
    records = labelled([0, 1, 1], name)
    assert "by its name" in str(judged(tmp_path, records, columns={"label": name}))
    assert judged(tmp_path, records, columns={"label": name}, labels={"0": 1, "1": 0}) is None
    assert "by its name" in str(judged(tmp_path, records, columns={"label": name}, cut=0.5))
    assert judged(tmp_path, records, columns={"label": name}, cut_below=0.5) is None


@pytest.mark.parametrize("name", ["is_duplicate", "label", "notes.label", "same", "score", "annotation", "duplicate_of_other"])
def test_a_column_that_is_called_anything_else_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    assert judged(tmp_path, labelled([0, 1, 1], name), columns={"label": name}) is None


@pytest.mark.parametrize("name", ["thumbs_down", "downvoted", "disliked", "isNegative", "not_helpful"])
def test_a_column_of_thumbs_down_is_not_one_of_thumbs_up(tmp_path: Path, name: str) -> None:
    records = [{"query": "q", "answer": f"a{n}", name: n % 2} for n in range(4)]
    said: dict[str, Any] = {"columns": {"thumb": name}, "constants": {"type": "thumb"}}
    assert "by its name" in str(judged(tmp_path, records, **said))
    assert judged(tmp_path, records, **said, thumbs={"1": "down", "0": "up"}) is None


# ---- names of classes in the file itself ----

CLASSES: dict[str, tuple[list[str], bool]] = {
    "snli": (["entailment", "neutral", "contradiction"], False),
    "qnli": (["entailment", "not_entailment"], False),
    "rte": (["Entailment", "Not Entailment"], False),
    "inverted": (["duplicate", "not_duplicate"], False),
    "of another kind": (["spam", "ham"], False),
    "the same twice": (["a", "a"], False),
    "mrpc": (["not_equivalent", "equivalent"], True),
    "quora": (["not_duplicate", "duplicate"], True),
    "paws": (["0", "1"], True),
    "words": (["different", "same"], True),
    "booleans": (["False", "True"], True),
    "no and yes": (["no", "yes"], True),
    "non-": (["non-paraphrase", "paraphrase"], True),
}


@pytest.mark.parametrize("name", CLASSES)
def test_the_names_that_a_file_gives_its_classes_are_believed(store: Store, name: str) -> None:
    names, same_is_one = CLASSES[name]
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table({"text_a": ["a", "b"], "text_b": ["c", "d"], "label": [0, 1]})  # a third class may not come at all
    data = table_file(table.replace_schema_metadata({"huggingface": json.dumps(features)}))
    if same_is_one:
        assert take(store, data, "batch.parquet").only(2)["label"] == 1
    else:
        sentence = refused(store, data, "batch.parquet")
        assert all(f"{value} {written(each)!r}" in sentence.lower() for value, each in enumerate(names))
        taken = take(store, data, "batch.parquet", PairOptions(labels={"0": 1, "1": 0}))
        assert [taken.only(n)["label"] for n in (1, 2)] == [1, 0]


@pytest.mark.parametrize("names", [["down", "up"], ["negative", "positive"], ["up", "down"], ["positive", "negative"]])
def test_the_names_of_classes_of_thumbs_are_believed_too(store: Store, names: list[str]) -> None:
    features = {"info": {"features": {"thumb": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table({"type": ["thumb"], "query": ["q"], "answer": ["a"], "thumb": [1]})
    data = table_file(table.replace_schema_metadata({"huggingface": json.dumps(features)}))
    if names[1] in ("up", "positive"):
        assert take(store, data, "batch.parquet").only(1)["label"] == 1
    else:
        assert f"by its own words thumb is 0 '{names[0]}', 1 '{names[1]}'" in refused(store, data, "batch.parquet")


# ---- the setting that the refusal names ----


def home_with(folder: Path, settings: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "flywheel.toml").write_text(f'[pairs]\nseed_pairs = "none"\n{settings}\n')
    return folder


REMEDIES: dict[str, tuple[str, list[Any], str, dict[str, str], list[int | None]]] = {
    "labels": ("label", ["yes", "no", "yes", "maybe"], "labels", {"yes": "1", "no": "0"}, [1, 0, 1, None]),
    "codes": ("gold", [0, 1, 2, -1], "labels", {"0": "1", "2": "0"}, [1, None, 0, None]),
    "grades": ("score", [5.0, 1.0, 3.8, 0.0], "cut", {}, [1, 0, 1, 0]),
    "cosines": ("sim", [-1.0, 0.9, 0.2, 0.5], "cut", {}, [0, 1, 0, 1]),
    "distances": ("distance", [0.1, 0.9, 0.5, 1.0], "cut_below", {}, [1, 0, 0, 0]),
    "inverted": ("is_different", [0, 1, 1], "labels", {"0": "1", "1": "0"}, [1, 0, 0]),
}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("name", REMEDIES)
def test_the_setting_that_a_refusal_names_reads_the_file(tmp_path: Path, name: str, suffix: str) -> None:
    column, labels, setting, meant, stored = REMEDIES[name]
    file, home = tmp_path / f"their [1] file{suffix}", tmp_path / "home"
    file.write_bytes(file_of(labelled(labels, column), suffix))
    before = f'columns = {{label = "{column}"}}\n[pairs.files."*"]\ncolumns = {{label = "{column}"}}'
    asked = verb("ingest", file, "--home", home_with(home, before))
    assert asked.returncode == 1
    sentence = " ".join(asked.stderr.split())
    section = sentence.partition("flywheel.toml: ")[2].partition(" and below it ")[0]
    start = sentence.index(f" {setting} = ") + 1
    said = (
        sentence[start : sentence.index("}", start) + 1] if setting == "labels" else sentence[start:].split(";")[0].rstrip(".")
    )
    for value in [key for key in tomllib.loads(said.replace("1 or 0", "1")).get("labels", {}) if key not in meant]:
        said = said.replace(f'"{value}" = 1 or 0, ', "").replace(f', "{value}" = 1 or 0', "")
    for value, meaning in meant.items():
        said = said.replace(f'"{value}" = 1 or 0', f'"{value}" = {meaning}')
    shown = json.loads(
        verb("ingest", "--dry-run", file, "--home", home_with(home, f"{before}\n{section}\n{said}"), "--json").stdout
    )
    (own,) = tomllib.loads(shown[0]["settings"])["pairs"]["files"].values()
    assert len({"labels", "cut", "cut_below"} & own.keys()) == 1
    done = verb("ingest", file, "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["quarantined"] == stored.count(None)
    told = dict(rows(Store(home / "flywheel.duckdb"), "SELECT least(text_a, text_b), label FROM observations"))
    assert told == {f"one {n}": label for n, label in enumerate(stored) if label is not None}


def test_what_a_said_coding_leaves_out_is_quarantined_by_name(store: Store) -> None:
    said = PairOptions(columns={"label": "gold"}, labels={"entailment": 1, "Contradiction": 0})
    taken = take(store, json_file(labelled(["entailment", "neutral", "CONTRADICTION", ["-"]], "gold")), options=said)
    assert taken.reasons == {
        2: 'gold is "neutral", which pairs.labels does not name',
        4: 'gold is ["-"], which pairs.labels does not name',
    }
    cut = take(store, json_file(labelled([4, "3,5", "?", 1])), "cut.jsonl", PairOptions(cut=4))
    assert cut.reasons == {
        2: 'label is "3,5", no number, and pairs.cut takes numbers',
        3: 'label is "?", no number, and pairs.cut takes numbers',
    }


def test_grades_with_a_decimal_comma_are_grades(store: Store) -> None:
    data = "text_a;text_b;label\n" + "".join(
        f"one {n};other {n};{label}\n" for n, label in enumerate(("0,5", "4,5", "1,0", "5"))
    )
    assert "0.5 (line 2)" in refused(store, data.encode(), "german.csv")
    taken = take(store, data.encode(), "german.csv", PairOptions(cut=4))
    assert [taken.only(n)["label"] for n in range(1, 5)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "said", [{"labels": {"1": 1}, "cut": 4}, {"cut": 1, "cut_below": 1}, {"labels": {"1": 2}}, {"cut": "nan"}]
)
def test_settings_that_contradict_each_other_or_mean_nothing_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"labels|cut"):
        PairOptions(**said)


# ---- a column over several files, several types, thumbs ----


def test_a_column_means_the_same_in_all_part_files_of_a_folder(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "delivery"
    folder.mkdir()
    (folder / "part-1.jsonl").write_bytes(json_file(labelled([0, 1, 1])))
    (folder / "part-2.jsonl").write_bytes(json_file(labelled([0, 1, 2])))
    with pytest.raises(FlywheelError, match=r"label holds 2 \(line 3\) besides 0, 1.*\[pairs.files.\"delivery\"\]"):
        ingest_files(store, [folder])
    assert contents(store) == [[], [], [], []]
    said = PairOptions.model_validate({"files": {"delivery": {"labels": {"0": 1, "2": 0}}}})
    reports = ingest_files(store, [folder], said)
    assert [(each.accepted, each.quarantined) for each in reports] == [(1, 2), (2, 1)]


def test_only_events_of_a_type_say_what_its_column_means(store: Store) -> None:
    taken = take(store, json_file([
        {"type": "label", "text_a": "a", "text_b": "b", "label": 1},
        {"type": "click", "query": "q", "shown": "s", "label": "position 4"},
        {"type": "click", "query": "q", "shown": "t", "label": "position 2", "thumb": 7},
        {"type": "thumb", "query": "q", "answer": "t", "thumb": "UP", "label": 3},
    ]))  # fmt: skip
    assert (taken.report.accepted, taken.report.quarantined) == (4, 0)


THUMBS_SEEN: dict[str, tuple[list[Any], list[int] | None]] = {
    "1 and 0": ([1, 0, 1], [1, 0, 1]), "1 and -1": ([1, -1, 1.0], [1, 0, 1]), "1, 0 and -1": ([1, 0, -1], None),
    "odd cases": (["UP", " Down ", "up"], [1, 0, 1]), "pandas": ([True, False, "TRUE"], [1, 0, 1]),
    "GitHub": (["+1", "-1", "+1"], [1, 0, 1]), "emoji": (["👍", "👎", "👍🏽"], [1, 0, 1]), "as text": (["👎️", "👍️"], [0, 1]),
    "stars": ([1, 5, 4, 2], None), "shares": ([0.5, 1.0, 0.0], None), "good and bad": (["good", "bad", "good"], None),
}  # fmt: skip


@pytest.mark.parametrize("name", THUMBS_SEEN)
def test_thumbs_are_read_or_asked_for(store: Store, name: str) -> None:
    thumbs, expected = THUMBS_SEEN[name]
    data = json_file([{"type": "thumb", "query": f"q{n}", "answer": "a", "thumb": each} for n, each in enumerate(thumbs)])
    if expected is None:
        assert "thumbs = {" in refused(store, data, "batch.jsonl")
        said = PairOptions(thumbs={written(thumbs[0]): "down", written(thumbs[1]): "up"})
        taken = take(store, data, "batch.jsonl", said)
        assert [taken.only(n)["label"] for n in (1, 2)] == [0, 1]
        assert all("which pairs.thumbs does not name" in reason for reason in taken.reasons.values())
    else:
        taken = take(store, data)
        assert [taken.only(n)["label"] for n in range(1, len(thumbs) + 1)] == expected


def test_more_values_than_are_kept_are_no_slips() -> None:
    column = Column()
    for n in range(300_000):
        column.add(1 if n < 298_000 else f"word {n}", "line 1")
    with pytest.raises(UnreadableFileError):
        judge("f", "thumb", column, Coding(THUMBS), "thumb")


# ---- a file that fails as a whole ----


def test_a_file_that_fails_for_one_reason_is_a_failure_that_says_what_to_do(tmp_path: Path) -> None:
    file, home = tmp_path / "feedback.jsonl", tmp_path / "home"
    file.write_bytes(json_file([*labelled([1, 0]), *({"text_a": f"only {n}", "label": 1} for n in range(3))]))
    failed = verb("ingest", file, "--home", home_with(home, ""))
    sentence = " ".join(failed.stderr.split())
    assert failed.returncode == 1
    assert "feedback.jsonl:3: text_b is empty; 3 of 5 lines are refused for this reason" in sentence
    assert "Next: flywheel snapshot" not in failed.stdout
    shown = verb("ingest", "--dry-run", file, "--home", home)
    assert "3 refused, the first is line 3: text_b is empty" in shown.stdout
    assert contents(Store(home / "flywheel.duckdb"))[0] == []
    done = verb("ingest", file, "--home", home_with(home, "max_refused = 0.7"), "--json")
    assert (done.returncode, json.loads(done.stdout)["quarantined"]) == (0, 3)


def test_lines_that_are_what_they_should_be_and_say_nothing_are_no_failure(store: Store) -> None:
    searches = [{"type": "search", "query": f"q{n}", "shown": ["a", "b"], "clicked": [2] if n == 0 else []} for n in range(20)]
    taken = take(store, json_file(searches), options=PairOptions())
    assert (taken.report.accepted, taken.report.quarantined) == (1, 19)
    again = json_file([*searches[:3], *({"type": "search", "query": "q", "shown": "x", "clicked": [1]} for _ in range(2))])
    with pytest.raises(FlywheelError, match=r"batch2.jsonl:4: shown is \"x\".*2 of 5 lines"):
        take(store, again, "batch2.jsonl", PairOptions())  # 2 of the 3 that could have been pairs
    with pytest.raises(FlywheelError, match=r"batch3.jsonl:1: no result was clicked.*19 of 19 lines"):
        take(store, json_file(searches[1:]), "batch3.jsonl", PairOptions())


def test_a_folder_is_judged_as_one_delivery_and_stored_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    folder, silent = tmp_path / "delivery", {"type": "search", "query": "q", "shown": ["a"], "clicked": []}
    folder.mkdir()
    (folder / "part-1.jsonl").write_bytes(json_file(labelled([0, 1, 1])))
    (folder / "part-2.jsonl").write_bytes(json_file([{"text_a": f"only {n}", "label": 1} for n in range(4)]))
    with pytest.raises(FlywheelError, match=r"delivery/part-2.jsonl:1: text_b is empty; 4 of 7 lines.*--dry-run delivery`"):
        ingest_files(store, [folder])
    assert contents(store) == [[], [], [], []]
    (folder / "part-2.jsonl").write_bytes(json_file([silent] * 4))  # a part without an event is no failure of the whole
    assert [(each.accepted, each.quarantined) for each in ingest_files(store, [folder])] == [(3, 0), (0, 4)]
    assert [each.accepted + each.duplicates for each in ingest_files(store, [folder])] == [3, 0]
