"""When a new training starts by itself: one pure decision, with its reason, and what it is made from."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flywheel.pairs.store.aside import new_pairs_aside
from flywheel.pairs.store.new_pairs import NewPairs
from flywheel.pipeline.workspace import Workspace
from flywheel.pipeline.worth import Worth, expected_worth
from flywheel.training.options import RetrainingOptions

_LEAST = 10  # a schedule, or age, retrains for a tenth of `after` and not for less


@dataclass(frozen=True)
class Retraining:
    """Whether to retrain now, and why, or why not."""

    due: bool
    reason: str


def decide_retraining(
    pairs: NewPairs,
    options: RetrainingOptions,
    has_model: bool,
    ingesting: bool,
    now: datetime,
    scheduled: bool = False,
    worth: Worth | str | None = None,
) -> Retraining:
    """Whether enough has come in: `after` new interaction pairs, or the `share` of those that the last training saw.

    When it is `scheduled`, the last training is `max_age_days` old, or what the new pairs are `worth` pays for a run, a tenth
    of `after` is enough. A home without any model waits until somebody trains one, unless `first` is set; none retrains while a
    delivery is being taken in.
    """
    if ingesting:
        return Retraining(False, "a delivery is being taken in")
    if not has_model and not options.first:
        return Retraining(
            False, "no model has been trained yet: train one with `flywheel grid` or by hand, or set retraining.first"
        )
    least = _least(options)
    old = False
    if pairs.last is not None and options.max_age_days is not None:
        old = now - pairs.last.replace(tzinfo=UTC) >= timedelta(days=options.max_age_days)
    if pairs.new >= options.after:
        return Retraining(True, f"{pairs.new:,} new interaction pairs, and retraining.after is {options.after:,}")
    if options.share is not None and pairs.new >= max(1, options.share * pairs.trained):
        return Retraining(
            True, f"{pairs.new:,} new interaction pairs beside {pairs.trained:,}, and retraining.share is {options.share:g}"
        )
    if (scheduled or old) and pairs.new >= least:
        why = "by schedule" if scheduled else f"the last training is over {options.max_age_days} days old"
        return Retraining(True, f"{pairs.new:,} new interaction pairs, {why}")
    if isinstance(worth, Worth) and worth.pays and pairs.new >= least:
        return Retraining(True, f"{pairs.new:,} new interaction pairs: {worth}")
    wanted = least if scheduled or old else options.after
    unpaid = f" ({worth})" if worth else ""
    return Retraining(False, f"{pairs.new:,} of {wanted:,} new interaction pairs{unpaid}")


def retraining_due(workspace: Workspace, ingesting: bool, scheduled: bool = False) -> tuple[Retraining, str]:
    """Decide for a home as it is now; also gives a key of what was decided on.

    The key is another one when a tenth of `after` more has come in: what has failed for it is then worth another try.
    """
    pairs = new_pairs_aside(workspace.home, workspace.settings.storage)
    has_model = pairs.last is not None or workspace.registry.champion() is not None
    claimed = any((workspace.home.inbox / "work").glob("*"))
    options = workspace.settings.retraining
    asked = options.point_dollars is not None and pairs.new >= _least(options)
    worth = expected_worth(workspace, pairs.new) if asked else None
    found = decide_retraining(pairs, options, has_model, ingesting or claimed, datetime.now(UTC), scheduled, worth)
    return found, f"{pairs.since}-{pairs.new // _least(options)}"


def _least(options: RetrainingOptions) -> int:
    return -(-options.after // _LEAST)
