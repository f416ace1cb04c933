"""The store and the snapshots on storage that several machines share: a real S3-compatible server, a real DuckLake."""

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import fsspec
import pytest

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.forget import Selection, forget
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.snapshots.folder import LATEST, Snapshots, fetch_snapshot
from flywheel.pairs.snapshots.snapshot import MANIFEST
from flywheel.pairs.store.labels import count_pairs
from flywheel.pairs.store.new_pairs import new_pairs
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.clumps import MINILM, clump_lines
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.postgres import Postgres
from flywheel_tests.helpers.s3 import s3
from flywheel_tests.pairs.test_ingest import line, rows, write

__all__ = ["s3"]  # a fixture

LINES = clump_lines(range(120))


def test_a_snapshot_goes_to_s3_and_another_home_fetches_it(s3: str, tmp_path: Path) -> None:
    here, there = (make_workspace(tmp_path / name, storage={"root": f"{s3}/fetched"}) for name in ("here", "there"))
    ingest_files(here.store, [write(tmp_path, LINES)])
    taken = take_snapshot(here.store, here.snapshots, here.split_rules)
    found = there.snapshots.latest()
    assert found is not None
    assert found.folder.is_relative_to(there.home.root)
    assert (found.snapshot_id, found.test_id) == (taken.snapshot_id, taken.test_id)
    assert found.pairs("train").equals(taken.pairs("train"))
    assert found.shared_questions() == 0
    by_uri = fetch_snapshot(f"{s3}/fetched/snapshots/{taken.snapshot_id}", tmp_path / "third")
    assert by_uri.pairs("test").equals(taken.pairs("test"))


def test_an_upload_that_was_cut_off_is_no_snapshot_and_is_completed(s3: str, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "home")
    ingest_files(workspace.store, [write(tmp_path, LINES)])
    taken = take_snapshot(workspace.store, workspace.snapshots, workspace.split_rules)
    uri = f"{s3}/cut/{taken.snapshot_id}"
    bucket = fsspec.filesystem("s3")
    bucket.pipe_file(f"{uri}/train.parquet", b"half")
    with pytest.raises(FlywheelError, match=r"is not complete: it has no manifest.json. Upload it again"):
        fetch_snapshot(uri, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())
    storage.upload(taken.folder, uri, MANIFEST)
    assert fetch_snapshot(uri, tmp_path / "other").pairs("train").equals(taken.pairs("train"))
    shared = Snapshots(taken.folder.parent, f"{s3}/cut")
    shared.make_latest(taken)
    assert storage.read(f"{s3}/cut/{LATEST}") is not None
    shared.remove(taken.snapshot_id)
    assert shared.latest() is None
    assert storage.read(f"{s3}/cut/{LATEST}") is None
    bucket.invalidate_cache()
    assert not bucket.exists(uri)


