"""Old runs leave Dagster's store, with their files; what an asset is now, and other people's runs, stay."""

from pathlib import Path

import dagster as dg
import pytest

from flywheel.errors import FlywheelError
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.housekeeping import old_runs
from flywheel.orchestration.instance import open_session, remove_runs
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.helpers.postgres import DATABASE, USER

PARTS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset
def plain() -> None:
    """One of their assets."""


@dg.asset(partitions_def=PARTS)
def parted() -> None:
    """One with partitions."""


def files_of_runs(home: Path) -> set[str]:
    return {path.stem for path in (home / "dagster" / "storage").rglob("*.db") if len(path.stem) == 36}


def test_runs_beyond_the_newest_go_with_their_files_and_those_that_made_what_is_there_stay(workspace: Workspace) -> None:
    workspace = with_options(workspace, housekeeping={"runs": 3})
    with open_session(workspace.settings) as session:
        instance = session.instance
        made = {part: dg.materialize([parted], partition_key=part, instance=instance).run_id for part in ("a", "b")}
        runs = [dg.materialize([plain], instance=instance).run_id for _ in range(6)]
        assert old_runs(instance, None, [plain.key, parted.key], most=3) == runs[2::-1]
        assert old_runs(instance, None, [], most=3) == [*runs[2::-1], made["b"], made["a"]]
        assert old_runs(instance, {"somebody_elses"}, [], most=0) == []

        defs = build_defs(workspace.settings, workspace=workspace)
        together = dg.Definitions.merge(defs, dg.Definitions([plain, parted]))
        assert together.resolve_job_def("housekeeping").execute_in_process(instance=instance).success
        left = {run.run_id for run in instance.get_runs()}
        assert runs[0] not in left
        assert len(left) <= 4
        assert files_of_runs(workspace.home.root) <= left
        assert not list(workspace.home.dagster.rglob(f"*{runs[0]}*"))


@dg.asset_check(asset=plain)
def is_plain() -> dg.AssetCheckResult:
    """A check that runs with its asset."""
    return dg.AssetCheckResult(passed=True)


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_what_checks_found_in_removed_runs_goes_too_but_for_the_last_of_each_check(
    store: str, request: pytest.FixtureRequest
) -> None:
    storage = {}
    if store == "postgres":
        at = request.getfixturevalue("postgres")
        url = f"postgresql+psycopg2://{USER}@{at.host}:{at.port}/{DATABASE}"
        storage = {"storage": {"postgres": {"postgres_url": url}}}

    with dg.instance_for_test(overrides=storage) as instance:

        def checked() -> list[str]:
            history = instance.event_log_storage.get_asset_check_execution_history(next(iter(is_plain.check_keys)), limit=100)
            return [each.run_id for each in history]

        runs = [dg.materialize([plain, is_plain], instance=instance).run_id for _ in range(5)]
        assert checked() == runs[::-1]
        remove_runs(instance, runs[:3])
        assert checked() == [runs[4], runs[3]]
        unchecked = dg.materialize([plain], instance=instance).run_id
        remove_runs(instance, [*runs[3:], unchecked])
        assert checked() == [runs[4]], "the page shows what the check found last"
        assert not instance.get_runs()


def test_housekeeping_waits_for_a_turn_to_end_and_a_wrong_cron_is_one_sentence(workspace: Workspace) -> None:
    from dagster._core.test_utils import create_run_for_test

    defs = build_defs(workspace.settings)
    schedule = defs.resolve_schedule_def("nightly_housekeeping")
    with dg.instance_for_test() as instance:

        def tick() -> object:
            context = dg.build_schedule_context(instance=instance, resources=dict(defs.resources or {}))
            found = schedule.evaluate_tick(context)
            return found.run_requests or found.skip_message

        assert isinstance(tick(), list)
        create_run_for_test(instance, "retrain", status=dg.DagsterRunStatus.STARTED)
        assert tick() == "a run of retrain is in flight"
    with pytest.raises(FlywheelError, match=r"housekeeping\.cron is not a cron schedule: 'nightly'"):
        build_defs(with_options(workspace, housekeeping={"cron": "nightly"}).settings)
