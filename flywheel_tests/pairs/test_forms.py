"""Files by their form: encodings, ends of lines, compression, JSON in its shapes, names, and files with nothing in them."""

import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from flywheel.errors import UnreadableFileError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.readers import understand
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.conftest import verb
from flywheel_tests.helpers.deliveries import (
    EVERY_SUFFIX,
    GOOD,
    HEADER,
    Record,
    check,
    file_of,
    packed,
    read,
    refused,
    table_file,
    take,
    texts,
)  # fmt: skip

PLAIN: Record = {"text_a": "how to sync", "text_b": "sync my files", "label": "1"}
EMOJI: Record = {"text_a": "emoji \U0001f469\u200d\U0001f469 \U0001f1e9\U0001f1ea", "text_b": "no emoji", "label": "0"}
UNKNOWN: Record = {"text_a": "yes", "text_b": "no", "label": "yes"}

# ---- encodings and lines, in every format that has lines ----


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_byte_order_mark_costs_nothing(store: Store, suffix: str) -> None:
    check(take(store, b"\xef\xbb\xbf" + file_of([PLAIN] * 2, suffix), f"batch{suffix}"), [None, None])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_line_that_is_no_utf_8_among_others_that_are_costs_itself(store: Store, suffix: str) -> None:
    records = [{**PLAIN, "text_a": "na\u00efve"}, {**PLAIN, "text_a": "caf\u00e9"}, PLAIN]
    first, *others = file_of(records, suffix).decode().replace("\\u00ef", "\u00ef").replace("\\u00e9", "\u00e9").split("caf")
    data = first.encode() + b"".join(b"caf" + other.encode("latin-1") for other in others)
    check(take(store, data, f"batch{suffix}"), [None, "not UTF-8", None])


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".tsv.zst"])
def test_a_line_of_ten_megabytes_costs_itself_only(store: Store, suffix: str) -> None:
    records = [PLAIN, {**PLAIN, "more": "x" * 10_000_000}, PLAIN]
    taken = take(store, file_of(records, suffix), f"batch{suffix}")
    check(taken, [None, "longer than", None])
    assert len(taken.raws[2]) <= 1_000


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_lines_end_as_on_any_machine(store: Store, tmp_path: Path, suffix: str) -> None:
    data = file_of([PLAIN, EMOJI, UNKNOWN], suffix).replace(b"\r\n", b"\n")
    expected = [None, None, "none of 1 or 0"]
    check(take(store, data.replace(b"\n", b"\r\n"), f"windows{suffix}"), expected)
    check(take(store, data.removesuffix(b"\n"), f"unfinished{suffix}"), expected)
    check(take(store, data.replace(b"\n", b"\r\r\n"), f"twice{suffix}"), expected)
    old = data.replace(b"\n", b"\r")
    if suffix == ".jsonl":
        assert "not JSON" in refused(Store(tmp_path / "other.duckdb"), old, f"old{suffix}")
    else:
        check(take(store, old, f"old{suffix}"), expected)


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
def test_a_file_without_lines_is_called_empty(store: Store, suffix: str) -> None:
    if ".parquet" in suffix:
        nothing = [table_file(pa.table({"text_a": pa.array([], pa.string())}))]
    else:
        nothing = [b"", b"\n\n", b"\xef\xbb\xbf"] + ([HEADER, HEADER.rstrip()] if ".csv" in suffix else [])
    for content in nothing:
        assert f"batch{suffix} is empty" in refused(store, packed(content, suffix), f"batch{suffix}")


# ---- compressed files ----


