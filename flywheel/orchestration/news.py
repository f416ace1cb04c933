"""What has happened since the last look that somebody is told: a pure decision, from what was seen then and is there now."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from flywheel.alarms.alarm import Alarm, alarm_of
from flywheel.alarms.options import Kind
from flywheel.registry.champions import Entry

NOTHING_SEEN = "{}"  # the cursor of looks that tell nobody: what happened till then is no news either


@dataclass(frozen=True)
class Check:
    """How a check ended last: `number` is of that evaluation, `failed` the kind of alarm that it then is."""

    number: int
    failed: Kind | None
    sentence: str
    page: str


@dataclass(frozen=True)
class World:
    """What there is to tell of. `checks` are those that are not running just now. `skipped` is the last look of the schedule,
    where it skipped: when, and why.
    """

    entries: Sequence[Entry]
    checks: Mapping[str, Check]
    last_data: datetime | None
    skipped: tuple[float, str] | None
    champion_page: str
    data_page: str


@dataclass(frozen=True)
class Seen:
    """What was told, or was there before anybody listened: the sensor's cursor."""

    entry: int
    failing: tuple[str, ...]
    quiet_since: str | None
    skipped: float

    @classmethod
    def of(cls, cursor: str | None) -> "Seen | None":
        """The cursor of an earlier look; None before the first, and after one when there was nobody to tell."""
        seen = json.loads(cursor or NOTHING_SEEN)
        if not seen:
            return None
        return cls(**{**seen, "failing": tuple(seen["failing"])})

    def to_json(self) -> str:
        """As a cursor."""
        return json.dumps(asdict(self))


def news(seen: Seen | None, world: World, no_data_days: int | None, now: datetime) -> tuple[dict[str, Alarm], Seen]:
    """What is to be told, each under a key that no other event has, and what has been seen by now.

    Of a check that fails each time, the first is told. The first look tells nothing: what was there before is no news.
    """
    quiet = _quiet_since(world, no_data_days, now)
    failing = {name: check for name, check in world.checks.items() if check.failed}
    running = [name for name in (seen.failing if seen else ()) if name not in world.checks]  # it failed before
    skipped = world.skipped[0] if world.skipped else 0.0
    last_entry = world.entries[-1].number if world.entries else 0
    present = Seen(last_entry, tuple(sorted({*failing, *running})), quiet.isoformat() if quiet else None, skipped)
    if seen is None:
        return {}, present
    found = {f"entry-{each.number}": alarm_of(each, world.champion_page) for each in world.entries if each.number > seen.entry}
    for name, check in failing.items():
        if check.failed and name not in seen.failing:
            found[f"check-{name}-{check.number}"] = Alarm(check.failed, check.sentence, check.page)
    if world.skipped and skipped > seen.skipped:
        found[f"skipped-{skipped:.0f}"] = Alarm(
            "retraining skipped", f"The scheduled retraining was skipped: {world.skipped[1]}.", "automation"
        )
    if quiet and present.quiet_since != seen.quiet_since:
        days = f"{(now - quiet).days} days, since {quiet:%Y-%m-%d %H:%M} UTC"
        found[f"no-data-{quiet:%Y%m%dT%H%M%S}"] = Alarm("no data", f"No new interactions for {days}.", world.data_page)
    return found, Seen(last_entry, present.failing, present.quiet_since, max(skipped, seen.skipped))


def _quiet_since(world: World, days: int | None, now: datetime) -> datetime | None:
    if world.last_data is None or days is None or now - world.last_data < timedelta(days=days):
        return None
    return world.last_data.astimezone(UTC)
