"""Times as the world writes them, each read by itself: no time says anything about the zone of another one.

Nothing here asks for the machine's zone or language.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# A number of seconds, milli-, micro- or nanoseconds since 1970: which, its size says. Below the first is a day: 20260101.
_UNITS = ((1e8, 1e11, 1), (1e11, 1e14, 10**3), (1e14, 1e17, 10**6), (1e17, 1e20, 10**9))
_NUMBER = re.compile(r"\d{1,20}(\.\d+)?([eE]\+?\d{1,2})?")
_SHORTENED = re.compile(r"\d([.,]\d{1,8})?E\+\d{2}")
_DIGITS = re.compile(r"((?:19|20)\d\d)(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?")  # 20260901, 202609011200, 20260901120000
_SPREADSHEET_DAYS = (20_000, 80_000)  # 1954 to 2119

_YEAR_FIRST = re.compile(r"(\d{4})(?:([/.-])(\d{1,2})\2(\d{1,2})|(\d\d)(\d\d))(?!\d)(.*)")
_NAMED = re.compile(
    r"(?P<weekday>[A-Za-z]{3,9},? )?"
    r"(?:(?P<day>\d{1,2})(?:st|nd|rd|th)?[ /-](?P<month>[A-Za-z]{3,9})\.?,?[ /-]"
    r"|(?P<month2>[A-Za-z]{3,9})\.? (?P<day2>\d{1,2})(?:st|nd|rd|th)?,? )"
    r"(?P<year>\d{4}|\d\d)(?!\d)(?P<rest>.*)"
)
_YEAR_LAST = re.compile(r"[A-Za-z]{3} ([A-Za-z]{3}) (\d\d?) (\d\d:\d\d:\d\d(?: (?:UTC|GMT|[+-]\d{4}))?) (\d{4})")
_BY_SETTING = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?!\d)(.*)")
_CLOCK = re.compile(
    r"(?:T|:|,? at |,? )(?:(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?|(?<=T)(\d\d)(?:(\d\d)(?:(\d\d)(?:[.,](\d+))?)?)?)"
    r"(?: ?([AaPp])\.?[Mm](?![A-Za-z])\.?)?(.*)"
)
_ZONE = re.compile(
    r" ?(?:(?:Z|UTC|GMT)?([+-])(\d\d)(?::?(\d\d))?(?: [A-Z]{1,5})?(?: \([^()]*\))?|(Z|z|UTC|GMT))?"
    r"(?: ?\[(?:UTC|GMT|Z)\]| ?\[?([A-Za-z]+(?:/[A-Za-z_+\-0-9]+)+)\]?)?"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONG_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
                "december", "sept")  # fmt: skip


class _NoTimeError(ValueError):
    """A sentence of ours, not of a library."""


def read_time(value: Any, day_first: bool | None = None) -> datetime:
    """A time as naive UTC. A time that names no zone is UTC, whatever stands before it.

    It is a date with its year first (2026-09-01, 2026/9/1, 20260901), or with the month's English name (1 Sep 2026, Sep 1,
    2026), maybe with a clock (T12:00:00.5, 12:00, 2:30 PM) and a zone (Z, UTC, +02:00, +0200, Europe/Berlin); so ISO 8601,
    HTTP and e-mail dates, and what JavaScript, Java, Go, Ruby and `date` print are read. Or it is a number of seconds,
    milliseconds, microseconds or nanoseconds since 1970. `day_first` says how 1/9/2026 is read. Raises ValueError, with what
    is wrong in words, for anything else.
    """
    if type(value) is str and value[4:5] == "-" and value[10:11] in ("T", " ") and value[13:14] == ":":  # as most are
        try:
            return _in_utc(datetime.fromisoformat(value))
        except (ValueError, OverflowError):  # some other form
            pass
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is not a time")
    text = " ".join(str(value).split())
    try:
        if isinstance(value, str) and _SHORTENED.fullmatch(text):
            raise _NoTimeError("has lost digits: a spreadsheet has shortened it. Export times as text")
        found = _of_number(text.removesuffix(".0")) if _NUMBER.fullmatch(text) else _of_text(text, day_first)
        return _in_utc(found)
    except _NoTimeError:
        raise
    except (ValueError, OverflowError) as error:
        raise ValueError("is not a time that a calendar holds") from error


def _in_utc(found: datetime) -> datetime:
    if found.tzinfo is None or found.tzinfo is UTC:
        return found.replace(tzinfo=None)
    return found.astimezone(UTC).replace(tzinfo=None)


def _of_number(text: str) -> datetime:
    if match := _DIGITS.fullmatch(text):
        return datetime(*(int(each or 0) for each in match.groups()))  # type: ignore[arg-type]
    number = float(text)
    for low, high, unit in _UNITS:
        if low <= number < high:
            if unit > 10**6 and text.isdigit():
                return datetime(1970, 1, 1) + timedelta(microseconds=int(text) // 1000)
            return datetime(1970, 1, 1) + timedelta(microseconds=round(number * (10**6 / unit)))
    if _SPREADSHEET_DAYS[0] < number < _SPREADSHEET_DAYS[1]:
        raise _NoTimeError("looks like a spreadsheet's count of days. Export times as text, such as 2026-09-01 12:00")
    raise _NoTimeError("is not a time: no number of seconds since 1970, nor of thousandths, millionths or billionths")


def _of_text(text: str, day_first: bool | None) -> datetime:
    if match := _YEAR_FIRST.fullmatch(text):
        year, _, month, day, month2, day2, rest = match.groups()
        return _at(year, month or month2, day or day2, rest)
    if match := _YEAR_LAST.fullmatch(text):
        return _at(match[4], _month(match[1]), match[2], f" {match[3]}")
    if (match := _NAMED.fullmatch(text)) and (len(match["year"]) == 4 or match["weekday"]):
        month = _month(match["month"] or match["month2"])
        return _at(match["year"], month, match["day"] or match["day2"], match["rest"])
    if match := _BY_SETTING.fullmatch(text):
        first, _, second, year, rest = match.groups()
        if day_first is None:
            raise _NoTimeError("may have the day or the month first: say which with pairs.day_first = true or false")
        day, month = (first, second) if day_first else (second, first)
        if not 1 <= int(month) <= 12:
            raise _NoTimeError(f"is not a time with the {'day' if day_first else 'month'} first, as pairs.day_first says")
        return _at(year, month, day, rest)
    raise _NoTimeError("is not a time")


def _month(name: str) -> str:
    name = name.lower()
    if name in _MONTHS or name in _LONG_MONTHS:
        return str(_MONTHS.index(name[:3]) + 1)
    raise _NoTimeError("is not a time: it names no month in English")


def _at(year: str, month: str, day: str, rest: str) -> datetime:
    """A day, and what stands behind it: a clock and a zone, or nothing."""
    date = datetime(int(year) if len(year) == 4 else 2000 + int(year), int(month), int(day))
    if rest.strip() in ("", "Z", "UTC", "GMT"):
        return date
    if not (match := _CLOCK.fullmatch(rest)):
        raise _NoTimeError("is not a time")
    *clock, half, tail = match.groups()
    hour, minute, second, fraction = clock[:4] if clock[0] else clock[4:]
    if half:
        if not 1 <= int(hour) <= 12:
            raise _NoTimeError("is not a time")
        hour = str(int(hour) % 12 + 12 * (half in "pP"))
    micro = int(f"{fraction or 0:0<6}"[:6])
    return date.replace(hour=int(hour), minute=int(minute or 0), second=int(second or 0), microsecond=micro, tzinfo=_zone(tail))


def _zone(text: str) -> tzinfo:
    """The zone that is named behind a clock: an offset before a name, and UTC when there is neither."""
    if not (match := _ZONE.fullmatch(text)):
        if letters := re.fullmatch(r" ?([A-Za-z]{2,5})", text):
            raise _NoTimeError(f"names the zone {letters[1]}, which may be one of several. Write its offset, such as -05:00")
        raise _NoTimeError("is not a time")
    sign, hours, minutes, _, name = match.groups()
    if sign:
        if int(hours) > 23 or int(minutes or 0) > 59:
            raise _NoTimeError("is not a time")
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
        return timezone(-offset if sign == "-" else offset)
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # the last for a name such as Europe, which is a folder
        raise _NoTimeError(f"names the zone {name}, which is unknown") from error