def test_a_job_on_any_machine_takes_its_snapshot_by_uri(s3: str, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "home", storage={"root": f"{s3}/jobs"})
    ingest_files(workspace.store, [write(tmp_path, LINES)])
    taken = take_snapshot(workspace.store, workspace.snapshots, workspace.split_rules)
    job = {
        "variant": "all-MiniLM-L6-v2@32", "size": "100", "recipe": "head", "random_seed": 0, "interaction_share": 0.0,
        "snapshot_id": "another", "base": asdict(MINILM), "weights": workspace.vectors(MINILM.name).weights_id, "head": {},
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    ran = subprocess.run(
        [sys.executable, "-m", "flywheel.training", "job.json", f"{s3}/jobs/snapshots/{taken.snapshot_id}", "models", "cache"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1  # it has read the snapshot, which is not the job's
    assert f"The job is for snapshot another, but {s3}/jobs/snapshots/{taken.snapshot_id} is {taken.snapshot_id}." in ran.stderr
    kept = Snapshots(tmp_path / "snapshots").load(taken.snapshot_id)  # beside the folder of cached vectors
    assert kept.pairs("train").equals(taken.pairs("train"))


def test_a_model_folder_goes_to_s3_with_its_record_last(s3: str, tmp_path: Path) -> None:
    (tmp_path / "model" / "3_Dense").mkdir(parents=True)
    for name in ("flywheel.json", "modules.json", "3_Dense/config.json"):
        (tmp_path / "model" / name).write_text(name)
    storage.upload(tmp_path / "model", f"{s3}/models/id", last="flywheel.json")
    assert storage.read(f"{s3}/models/id/3_Dense/config.json") == b"3_Dense/config.json"
    written = {name: details["LastModified"] for name, details in fsspec.filesystem("s3").find(s3, detail=True).items()}
    mine = {name: when for name, when in written.items() if "/models/id/" in name}
    assert len(mine) == 4  # and the list of checksums
    assert max(mine.values()) == mine["pairs/models/id/flywheel.json"]
    assert storage.read(f"{s3}/models/other/flywheel.json") is None


def test_of_several_machines_that_create_one_file_on_s3_one_has_done_so(s3: str) -> None:
    for turn in range(5):
        with ThreadPoolExecutor(8) as machines:
            create = partial(storage.create, f"{s3}/created/{turn}.json")
            created = list(machines.map(create, [bytes([number]) for number in range(8)]))
        assert created.count(True) == 1
        assert storage.read(f"{s3}/created/{turn}.json") == bytes([created.index(True)])


def test_storage_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path / "home", storage={"root": "nonsense://bucket"})
    ingest_files(workspace.store, [write(tmp_path, LINES)])
    with pytest.raises(FlywheelError, match=r"nonsense://bucket.*cannot be written.*nothing is lost"):
        take_snapshot(workspace.store, workspace.snapshots, workspace.split_rules)


def lake(home: Path, data: str | None = None) -> Workspace:
    return make_workspace(home, storage={"database": f"ducklake:sqlite:{home}/catalogue.sqlite", "data_path": data})


def test_a_store_in_a_ducklake_on_s3_holds_what_one_file_holds(s3: str, tmp_path: Path) -> None:
    batches = [
        write(tmp_path, LINES, "one.jsonl"),
        write(tmp_path, [line("quite new", "clump3 intenta wording0")], "two.jsonl"),
    ]
    ids = []
    for workspace in (make_workspace(tmp_path / "file"), lake(tmp_path / "lake", f"{s3}/lake")):
        store = workspace.store
        ingest_files(store, batches[:1])
        take_snapshot(store, workspace.snapshots, workspace.split_rules)
        reports = ingest_files(store, batches)
        snapshot = take_snapshot(store, workspace.snapshots, workspace.split_rules)
        counted = [(r.accepted, r.duplicates, r.embargoed) for r in reports]
        ids.append((snapshot.snapshot_id, snapshot.test_id, count_pairs(store), new_pairs(store).new, counted))
    assert ids[0] == ids[1]
    assert fsspec.filesystem("s3").find(f"{s3}/lake")
    assert not (tmp_path / "lake" / "flywheel.duckdb").exists()


def test_what_a_ducklake_forgets_is_in_none_of_its_files(tmp_path: Path) -> None:
    workspace = lake(tmp_path / "home")
    store = workspace.store
    ingest_files(store, [write(tmp_path, [*LINES, line("my secret garden", "a garden behind the wall", user="u1")])])
    assert "garden" in _everything(workspace.home.root)
    assert forget(store, Selection(user="u1")).observations == 1
    assert "garden" not in _everything(workspace.home.root)
    assert rows(store, "SELECT count(*) FROM observations") == [(len(LINES),)]


def _everything(home: Path) -> str:
    import pandas as pd

    frames = [pd.read_parquet(path).to_csv() for path in home.rglob("*.parquet")]
    return "".join([*frames, (home / "catalogue.sqlite").read_bytes().decode("latin-1")])


def _ingest_one(workspace: Workspace, path: Path) -> None:
    ingest_files(workspace.store, [path])


def _at_once(workspace: Workspace, paths: list[Path]) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_ingest_one, args=(workspace, path)) for path in paths]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(paths)


def overlapping(folder: Path) -> list[Path]:
    return [
        write(folder, [line(f"a{i}", f"b{i}", event_id=f"e{i}") for i in range(n, n + 300)], f"{n}.jsonl")
        for n in (0, 100, 200)
    ] + [folder / "100.jsonl"]


@pytest.mark.slow
def test_processes_that_write_to_one_ducklake_take_turns(tmp_path: Path) -> None:
    workspace = lake(tmp_path / "home")
    _at_once(workspace, overlapping(tmp_path))
    store = workspace.store
    assert rows(store, "SELECT count(*), count(DISTINCT event_id) FROM observations") == [(500, 500)]
    assert rows(store, "SELECT sum(accepted), count(*) FROM batches") == [(500, 3)]


def test_a_ducklake_without_its_extensions_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FlywheelError, match=r"flywheel\[lake\]"), lake(tmp_path).store.transaction():
        pass


@pytest.mark.slow
def test_a_postgresql_catalogue_lets_several_machines_take_turns(postgres: Postgres, tmp_path: Path) -> None:
    workspace = make_workspace(
        tmp_path / "home", storage={"database": f"ducklake:postgres:{postgres.dsn}", "data_path": str(tmp_path / "data")}
    )
    _at_once(workspace, overlapping(tmp_path))
    store = workspace.store
    assert rows(store, "SELECT count(*), count(DISTINCT event_id) FROM observations") == [(500, 500)]
    assert rows(store, "SELECT sum(accepted), count(*) FROM batches") == [(500, 3)]
    assert take_snapshot(store, workspace.snapshots, workspace.split_rules).snapshot_id
    assert forget(store, Selection(batch=rows(store, "SELECT batch_id FROM batches ORDER BY 1")[0][0])).observations > 0
