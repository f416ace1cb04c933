"""Times as exporters write them: each is the instant it says, or refused, whatever stands before it and wherever it is read."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.lines import Line
from flywheel.pairs.events.readers import read_delivery
from flywheel.pairs.events.times import read_time
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.conftest import examples
from flywheel_tests.helpers.deliveries import GOOD, KINDS, Record, check, file_of, take, with_members
from flywheel_tests.pairs.test_ingest import rows

# ---- through the store ----

NOON = datetime(2026, 1, 1, 12)
TIMES: dict[str, datetime | None] = {
    **dict.fromkeys(
        ('"2026-01-01T12:00:00"', '"2026-01-01 12:00"', '"2026-01-01T12:00:00Z"', '"2026-01-01T12:00:00.000Z"'), NOON
    ),
    **dict.fromkeys(('"2026-01-01T17:30:00+05:30"', '"2026-01-01T04:00:00-0800"', '"2026-01-02T02:00:00+14"'), NOON),
    **dict.fromkeys(("1767268800", "1767268800.0", '"1767268800"', "1.7672688e9"), NOON),
    "1767268800.5": NOON.replace(microsecond=500_000),
    '"2026-01-01"': datetime(2026, 1, 1),
    '"1970-01-01T00:00:00Z"': datetime(1970, 1, 1),
    '"1969-12-31T23:00:00-05:00"': datetime(1970, 1, 1, 4),
    **dict.fromkeys(('"epoch"', '"EPOCH"', '" epoch "', '"now"', '"today"', '"yesterday"', '"tomorrow"', '"never"'), None),
    **dict.fromkeys(('"infinity"', '"-infinity"', '"Infinity"', '"inf"', '"nan"', '"NaN"', '"null"', '"None"'), None),
    **dict.fromkeys(('""', '" "', '"12:00:00"', '"5 days"', '"2026-02-30"', '"01/02/2026"', '"2026-W01"', '"1,5"'), None),
    **dict.fromkeys(('"0000-01-01"', '"0001-01-01"', '"-0044-03-15"', '"2026-01-01 (BC)"', '"1969-12-31T23:59:59"'), None),
    **dict.fromkeys(('"1970-01-01T00:30:00+01:00"', '"2999-01-01"', '"9999-12-31T23:59:59"', '"294247-01-10"'), None),
    **dict.fromkeys(('"20260101"', "20260101"), datetime(2026, 1, 1)),
    **dict.fromkeys(('"20260101T120000"', "1767268800000", '"1767268800000000"', "1767268800000000123"), NOON),
    **dict.fromkeys(('"2026"', '"20261301"', "1e300", "-1", "9999999", "1" * 40, "true", "[]", "{}", "[1767268800]"), None),
}


def test_a_time_is_the_instant_it_says_or_the_line_is_refused(store: Store) -> None:
    taken = take(store, b"".join(with_members(f'"time": {time}') for time in TIMES))
    stored = {time: taken.only(n)["observed_at"] if n in taken.observations else None for n, time in enumerate(TIMES, start=1)}
    assert stored == TIMES
    assert all("time" in reason for reason in taken.reasons.values())


def test_an_event_without_a_time_is_one(store: Store) -> None:
    taken = take(store, with_members('"time": null') + GOOD)
    check(taken, [None, None])
    assert taken.only(1)["observed_at"] is None


# ---- as exporters and languages write them ----

MORNING = datetime(2026, 9, 1, 8, 5, 3)
WRITTEN: dict[str, tuple[Any, ...]] = {
    "ISO 8601": ("2026-09-01T08:05:03Z", "2026-09-01T08:05:03+00:00", "20260901T080503Z", "2026-09-01T10:05:03+02",
        "2026-09-01T08:05:03.0Z"),
    "Langfuse, Segment, Elasticsearch": ("2026-09-01T08:05:03.000Z", "2026-09-01 08:05:03.000000"),
    "LangSmith, Python": ("2026-09-01T08:05:03", "2026-09-01T08:05:03.000000+00:00", "2026-09-01 08:05:03,000"),
    "PostHog, pandas, PostgreSQL": ("2026-09-01 08:05:03+00:00", "2026-09-01 08:05:03.000000+00", "2026-09-01 10:05:03+02"),
    "Amplitude, ClickHouse, MySQL": ("2026-09-01 08:05:03.000000", "2026-09-01 08:05:03.000", "2026-09-01 08:05:03"),
    "BigQuery": ("2026-09-01 08:05:03 UTC", "2026-09-01 08:05:03.000000 UTC", 1788249903000000, "1788249903000000"),
    "Snowflake": ("2026-09-01 08:05:03.000 Z", "2026-09-01 01:05:03.000 -0700", "Tue, 01 Sep 2026 08:05:03 +0000"),
    "SQL Server": ("2026-09-01 08:05:03.0000000 +00:00", "2026-09-01T08:05:03.0000000"),
    "Spark, Java": ("2026-09-01T08:05:03.000+0000", "2026-09-01T10:05:03+02:00[Europe/Berlin]", "2026-09-01T08:05:03Z[UTC]"),
    "Zendesk, Ruby, Go": ("2026-09-01 08:05:03 -0000", "2026-09-01 10:05:03 +0200", "2026-09-01 10:05:03.0 +0200 CEST",
        "2026-09-01 08:05:03 +0000 UTC"),
    "Intercom, Slack": (1788249903, "1788249903", 1788249903.0, "1788249903.000000"),
    "pandas to_json, JavaScript, Kafka": (1788249903000, "1788249903000", 1788249903000.0),
    "nanoseconds": (1788249903000000000, "1788249903000000000", 1.788249903e18, "1.788249903e+18"),
    "JavaScript": ("Tue Sep 01 2026 10:05:03 GMT+0200 (Central European Summer Time)", "Tue, 01 Sep 2026 08:05:03 GMT"),
    "HTTP of old, mail, `date`": ("Tuesday, 01-Sep-26 08:05:03 GMT", "1 Sep 2026 08:05:03 +0000", "Tue Sep  1 08:05:03 2026",
                                  "Tue Sep  1 08:05:03 UTC 2026"),
    "web servers": ("01/Sep/2026:10:05:03 +0200",),
    "reports": ("September 1, 2026 8:05:03 AM", "Sep 1, 2026, 8:05:03\u202fAM", "1 September 2026 at 08:05:03",
        "Sept 1st, 2026 8:05:03 a.m."),
    "spreadsheets, year first": ("2026/9/1 8:05:03", "2026/09/01 08:05:03", "2026.09.01 08:05:03", "2026-9-1 8:05:03",
        "2026-09-01 8:05:03 AM"),
    "named zones": ("2026-09-01 10:05:03 Europe/Berlin", "2026-09-01T04:05:03 America/New_York",
        "2026-09-01 03:05:03 Etc/GMT+5"),
    "digits only": ("20260901080503", 20260901080503),
    "blanks": (" 2026-09-01T08:05:03Z\t", "2026-09-01  08:05:03", "2026-09-01 08:05:03\n"),
}  # fmt: skip
DAYS: tuple[Any, ...] = ("2026-09-01", "20260901", 20260901, 20260901.0, "20260901.0", "1 Sep 2026", "Sep 1, 2026",
    "2026-09-01 UTC",
                         "2026-09-01 00:00", "September 1 2026", "2026/9/1", "2026-09-01Z", "202609010000",
                         "2026-09-01T00")  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_a_time_is_read_as_its_exporter_meant_it(name: str) -> None:
    assert {value: read_time(value) for value in WRITTEN[name]} == dict.fromkeys(WRITTEN[name], MORNING)


def test_a_day_without_a_clock_is_its_midnight() -> None:
    assert {value: read_time(value) for value in DAYS} == dict.fromkeys(DAYS, datetime(2026, 9, 1))


def test_fractions_of_a_second_are_kept_to_the_millionth() -> None:
    assert read_time("2026-09-01T08:05:03.1234567Z") == read_time(1788249903123456789) == MORNING.replace(microsecond=123456)
    assert (
        read_time("2026-09-01 08:05:03,5")
        == read_time(1788249903.5)
        == read_time(1788249903500)
        == MORNING.replace(microsecond=500_000)
    )


def test_where_a_clock_is_put_back_the_offset_says_which_hour() -> None:
    assert read_time("2026-10-25T02:30:00+02:00[Europe/Berlin]") == datetime(2026, 10, 25, 0, 30)
    assert read_time("2026-10-25T02:30:00+01:00[Europe/Berlin]") == datetime(2026, 10, 25, 1, 30)


# What is refused, and what the sentence says.
REFUSED: dict[str, tuple[Any, ...]] = {
    "pairs.day_first": ("1/9/2026", "01.09.2026 08:05", "1-9-26", "13/09/2026", "9/1/2026 8:05 AM", "01/09/2026, 08:05:03"),
    "spreadsheet's count of days": (46266, "46266.3369", 46266.5),
    "a spreadsheet has shortened it": ("1.78825E+12", "1,78825E+12", "1.8E+09"),
    "Write its offset": ("2026-09-01 08:05:03 EST", "2026-09-01 08:05 CET", "Sep 1, 2026 8:05 AM PST"),
    "which is unknown": ("2026-09-01 08:05 Mars/Phobos", "2026-09-01 08:05 Etc/passwd"),
    "no month in English": ("1 Mai 2026", "1 aout 2026", "Foo 1, 2026"),
    "no number of seconds": (0, 17, "9999999", 1e30, "00000101"),
    "that a calendar holds": ("2026-02-30", "2026-13-01", "2026-09-01 25:00", "2026-09-01 08:60", "2026-09-01T08:05:60Z",
        20261301),
    "is not a time": (
        True, None, [], {}, [1788249903], "", "now", "today", "epoch", "infinity", "NaN", "NULL", "None", "2026", "2026-09",
            "08:05",
        "5 days", "2 minutes ago", "2026-W36", "2026-W36-2", "2026-244", "2026-09-01-08:05", "2026-09-01+02:00",
        "2026-09-01_08:05",
        "2026-09-01 08:05 (BC)", "2026-09-01T", "2026-09-01T8", "2026-09-01 0805", "2026-09-01 08:05 Z Z",
        "2026-09-01 08:05+25:00",
        "2026-09-01 13:05 PM", "2026-09-01 00:05 AM", "01-SEP-26 08.05.03.000000 AM", "P1D", "2026-09-01/2026-09-02",
        "Tue Sep 01",
    ),
}  # fmt: skip


@pytest.mark.parametrize("says", REFUSED)
def test_what_has_several_meanings_or_none_is_refused_with_what_to_do(says: str) -> None:
    for value in REFUSED[says]:
        with pytest.raises(ValueError, match=says):
            read_time(value)


BY_SETTING: dict[str, tuple[datetime | None, datetime | None]] = {
    "1/9/2026": (datetime(2026, 9, 1), datetime(2026, 1, 9)),
    "01.09.2026 08:05:03": (MORNING, datetime(2026, 1, 9, 8, 5, 3)),
    "01-09-26 8:05": (datetime(2026, 9, 1, 8, 5), datetime(2026, 1, 9, 8, 5)),
    "1/9/2026 8:05:03 PM": (MORNING.replace(hour=20), datetime(2026, 1, 9, 20, 5, 3)),
    "01/09/2026, 12:05 am": (datetime(2026, 9, 1, 0, 5), datetime(2026, 1, 9, 0, 5)),
    "01/09/2026 10:05:03 +0200": (MORNING, datetime(2026, 1, 9, 8, 5, 3)),
    "01/09/2026 10:05 Europe/Berlin": (datetime(2026, 9, 1, 8, 5), datetime(2026, 1, 9, 9, 5)),
    "31/12/2026": (datetime(2026, 12, 31), None),
    "12/31/2026": (None, datetime(2026, 12, 31)),
    "31/04/2026": (None, None), "1/9-2026": (None, None), "1/9/026": (None, None), "32/1/2026": (None, None),
}  # fmt: skip


def test_a_setting_says_whether_the_day_stands_first() -> None:
    def told(text: str, day_first: bool) -> datetime | None:
        try:
            return read_time(text, day_first)
        except ValueError:
            return None

    assert {text: (told(text, True), told(text, False)) for text in BY_SETTING} == BY_SETTING


def test_the_setting_that_a_refusal_names_reads_the_line(store: Store) -> None:
    data = with_members('"time": "1/9/2026 8:05"')
    assert 'time "1/9/2026 8:05" may have the day' in take(store, data + GOOD).reasons[1]
    assert take(store, data + GOOD, options=PairOptions(day_first=True)).only(1)["observed_at"] == datetime(2026, 9, 1, 8, 5)


@given(at=st.datetimes(datetime(1974, 1, 1), datetime(2099, 12, 31)))
def test_an_instant_survives_every_way_of_writing_it(at: datetime) -> None:
    aware, second = at.replace(tzinfo=UTC), at.replace(microsecond=0)
    since = (at - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert {read_time(each) for each in (at.isoformat(), f"{at}Z", aware.isoformat(), since, f"{since}", since * 1000)} == {at}
    assert read_time(aware.strftime("%d %B %Y %H:%M:%S.%f +0000")) == at
    for form in ("%a, %d %b %Y %H:%M:%S GMT", "%b %d, %Y, %I:%M:%S %p", "%Y%m%d%H%M%S", "%Y/%m/%d %H:%M:%S"):
        assert read_time(second.strftime(form)) == second


# ---- sequences: no row says anything about another ----

SAID = PairOptions(
    max_refused=1.0, labels={"1": 1, "same": 1, "0": 0, "different": 0}, thumbs={"up": "up", "-1": "down"}, day_first=True
)
TIME_FORMS = [value for values in WRITTEN.values() for value in values] + ["1/9/2026", "soon", "2026-09-01 08:05 EST", ""]
some_row = st.fixed_dictionaries(
    {"text_a": st.sampled_from(["one", "  one more "]), "text_b": st.just("other")},
    optional={
        "time": st.sampled_from([str(each) for each in TIME_FORMS]),
        "label": st.sampled_from(["1", "0", "same", "DIFFERENT", "2", "maybe", " 1.0 ", "True"]),
        "type": st.sampled_from(["label", "duplicate", "thumb", "search", "other", ""]),
        "thumb": st.sampled_from(["up", "-1", "?"]),
        "query": st.just("asked"),
        "answer": st.just("told"),
        "shown": st.sampled_from(['["a", "b"]', '["a", ""]', "[]", "a", '["1", "2", "3"]']),
        "clicked": st.sampled_from(["[1]", "2", "[]", '["1", "2"]', "[3]", "first"]),
        "user": st.sampled_from(["17", "017", "u-1", "1.23E+19", " 17 ", "\\N", "1.10"]),
        "event_id": st.sampled_from(["e1", "18446744073709551617", "-0"]),
        "weight": st.sampled_from(["0.5", "2", "1,5", "-1", "nan", "1e2", ""]),
        "position": st.sampled_from(["1", "2.0", "0", "1.5", " 3 "]),
        "kind": st.sampled_from(["implied", "explicit", "?"]),
        "more": st.sampled_from(["x", "[1]", "2026-09-01 10:05 Europe/Berlin"]),
    },
)


def read_events(folder: Path, records: list[Record], suffix: str) -> list[Any]:
    path = folder / f"rows{suffix}"
    path.write_bytes(file_of(records, suffix))
    (batch,) = read_delivery([path], [path.name], SAID)
    found = list(batch.lines)
    return [batch.fields.read(each.record) if isinstance(each, Line) else each.reason for each in found]


@pytest.mark.parametrize("suffix", KINDS)
@hypothesis_settings(max_examples=examples(60), deadline=None)
@given(records=st.lists(some_row, min_size=2, max_size=8))
def test_a_row_is_what_it_is_alone_whatever_stands_before_it(
    suffix: str, tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    names = sorted({name for record in records for name in record})
    full = [{name: record.get(name, "") for name in names} for record in records]  # the same header for all
    together = read_events(folder, full, suffix)
    assert together == [read_events(folder, [record], suffix)[0] for record in full]


MIXED: list[Record] = [
    {"text_a": f"one {n}", "text_b": f"other {n}", "time": str(time), "user": user, "label": label, "weight": weight}
    for n, (time, user, label, weight) in enumerate([
        ("2026-09-01 10:05:03 Asia/Tokyo", "017", "1", "0.5"), ("2026-09-01 08:05:03", "17", "0", "2"),
        ("2026-09-01T10:05:03+02:00", "u", "same", "1"), ("2026-09-01T08:05:03", "17", "0", ""),
        ("1788249903000", "1.10", "different", "1e2"), ("1788249903", "-1", "1", "1.5"),
        ("Tue Sep 01 2026 10:05:03 GMT+0200 (CEST)", "", "1", "1"), ("1/9/2026 8:05:03", "x", "0", "3"), ("2026-09-01", "y",
            "1", "4"),
    ])
]  # fmt: skip
STORED = "SELECT text_a, observed_at, user_id, label, weight FROM observations ORDER BY ALL"


@pytest.mark.parametrize("suffix", KINDS)
def test_what_is_stored_of_a_row_is_what_is_stored_of_it_alone(tmp_path: Path, suffix: str) -> None:
    together, alone = Store(tmp_path / "together.duckdb"), Store(tmp_path / "alone.duckdb")
    (tmp_path / f"all{suffix}").write_bytes(file_of(MIXED, suffix))
    ingest_files(together, [tmp_path / f"all{suffix}"], SAID)
    for n, record in enumerate(MIXED):
        (tmp_path / f"{n}{suffix}").write_bytes(file_of([record], suffix))
    ingest_files(alone, [tmp_path / f"{n}{suffix}" for n in range(len(MIXED))], SAID)
    assert len(rows(together, STORED)) == len(MIXED)
    assert rows(together, STORED) == rows(alone, STORED)


@pytest.mark.parametrize(
    "place", [{"TZ": "Asia/Kolkata", "LC_ALL": "de_DE.UTF-8"}, {"TZ": "America/St_Johns", "LANG": "tr_TR.UTF-8"}]
)
def test_nothing_depends_on_the_zone_or_the_language_of_the_machine(tmp_path: Path, place: dict[str, str]) -> None:
    forms = [value for value in TIME_FORMS if isinstance(value, str)]
    records = [*MIXED, *({"text_a": f"t{n}", "text_b": "o", "label": "1", "time": value} for n, value in enumerate(forms))]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(file_of(records, ".jsonl"))
    script = (
        "import locale, sys; from pathlib import Path; from contextlib import suppress\n"
        "with suppress(locale.Error): locale.setlocale(locale.LC_ALL, '')\n"
        "from flywheel.pairs.store.duckdb_file import Store; from flywheel.pairs.deliveries import ingest_files\n"
        "from flywheel.pairs.options import PairOptions\n"
        "ingest_files(Store(Path(sys.argv[1])), [Path(sys.argv[2])], PairOptions.model_validate_json(sys.argv[3]))"
    )
    there, here = Store(tmp_path / "there.duckdb"), Store(tmp_path / "here.duckdb")
    command = [sys.executable, "-c", script, str(there.path), str(file), SAID.model_dump_json()]
    subprocess.run(command, env={**os.environ, **place}, check=True)
    ingest_files(here, [file], SAID)
    assert len(rows(here, STORED)) == len(records) - 2
    assert rows(there, STORED) == rows(here, STORED)
