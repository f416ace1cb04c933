"""Telling people: a job that sends one message, and the two sensors that ask for it, once an event.

A message has a run of its own, whose key is the event's: Dagster launches none twice, and a server that hangs holds up no turn.
A run that was killed, or reached nobody, is launched again like any other; who has the message does not get it again.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from flywheel.alarms import send
from flywheel.alarms.alarm import Alarm
from flywheel.alarms.options import Kind
from flywheel.errors import FlywheelError
from flywheel.orchestration.failures import sentence_of
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.instance import last_skip
from flywheel.orchestration.launching import LAUNCHED_FOR_TAG, Launch, attempts_left, decide_from_runs
from flywheel.orchestration.news import NOTHING_SEEN, Check, Seen, World, news
from flywheel.pairs.store.overview import last_delivery

_LONGEST_RUN = {"dagster/max_runtime": "600"}  # seconds, for a server that answers and never ends
_TAKEN_TAG = "flywheel/taken"  # of a message's run: which addresses have it
_NOT_SET = f"{send.VARIABLE} is not set where this runs: nothing is told"


class AlarmConfig(dg.Config):
    """The message."""

    kind: str
    sentence: str
    page: str


def build_alarms(
    flywheel: Flywheel, assets: Sequence[dg.AssetsDefinition], watched: Sequence[Any], running: bool
) -> tuple[list[dg.JobDefinition], list[dg.SensorDefinition]]:
    """The job, and its sensors, which look at the checks of `assets` and at failed runs of the `watched` jobs.

    Checks of cells are not told: one for each cell, they would say now this and now that, to somebody who looks at them anyway.
    """
    job = _job(flywheel)
    cells = {key for each in assets if each.partitions_def for key in each.keys}
    checks = [key for each in assets for key in each.check_keys if key.asset_key not in cells]
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
    return [job], [_news_sensor(flywheel, job, checks, status), _failure_sensor(flywheel, job, watched, status)]


def _job(flywheel: Flywheel) -> dg.JobDefinition:
    @dg.op(name=flywheel.name("send_alarm"), required_resource_keys={flywheel.resource}, out=dg.Out(dg.Nothing))
    def send_alarm(context: dg.OpExecutionContext, config: AlarmConfig) -> None:
        with flywheel.at_work(context) as workspace:
            alarm = Alarm(**config.model_dump())
            text = alarm.text(workspace.settings.alarms.ui_url)
            context.log.info(text)
            services = send.services()
            if not services:
                raise FlywheelError(f"{_NOT_SET}. Set it where runs execute, and launch this run again.")
            has_it = _who_has_it(context.instance, context.run)

            def taken(service: send.Service) -> None:
                has_it.add(service.number)
                context.instance.add_run_tags(context.run.run_id, {_TAKEN_TAG: " ".join(map(str, sorted(has_it)))})

            left = [service for service in services if service.number not in has_it]
            send.send(left, alarm.kind, text, of=_called(flywheel), tell=context.log.info, taken=taken)

    @dg.job(name=flywheel.name("alarm"), description="Send one message to the addresses of the environment.", tags=_LONGEST_RUN)
    def alarm() -> None:
        send_alarm()

    return alarm


def _called(flywheel: Flywheel) -> str:
    return "/".join(["flywheel", *flywheel.key_prefix])


def _who_has_it(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[int]:
    """The addresses, by their places, that an earlier run for the same event has reached."""
    event = run.tags.get(LAUNCHED_FOR_TAG)
    runs = instance.get_runs(dg.RunsFilter(job_name=run.job_name, tags={LAUNCHED_FOR_TAG: event})) if event else []
    return {int(number) for each in runs for number in each.tags.get(_TAKEN_TAG, "").split()}


def _request(flywheel: Flywheel, key: str, alarm: Alarm) -> dg.RunRequest:
    config = AlarmConfig(kind=alarm.kind, sentence=alarm.sentence, page=alarm.page)
    run_config = dg.RunConfig(ops={flywheel.name("send_alarm"): config})
    return dg.RunRequest(run_key=key, run_config=run_config, tags={LAUNCHED_FOR_TAG: key})


def _once_more(instance: dg.DagsterInstance, job: str) -> list[dg.RunRequest]:
    """Messages of the last day whose run has failed, or was killed, and that are to be tried again."""
    since = datetime.now(UTC) - timedelta(days=1)
    failed = instance.get_runs(dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.FAILURE], created_after=since))
    events = {event: run for run in failed if (event := run.tags.get(LAUNCHED_FOR_TAG))}
    decided = ((run, event, decide_from_runs(instance, job, event)) for event, run in events.items())
    return [
        dg.RunRequest(run_key=decision.run_key, run_config=dict(run.run_config), tags={LAUNCHED_FOR_TAG: event})
        for run, event, decision in decided
        if isinstance(decision, Launch)
    ]


def _news_sensor(
    flywheel: Flywheel, job: dg.JobDefinition, checks: Sequence[dg.AssetCheckKey], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=flywheel.name("alarm_sensor"), job_name=job.name, minimum_interval_seconds=_interval(), default_status=status,
        required_resource_keys={flywheel.resource},
        description="Tells what became of each turn, checks that begin to warn, a skipped schedule, days without data.",
    )  # fmt: skip
    def alarm_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if not send.are_set():
            return dg.SensorResult(cursor=NOTHING_SEEN, skip_reason=_NOT_SET)
        workspace = flywheel.workspace(context)
        options = workspace.settings.alarms
        origin = context.code_location_origin
        world = World(
            entries=workspace.registry.history(),
            checks={
                f"{key.asset_key.path[-1]}-{key.name}": found for key in checks if (found := _check(context.instance, key))
            },
            last_data=last_delivery(workspace.store) if options.no_data_days else None,
            skipped=last_skip(context.instance, flywheel.name("weekly_retrain"), origin.location_name if origin else None),
            champion_page=_page(flywheel.key("champion")),
            data_page=_page(flywheel.key("interaction_pairs")),
        )
        events, seen = news(Seen.of(context.cursor), world, options.no_data_days, datetime.now(UTC))
        told = {key: alarm for key, alarm in events.items() if alarm.kind in options.tell}
        requests = [_request(flywheel, key, alarm) for key, alarm in told.items()] + _once_more(context.instance, job.name)
        return dg.SensorResult(run_requests=requests, cursor=seen.to_json(), skip_reason=None if requests else "nothing new")

    return alarm_sensor


def _interval() -> int:
    """Seconds between two looks; without an address there is nobody to tell, and a look would only cost."""
    return 30 if send.are_set() else 600


def _page(asset: dg.AssetKey) -> str:
    return f"assets/{'/'.join(asset.path)}"


def _check(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> Check | None:
    """How a check ended last; None while it has not ended or is running."""
    record = instance.get_latest_asset_check_evaluation_record(key)
    if record is None or not isinstance(found := record.evaluation, dg.AssetCheckEvaluation):
        return None
    warns = found.severity == dg.AssetCheckSeverity.WARN
    reason = (found.description or "no reason was given").removesuffix(".")
    sentence = f"{key.asset_key.path[-1]}: the check {key.name} {'warns' if warns else 'fails'}: {reason}."
    page = f"{_page(key.asset_key)}?view=checks&checkDetail={key.name}"
    kind: Kind = "check warns" if warns else "check failed"
    return Check(record.id, None if found.passed else kind, sentence, page)


def _failure_sensor(
    flywheel: Flywheel, job: dg.JobDefinition, watched: Sequence[Any], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    def tell(context: dg.RunStatusSensorContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        run, instance = context.dagster_run, context.instance
        options = flywheel.workspace(context).settings.alarms
        if not send.are_set() or "run failed" not in options.tell:
            yield dg.SkipReason(_NOT_SET if not send.are_set() else "alarms.tell leaves failed runs out")
        elif left := attempts_left(instance, run):
            yield dg.SkipReason(f"the run is tried again, {left} more times at most")
        elif _was_blocked(instance, run.run_id):
            yield dg.SkipReason("a check has blocked the run, which is told as such")
        else:
            reasons = (sentence_of(event) for event in _step_failures(context))
            reason = next(filter(None, reasons), None) or context.dagster_event.message or "no reason was given"
            sentence = f"A run of {run.job_name} has failed and waits for a person, or for new data: {reason}"
            yield _request(flywheel, f"failed-{run.run_id}", Alarm("run failed", sentence, f"runs/{run.run_id}"))

    return dg.RunStatusSensorDefinition(
        name=flywheel.name("failure_sensor"), run_status=dg.DagsterRunStatus.FAILURE, run_status_sensor_fn=tell,
        minimum_interval_seconds=_interval(), monitored_jobs=list(watched), request_job=job, default_status=status,
        required_resource_keys={flywheel.resource},
        description="Tells of an ingest or a retraining that has failed and is not tried again.",
    )  # fmt: skip


def _step_failures(context: dg.RunStatusSensorContext) -> Sequence[dg.DagsterEvent]:
    return context.for_run_failure().get_step_failure_events()


def _was_blocked(instance: dg.DagsterInstance, run_id: str) -> bool:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = (record.event_log_entry.dagster_event for record in records)
    found = (event.event_specific_data for event in events if event)
    return any(isinstance(each, dg.AssetCheckEvaluation) and not each.passed and each.blocking for each in found)
