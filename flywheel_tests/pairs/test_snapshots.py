"""The snapshots of a home and of shared storage: found by id and by which is newest, and what helps when they are not."""

import re
import shutil
from pathlib import Path

import pytest

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.forget import Selection
from flywheel.pairs.snapshots.folder import LATEST
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.evaluation import snapshot_of
from flywheel.pipeline.forgetting import forget
from flywheel.pipeline.ingest import take_snapshot
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel_tests.conftest import verb
from flywheel_tests.helpers.clumps import clump_lines, clump_world
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.pairs.test_ingest import write

DAMAGED = {
    b"": "Expecting value",
    b'"half of an i': "Unterminated string",
    b"\xff\xfe\x00": "decode",
    b"null": "it holds None instead of a snapshot's id",
    b'["id"]': "it holds ['id'] instead of a snapshot's id",
    b'""': "it holds '' instead of a snapshot's id",
}
CELL = Cell(Variant("all-MiniLM-L6-v2", 32), "all")


def filled(workspace: Workspace, clumps: int = 12) -> Snapshot:
    ingest_files(workspace.store, [write(workspace.home.root / "given", clump_lines(range(clumps)))])
    return take_snapshot(with_options(workspace, evaluation={"min_components": 2}))


def sharing(tmp_path: Path) -> tuple[Workspace, Path]:
    """A home that shares its snapshots, and the folder that they go to."""
    lines = [b"splits.frozen_from = 0", f'storage.root = "file://{tmp_path}/root"'.encode()]
    return make_workspace(write(tmp_path / "home", lines, "flywheel.toml").parent), tmp_path / "root" / "snapshots"


def test_every_snapshot_is_found_by_its_id_and_the_last_one_taken_is_the_latest(workspace: Workspace) -> None:
    assert workspace.snapshots.latest() is None
    first = filled(workspace)
    second = filled(workspace, 13)
    assert {each.snapshot_id for each in workspace.snapshots.all()} == {first.snapshot_id, second.snapshot_id}
    assert workspace.snapshots.latest() == workspace.snapshots.load(second.snapshot_id) == second
    assert workspace.snapshots.load(first.snapshot_id) == first
    workspace.snapshots.make_latest(first)
    assert workspace.snapshots.latest() == first


def test_a_snapshot_that_only_the_root_has_is_fetched_by_its_id_and_a_removed_one_is_nowhere(tmp_path: Path) -> None:
    workspace, shared = sharing(tmp_path)
    first, second = filled(workspace), filled(workspace, 13)
    there = make_workspace(tmp_path / "there", storage={"root": f"file://{shared.parent}"}, splits={"frozen_from": 0})
    found = there.snapshots.load(first.snapshot_id)
    assert found.folder == there.home.snapshots / first.snapshot_id
    assert found.pairs("train").equals(first.pairs("train"))
    assert there.snapshots.latest() == there.snapshots.load(second.snapshot_id)
    workspace.snapshots.remove(first.snapshot_id)
    left = [second.snapshot_id, LATEST, f"{first.snapshot_id}.deleted"]
    assert sorted(path.name for path in shared.iterdir()) == sorted(left)
    assert workspace.current_snapshot() == second
    workspace.snapshots.remove(second.snapshot_id)
    assert {path.suffix for path in shared.iterdir()} == {".deleted"}
    with pytest.raises(FlywheelError, match="There is no snapshot yet"):
        workspace.current_snapshot()


def test_a_snapshot_that_was_deleted_at_the_root_is_deleted_here_and_not_uploaded_again(tmp_path: Path) -> None:
    workspace, shared = sharing(tmp_path)
    first, second = filled(workspace), filled(workspace, 13)
    there = make_workspace(tmp_path / "there", storage={"root": f"file://{shared.parent}"}, splits={"frozen_from": 0})
    copies = there.snapshots.all()
    assert {copy.snapshot_id for copy in copies} == {first.snapshot_id, second.snapshot_id}
    for taken in (first, second):
        workspace.snapshots.remove(taken.snapshot_id)
    for copy in copies:
        with pytest.raises(FlywheelError, match="is deleted"):
            there.snapshots.share(copy)
    assert there.snapshots.all() == []
    assert not list(there.home.snapshots.glob("*/*"))
    assert there.snapshots.latest() is None
    workspace.snapshots.make_latest(filled(workspace))  # the same pairs, taken again by a person's wish
    again = there.snapshots.latest()
    assert again is not None
    assert again.snapshot_id == second.snapshot_id


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_deleted_snapshot_is_named_with_what_to_do(is_shared: bool, tmp_path: Path) -> None:
    workspace = sharing(tmp_path)[0] if is_shared else make_workspace(tmp_path / "home", splits={"frozen_from": 0})
    deleted = filled(workspace).snapshot_id
    workspace.snapshots.remove(deleted)
    with pytest.raises(FlywheelError) as refused:
        workspace.snapshots.load(deleted)
    assert str(refused.value) == (
        f"Snapshot {deleted[:12]} is deleted. Run `flywheel snapshot`, then train again on the new one with `flywheel train` "
        "or `flywheel grid`."
    )