COMPRESSED = [suffix for suffix in EVERY_SUFFIX if suffix.endswith((".gz", ".zst"))]


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_compressed_file_that_is_cut_in_half_is_refused_whole(store: Store, suffix: str) -> None:
    records = [{"text_a": f"question {uuid.uuid4()}", "text_b": "other", "label": "1"} for _ in range(10_000)]
    data = file_of(records, suffix)
    assert f"batch{suffix} is damaged or cut short" in refused(store, data[: len(data) // 2], f"batch{suffix}")


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_wherever_a_compressed_file_is_cut_it_is_refused(tmp_path: Path, suffix: str) -> None:
    data = file_of([PLAIN, EMOJI], suffix)
    for kept in range(1, len(data)):
        with pytest.raises(UnreadableFileError, match="damaged or cut short"):
            read(tmp_path, data[:kept], f"batch{suffix}")


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_every_part_of_a_compressed_file_is_read_and_nothing_else_is_taken_for_one(tmp_path: Path, suffix: str) -> None:
    good = packed(GOOD * 3, suffix)
    assert len(read(tmp_path, good + packed(b"", suffix) + packed(GOOD * 4, suffix), f"batch{suffix}")) == 7
    for data in (good + b"garbage", good + b"\0" * 512, GOOD, b"\n", good[::-1], good[1:]):
        with pytest.raises(UnreadableFileError, match="damaged or cut short"):
            read(tmp_path, data, f"batch{suffix}")


def test_a_compressed_file_under_a_plain_name_is_refused(store: Store) -> None:
    refused(store, packed(GOOD * 5, ".gz"), "compressed.jsonl")


# ---- names of files ----


@pytest.mark.parametrize(
    "name", ["it's.jsonl", "ünï 😀.jsonl", "two\nlines.jsonl", "-x.JSONL", "$part {0} %s.jsonl", "a;b--.jsonl"]
)
def test_a_file_may_have_any_name(store: Store, name: str) -> None:
    assert take(store, GOOD, name).report.file == name


def test_a_home_may_have_any_name(tmp_path: Path) -> None:
    check(take(Store(tmp_path / "it's $part {0}" / "flywheel.duckdb"), GOOD), [None])


@pytest.mark.parametrize(
    "name", [os.fsdecode(b"\xff.jsonl"), os.fsdecode(b"\xff.csv.gz"), ".jsonl", "a.txt", "a.gz", "a.jsonl.gz.gz"]
)
def test_a_name_that_cannot_be_stored_or_says_no_format_is_one_sentence(store: Store, name: str) -> None:
    refused(store, packed(GOOD, name), name)


@pytest.mark.parametrize("path", [Path("x" * 5_000 + ".jsonl"), Path("a\0.jsonl"), Path("/"), Path("/dev/null/x.csv")])
def test_a_path_that_leads_to_no_file_is_one_sentence(store: Store, path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"is not a file|is a folder"):
        ingest_files(store, [path])


# ---- other encodings ----


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_the_encodings_of_16_and_32_bits_are_recognised_also_without_a_mark(store: Store, encoding: str, suffix: str) -> None:
    rows = [("wie \u00e4ndere ich das", "\u30d1\u30b9\u30ef\u30fc\u30c9 \U0001f600"), ("two words", "three more words")]
    text = "text_a;text_b;label\r\n" + "".join(f"{a};{b};1\r\n" for a, b in rows)
    if "json" in suffix or "ndjson" in suffix:
        text = "".join(json.dumps({"text_a": a, "text_b": b, "label": 1}, ensure_ascii=False) + "\n" for a, b in rows)
    taken = take(store, packed(text.encode(encoding), suffix), f"batch{suffix}")
    check(taken, [None, None])
    assert [texts(taken.only(number)) for number in (1, 2)] == [set(row) for row in rows]


WESTERN = [
    ["Passwort ändern", "Wo ist die Größe?", "Straße"],
    [
        "où est ma facture",
        "problème d’accès",
        "mot de passe oublié",
        "déjà créé",
        "à payer",
    ],
    ["¿Cómo cambio mi contraseña?", "sesión cerrada", "¿dónde está?"],
    ["não consigo entrar", "configurações", "você é"],
    ["ændre adgangskode", "jeg kan ikke logge på", "køb"],
    ["it costs 5 €", "the “naïve” café – it’s there"],
]


@pytest.mark.parametrize("sentences", WESTERN)
def test_western_text_in_cp1252_is_recognised(store: Store, sentences: list[str]) -> None:
    data = HEADER + "".join(f"{text},{text} (again),1\n" for text in sentences).encode("cp1252")
    taken = take(store, data, "batch.csv")
    check(taken, [None] * len(sentences))
    assert [texts(taken.only(n)) for n in range(1, len(sentences) + 1)] == [{text, f"{text} (again)"} for text in sentences]


OTHERS = {
    "cp1251": ["Как сменить пароль?", "my аккаунт is closed"],
    "koi8-r": ["Как сменить пароль?"],
    "cp1250": [
        "nie mogę się zalogować", "proszę", "jak zmienić email",
        "jak změnit heslo", "nelze se přihlásit", "későbbi időpont", "unde găsesc factura",
    ],
    "iso8859-2": ["nie mogę się zalogować", "zmień hasło"],
    "cp1254": ["şifremi nasıl değiştiririm", "müşteri", "çıkış yap"],
    "cp1253": ["πώς αλλάζω κωδικό", "please change το password of mine"],
    "cp1255": ["איך משנים סיסמה"],
    "shift_jis": ["パスワードを変更する", "reset パス now please, thanks"],
    "gbk": ["如何重置密码", "reset password 密码 please help me with it"],
    "euc_kr": ["비밀번호 변경"],
    "mac_roman": ["mot de passe oublié", "für Köln"],
    "cp850": ["Köln", "Passwort ändern", "mot de passe oublié"],
    "iso8859-15": ["it costs 5 €"],
}  # fmt: skip


@pytest.mark.parametrize("encoding", OTHERS)
def test_text_of_another_alphabet_is_never_read_as_western_and_is_read_as_the_setting_says(store: Store, encoding: str) -> None:
    for number, text in enumerate(OTHERS[encoding]):
        name, row = f"batch-{number}.csv", f'"{text}","{text} (2)",1\n'
        with pytest.raises(UnreadableFileError, match=r"is not UTF-8 .*another pairs\.encoding"):
            take(store, HEADER + row.encode(encoding), name)
        taken = take(store, HEADER + row.encode(encoding), name, PairOptions(encoding=encoding))
        assert texts(taken.only(1)) == {text, f"{text} (2)"}


def test_a_file_that_is_not_in_the_encoding_that_was_said_is_one_sentence(store: Store) -> None:
    data = HEADER + "\u00e4,b,1\n".encode("cp1252")
    assert "is not utf-16 throughout" in refused(store, data, "batch.csv", PairOptions(encoding="utf-16"))
    assert "pairs.encoding" in refused(store, "text_a".encode("utf-16") + b"\xd8", "batch.csv")


# ---- what parts the cells ----


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_what_parts_the_cells_is_recognised_whatever_the_name_says(store: Store, delimiter: str, suffix: str) -> None:
    lines = ['"text_a"', "text_b", "label", "note; or, what | else"], ["a, b; c | d", "e", "1", "f"], ["g", '"h"', "0", ""]
    data = "\n".join(delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in line) for line in lines)
    taken = take(store, data.encode(), f"batch{suffix}")
    check(taken, [None, None])
    assert [texts(taken.only(number)) for number in (1, 2)] == [{"a, b; c | d", "e"}, {"g", "h"}]
    assert json.loads(taken.only(1)["extra"]) == {"note; or, what | else": "f"}


def test_a_delimiter_of_its_own_is_said_in_the_settings(store: Store) -> None:
    said = PairOptions(delimiter="\x01")
    check(take(store, b"text_a\x01text_b\x01label\na,b\x01c\x011\n", "batch.csv", said), [None])


# ---- JSON in its shapes ----

PRETTY = json.dumps([PLAIN, EMOJI, UNKNOWN], indent=2).encode()


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zst"])
@pytest.mark.parametrize("data", [PRETTY, json.dumps([PLAIN, EMOJI, UNKNOWN]).encode(), b"\n \n" + PRETTY + b"\n\n"])
def test_an_array_is_read_item_by_item_however_it_is_printed(store: Store, suffix: str, data: bytes) -> None:
    check(take(store, packed(data, suffix), f"batch{suffix}"), [None, None, 'label is "yes"'])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_array_may_be_in_any_encoding(store: Store, encoding: str) -> None:
    text = json.dumps([PLAIN, {**PLAIN, "text_a": "\u00e4ndern"}], indent=1, ensure_ascii=False)
    taken = take(store, text.encode(encoding), "batch.json")
    check(taken, [None, None])
    assert texts(taken.only(2)) == {"\u00e4ndern", "sync my files"}


def test_lines_of_json_may_be_called_json(store: Store) -> None:
    check(take(store, GOOD * 2 + b"bad\n", "batch.json"), [None, None, "not JSON"])
    check(take(store, GOOD + b"[1]\n\n", "batch.ndjson"), [None, "not an object", "blank"])


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson"])
@pytest.mark.parametrize("data", [PRETTY, json.dumps([PLAIN, EMOJI, UNKNOWN]).encode()])
def test_an_array_that_is_called_lines_is_refused_once_and_read_when_it_is_renamed(
    tmp_path: Path, suffix: str, data: bytes
) -> None:
    path = tmp_path / f"export{suffix}"
    path.write_bytes(data)
    asked = verb("ingest", path, "--home", tmp_path / "home")
    assert (asked.returncode, asked.stderr.count("Nothing of it was stored")) == (1, 1)
    assert "rename it so that it ends in .json" in " ".join(asked.stderr.split())
    done = verb("ingest", path.rename(path.with_suffix(".json")), "--home", tmp_path / "home", "--json")
    assert (done.returncode, json.loads(done.stdout)["accepted"]) == (0, 2)


def test_one_object_and_damaged_arrays_are_one_sentence(store: Store) -> None:
    one = json.dumps(PLAIN, indent=2).encode()
    for name in ("batch.json", "batch.jsonl"):
        assert "holds one JSON object over several lines" in refused(store, one, name)
    for data in (PRETTY[:-20], PRETTY + PRETTY, PRETTY.replace(b'": "', b'" "', 1)):
        assert "is not a JSON array throughout" in refused(store, data, "batch.json")


def test_action_lines_of_a_bulk_export_are_passed_over_by_name(store: Store) -> None:
    actions = [b'{"index": {"_id": "1"}}', b'{"create": {}}', b'{"update": {"_id": "2"}}', b'{"delete": {"_id": "3"}}']
    data = b"".join(action + b"\n" + GOOD for action in actions)
    taken = take(store, data, "batch.ndjson", PairOptions())  # half of the lines, and no reason to refuse the file
    check(taken, [reason for name in ("index", "create", "update", "delete") for reason in (f"the action '{name}'", None)])


MEASURED = """
import re, sys
from pathlib import Path
from flywheel.pairs.events.readers import read_batch
count = sum(1 for _ in read_batch(Path(sys.argv[1]), "big.json").lines)
print(count, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")
@pytest.mark.parametrize("separator", [",", ",\n"], ids=["one line", "lines"])
def test_the_memory_that_an_array_needs_does_not_grow_with_it(tmp_path: Path, separator: str) -> None:
    peaks = []
    for items in (200, 8_000):
        item = json.dumps({**PLAIN, "more": "x" * 10_000})
        (tmp_path / "big.json").write_text("[" + separator.join([item] * items) + "]")
        run = subprocess.run(
            [sys.executable, "-c", MEASURED, tmp_path / "big.json"], capture_output=True, text=True, check=True
        )
        count, peak = map(int, run.stdout.split())
        assert count == items
        peaks.append(peak / 1024)
    assert peaks[1] - peaks[0] < 50, peaks  # the larger file has 80 MB


# ---- files with nothing in them, and others that cannot be read ----


@pytest.mark.parametrize("name", ["a.json", "a.ndjson", "a.json.gz", "a.tsv"])
def test_an_empty_file_is_called_empty_by_every_name(store: Store, name: str) -> None:
    nothing = [b"", b"\n \n", b"\xef\xbb\xbf\n", "\n".encode("utf-16")]
    for content in nothing + ([b"[]", b"[\n]\n"] if ".json" in name else []):
        assert refused(store, packed(content, name), name) == f"{name} is empty. Nothing of it was stored."


def test_a_file_that_may_not_be_read_is_one_sentence() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret.csv"
        path.write_bytes(HEADER + b"a,b,1\n")
        path.chmod(0)
        Path(folder).chmod(0o755)
        try:
            if user == 0:  # who may read everything
                os.seteuid(65534)
            with pytest.raises(UnreadableFileError, match=r"secret\.csv cannot be read \(Permission denied\)"):
                understand([path], ["secret.csv"], PairOptions())
        finally:
            os.seteuid(user)


@pytest.mark.parametrize(
    ("begins", "what", "remedy"),
    [
        (b"PK\x03\x04\x14\x00\x06\x00", "a spreadsheet", "save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old spreadsheet", "save the sheet as CSV"),
        (b"PAR1\x15\x04\x15", "a Parquet file", ".parquet"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "compressed with Zstandard", ".zst"),
        (b"BZh91AY&SY\x00", "compressed", "unpack it"),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML>\n<p>Sign in</p>\n", "a web page", "export it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", "git lfs pull"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_a_file_that_is_no_text_is_called_what_it_is(
    store: Store, begins: bytes, what: str, remedy: str, suffix: str
) -> None:  # fmt: skip
    sentence = refused(store, begins + b"\n", f"batch{suffix}")
    assert f"batch{suffix} is {what}" in sentence
    assert remedy in sentence


def test_a_header_whose_quotes_are_out_of_order_is_read_as_the_refusal_says(store: Store) -> None:
    data = b'\xef\xbb\xbf"Text A" , "Text B", Label\nhow to pay,how do I pay,1\nmy "pin",close account,0\n'
    assert 'pairs.quoting = "none"' in refused(store, data, "batch.csv")
    columns = {"text_a": "Text A", "text_b": "Text B", "label": "Label"}
    check(take(store, data, "batch.csv", PairOptions(quoting="none", columns=columns)), [None, None])


@pytest.mark.parametrize("name", ["data", "my rows"])
def test_records_within_an_object_are_no_record_and_the_remedy_names_their_place(store: Store, name: str) -> None:
    records = [{"text_a": "how to sync", "text_b": f"sync {n}", "label": n % 2} for n in range(3)]
    sentence = refused(store, json.dumps({"count": 3, name: records}).encode(), "batch.json")
    assert f"within its {name}" in sentence
    assert f"jq '.[\"{name}\"]' batch.json" in sentence
    check(take(store, json.dumps(records).encode(), "batch.json"), [None] * 3)


def test_an_object_of_columns_is_refused_as_that(store: Store) -> None:
    columns = {"text_a": {"0": "how to sync", "1": "yes"}, "text_b": {"0": "sync", "1": "no"}, "label": {"0": 1, "1": 0}}
    assert "to_json(orient='records', lines=True)" in refused(store, json.dumps(columns).encode(), "batch.json")
