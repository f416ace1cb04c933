"""Checks of what comes in: yellow until somebody has dealt with it, in words and figures."""

import os
from pathlib import Path

import dagster as dg

from flywheel.orchestration.build import build_defs
from flywheel.pairs.inbox import rejected_deliveries
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.pairs.test_ingest import line, write


def evaluate(
    workspace: Workspace, instance: dg.DagsterInstance, asset: str, *checks: str
) -> dict[str, dg.AssetCheckEvaluation]:
    """Run checks alone, as a person does from the page."""
    made = build_defs(workspace.settings, workspace=workspace)
    keys = [dg.AssetCheckKey(dg.AssetKey(asset), name) for name in checks]
    job = dg.define_asset_job("look", selection=dg.AssetSelection.checks(*keys))
    run = dg.Definitions.merge(made, dg.Definitions(jobs=[job])).resolve_job_def("look")
    found = run.execute_in_process(instance=instance, raise_on_error=False).get_asset_check_evaluations()
    return {each.check_name: each for each in found}


def ingest(workspace: Workspace, instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    made = build_defs(workspace.settings, workspace=workspace)
    found = made.resolve_job_def("ingest").execute_in_process(instance=instance).get_asset_check_evaluations()
    return {each.check_name: each for each in found}


def drop(inbox: Path, name: str, content: bytes) -> None:
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / name).write_bytes(content)
    os.utime(inbox / name, (1, 1))


def test_what_could_not_be_read_stays_yellow_until_it_is_mended_or_deleted(workspace: Workspace) -> None:
    inbox = workspace.home.inbox
    drop(inbox, "good.csv", b"text_a,text_b,label\na,b,1\n")
    drop(inbox, "nocols.csv", b"left,right,label\na,b,1\n")
    drop(inbox, "report.xlsx", b"PK\x03\x04")
    drop(inbox, "empty-of-events.jsonl", bytes(range(128, 250)) * 3)
    with dg.instance_for_test() as instance:
        found = ingest(workspace, instance)["rejected_files"]
        assert (found.passed, found.severity, found.metadata["rejected"].value) == (False, dg.AssetCheckSeverity.WARN, 3)
        assert found.description
        for name in (" nocols.csv:1 has the columns", " report.xlsx is", " empty-of-events.jsonl"):
            assert name in found.description, "as it was delivered"
        assert f"Fix each and move it from {inbox / 'rejected'} back into {inbox}, or delete it" in found.description
        drop(inbox, "more.csv", b"text_a,text_b,label\nc,d,1\n")
        assert not ingest(workspace, instance)["rejected_files"].passed, "a good delivery changes nothing"
        for each in rejected_deliveries(inbox):
            if each.name == "nocols.csv":
                each.path.write_bytes(b"text_a,text_b,label\ne,f,1\n")
                each.path.rename(inbox / each.name)
                os.utime(inbox / each.name, (1, 1))
            else:
                each.path.unlink()
        assert evaluate(workspace, instance, "interaction_pairs", "rejected_files")["rejected_files"].passed
        after = ingest(workspace, instance)
        assert after["rejected_files"].passed
        assert after["rejected_files"].metadata["rejected"].value == 0
    files = sorted(path.name.partition("-")[2] for path in (inbox / "done").iterdir())
    assert files == ["good.csv", "more.csv", "nocols.csv"]


def test_many_quarantined_records_are_yellow_with_one_row_a_kind_of_reason(workspace: Workspace) -> None:
    inbox = workspace.home.inbox
    with dg.instance_for_test() as instance:
        good = [line(f"a{i}", f"b{i}") for i in range(18)]
        broken = [b"\xff\xfe" + good[0], good[1][:9] + b"\xff" + good[1][9:]]  # not UTF-8, at bytes 0 and 9
        os.utime(write(inbox, [*good, *broken], "some.jsonl"), (1, 1))
        found = ingest(workspace, instance)["quarantine_share"]
        assert not found.passed
        assert (found.metadata["share"].value, found.metadata["records"].value) == (0.1, 20)
        (row,) = found.metadata["reasons"].value.records
        assert row.data["lines"] == 2
        assert str(found.description).startswith(
            "10.0 % of the newest 20 records are quarantined (deliveries: 1); pairs.max_quarantined is 5.0 %. Most often: "
        )
        os.utime(write(inbox, [line(f"c{i}", f"d{i}") for i in range(1000)], "good.jsonl"), (1, 1))
        found = ingest(workspace, instance)["quarantine_share"]
        assert found.passed
        assert found.metadata["records"].value == 1000, "the newest deliveries count"