def test_a_model_whose_snapshot_was_forgotten_is_replaced_by_following_the_sentence(tmp_path: Path) -> None:
    world = clump_world(tmp_path / "home", 40, evaluation={"min_components": 5})
    quick = {"recipes": {"head": {"epochs": 1, "min_steps": 1}}}
    workspace = with_options(world.workspace, compute={"run_in": "inline"}, training=quick)
    model = train_cell(workspace, world.snapshot, CELL, "head")
    assert snapshot_of(workspace, model) == world.snapshot
    trained_on = world.snapshot.pairs("train")["text_a"].iloc[0].split()[0]
    assert forget(workspace, Selection(text=f"{trained_on} ")).models == (model.folder.name,)
    with pytest.raises(FlywheelError, match=r"is deleted\. Run `flywheel snapshot`, then train again .* `flywheel train`"):
        snapshot_of(workspace, model)
    new = take_snapshot(workspace)
    assert new.snapshot_id != world.snapshot.snapshot_id
    again = train_cell(workspace, new, CELL, "head")
    assert snapshot_of(workspace, again) == new


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_pointer_of_the_home_is_written_again_by_a_snapshot(workspace: Workspace, content: bytes) -> None:
    taken = filled(workspace)
    pointer = workspace.home.snapshots / LATEST
    pointer.write_bytes(content)
    sentence = rf"^{re.escape(str(pointer))} is damaged: .*{re.escape(DAMAGED[content])}.* Run `flywheel snapshot`, which"
    with pytest.raises(FlywheelError, match=sentence):
        workspace.current_snapshot()
    take_snapshot(workspace)
    assert workspace.current_snapshot() == taken


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_pointer_on_shared_storage_is_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    workspace, shared = sharing(tmp_path)
    storage.write(f"file://{shared}/{LATEST}", content)
    sentence = rf"^file://{re.escape(str(shared))}/{LATEST} is damaged: .*{re.escape(DAMAGED[content])}.* Delete it, then"
    with pytest.raises(FlywheelError, match=sentence):
        workspace.snapshots.latest()


def test_deleting_a_damaged_pointer_on_shared_storage_and_taking_a_snapshot_helps_every_home(tmp_path: Path) -> None:
    workspace, shared = sharing(tmp_path)
    taken = filled(workspace)
    there = make_workspace(tmp_path / "there", storage={"root": f"file://{shared.parent}"}, splits={"frozen_from": 0})
    (shared / LATEST).write_bytes(b'"half of an i')
    for each in (workspace, there):
        with pytest.raises(FlywheelError, match=r"Delete it, then run `flywheel snapshot`, which writes it again\."):
            each.current_snapshot()
    (shared / LATEST).unlink()
    done = verb("snapshot", "--home", workspace.home.root, "--json", FLYWHEEL_PAIRS__SEED_PAIRS="none")
    assert done.returncode == 0, done.stderr
    assert taken.snapshot_id in done.stdout
    assert [each.current_snapshot().snapshot_id for each in (workspace, there)] == [taken.snapshot_id] * 2


def test_a_damaged_snapshot_is_made_again_by_following_the_sentence(workspace: Workspace) -> None:
    taken = filled(workspace)
    (taken.folder / "train.parquet").write_bytes(b"half")
    with pytest.raises(FlywheelError, match=r"Remove the snapshot's folder and run `flywheel snapshot`"):
        taken.pairs("train")
    shutil.rmtree(taken.folder)
    assert take_snapshot(workspace).pairs("train").shape == (taken.train.pairs, 9)
    (taken.folder / "manifest.json").unlink()
    with pytest.raises(FlywheelError, match=r"holds no complete snapshot\. Delete that folder, then run `flywheel snapshot`"):
        workspace.current_snapshot()
    shutil.rmtree(taken.folder)
    take_snapshot(workspace)
    assert workspace.current_snapshot() == taken
