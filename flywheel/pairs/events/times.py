"""Times as the world writes them, each read by itself: no time says anything about the zone of another one."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# A number of seconds, milli-, micro- or nanoseconds since 1970: which, its size says. Below the first is a day: 20260101.
_UNITS = ((1e8, 1e11, 1), (1e11, 1e14, 10**3), (1e14, 1e17, 10**6), (1e17, 1e20, 10**9))
_NUMBER = re.compile(r"\d{1,20}(\.\d+)?([eE]\+?\d{1,2})?")
_DAY = re.compile(r"(19|20)\d{6}")
_OFFSET = re.compile(r"(.*\d) ?([+-]\d{2}:?\d{2}|[+-]\d{2}|Z|z|UTC|GMT)")
_ZONE = re.compile(r"(.*\d) ?\[?([A-Za-z]+(?:/[A-Za-z_+\-0-9]+)+)\]?")
_HTTP = re.compile(r"(?:\w{3,9},? )?\d{1,2}[ -]\w{3}[ -]\d{2,4} \d\d?:\d\d(:\d\d)? (GMT|UTC|[+-]\d{4})")
_C = re.compile(r"\w{3} \w{3} \d\d? \d\d:\d\d:\d\d \d{4}")
_SHORT_HOUR = re.compile(r"(?<=[T ])(?=\d:)")
_SCRIPT = re.compile(r"(\w{3} \w{3} \d\d \d{4} \d\d:\d\d:\d\d GMT[+-]\d{4})(?: \(.*\))?")
_BY_SETTING = re.compile(
    r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?:,? +(\d{1,2}:\d\d(?::\d\d)?(?:\.\d+)?)(?: ?([AaPp][Mm]))?)?(.*)"
)
_YEAR_FIRST = re.compile(r"(\d{4})[/.](\d{2})[/.](\d{2})(.*)", re.DOTALL)


def read_time(value: Any, day_first: bool | None = None) -> datetime:
    """A time as naive UTC. A time that names no zone is UTC, whatever stands before it.

    It is ISO 8601 (also 20260901, also with a blank before the offset, or a zone such as Europe/Berlin), an HTTP or e-mail
    date, or a number of seconds, milliseconds, microseconds or nanoseconds since 1970. `day_first` says how 1/9/2026 is
    read. Raises ValueError, with what is wrong in words, for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is not a time")
    text = str(value).strip()
    try:
        found = _of_number(text) if _NUMBER.fullmatch(text) else _of_text(" ".join(text.split()), day_first)
        return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    except OverflowError as error:
        raise ValueError("is not a time that a calendar holds") from error


def _of_number(text: str) -> datetime:
    if _DAY.fullmatch(text):
        return _plain(text, "")
    number = float(text)
    for low, high, unit in _UNITS:
        if low <= number < high:
            if unit > 10**6 and text.isdigit():
                return datetime(1970, 1, 1) + timedelta(microseconds=int(text) // 1000)
            return datetime(1970, 1, 1) + timedelta(microseconds=round(number * (10**6 / unit)))
    raise ValueError("is not a time: no number of seconds since 1970, nor of thousandths, millionths or billionths")


def _of_text(text: str, day_first: bool | None) -> datetime:
    if text[4:5] == "-" and text[5:6].isdigit():  # most times are
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    if _HTTP.fullmatch(text) or _C.fullmatch(text):
        return parsedate_to_datetime(text)
    if match := _SCRIPT.fullmatch(text):
        return datetime.strptime(match[1], "%a %b %d %Y %H:%M:%S GMT%z")
    if match := _BY_SETTING.fullmatch(text):
        return _by_setting(match, day_first)
    if match := _YEAR_FIRST.fullmatch(text):
        text = f"{match[1]}-{match[2]}-{match[3]}{match[4]}"
    return _iso(text)


def _iso(text: str) -> datetime:
    if (match := _OFFSET.fullmatch(text)) and (":" in match[1] or match[2].isalpha()):
        return _plain(match[1] if ":" in match[1] else f"{match[1]} 00:00", "+00:00" if match[2].isalpha() else match[2])
    if match := _ZONE.fullmatch(text):
        try:
            return _plain(match[1], "").replace(tzinfo=ZoneInfo(match[2]))
        except (ZoneInfoNotFoundError, OSError) as error:  # the latter for a name such as Europe, which is a folder
            raise ValueError(f"names the zone {match[2]}, which is unknown") from error
    return _plain(text, "")


def _plain(text: str, offset: str) -> datetime:
    if not text[:1].isdigit() or "W" in text:
        raise ValueError("is not a time")
    try:
        return datetime.fromisoformat(_SHORT_HOUR.sub("0", text.strip()) + offset)
    except ValueError as error:
        raise ValueError("is not a time") from error


def _by_setting(match: re.Match[str], day_first: bool | None) -> datetime:
    if day_first is None:
        raise ValueError("may have the day or the month first: say which with pairs.day_first = true or false")
    first, _, second, year, clock, half, rest = match.groups()
    day, month = (first, second) if day_first else (second, first)
    if half:
        hour, colon, minutes = clock.partition(":")
        if not 1 <= int(hour) <= 12:
            raise ValueError("is not a time")
        clock = f"{int(hour) % 12 + 12 * (half.lower() == 'pm')}{colon}{minutes}"
    if (rest.strip() and not clock) or not 1 <= int(month) <= 12:
        raise ValueError(f"is not a time with the {'day' if day_first else 'month'} first, as pairs.day_first says")
    return _iso(f"{int(year) if len(year) == 4 else 2000 + int(year)}-{month:0>2}-{day:0>2} {clock or '00:00'}{rest}")
