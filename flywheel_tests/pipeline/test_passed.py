"""A folder that has passed its checks is not loaded for them again, unless anything about it is another."""

from pathlib import Path
from typing import Any

import pytest

from flywheel.models.catalogue import Variant
from flywheel.pipeline import evaluation as measuring
from flywheel.pipeline import passed
from flywheel.pipeline.training import train_cell
from flywheel.training.job import Cell
from flywheel_tests.helpers.clumps import clump_world


def test_a_key_names_every_file_its_mode_the_libraries_and_what_it_is_held_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (config := folder / "1_Pooling" / "config.json").write_text("{}")
    keys = [passed.key_of("loads", folder)]
    assert passed.key_of("loads", folder) == keys[0]
    copied = folder.rename(tmp_path / "elsewhere").rename(folder)
    assert passed.key_of("loads", copied) == keys[0], "a home may move"
    keys += [passed.key_of("serves", folder), passed.key_of("loads", folder, ["text"], "other vectors")]
    config.chmod(0o600)
    keys.append(passed.key_of("loads", folder))
    config.write_text("{ }")
    keys.append(passed.key_of("loads", folder))
    monkeypatch.setattr(passed, "version", lambda library: "99")
    keys.append(passed.key_of("loads", folder))
    assert len(set(keys)) == len(keys)


def test_what_has_passed_is_known_until_newer_ones_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed, "_MOST", 3)
    file = tmp_path / "home" / "passed_checks.json"
    assert passed.has_passed(file, "a") is None
    for number, key in enumerate("abcd"):
        passed.remember(file, key, number)
    assert [passed.has_passed(file, key) for key in "abcd"] == [None, 1, 2, 3]
    file.write_text("{")
    assert passed.has_passed(file, "d") is None
    passed.remember(file, "e", 4)
    assert passed.has_passed(file, "e") == 4


@pytest.mark.slow
def test_a_folder_is_loaded_once_and_again_when_a_file_of_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = clump_world(tmp_path / "home", clumps=100, compute={"run_in": "inline"})
    model = train_cell(world.workspace, world.snapshot, Cell(Variant.parse("all-MiniLM-L6-v2@32"), "100"), "head")
    loaded = []
    really = measuring.portability

    def portability(*arguments: Any) -> Any:
        loaded.append(arguments)
        return really(*arguments)

    monkeypatch.setattr(measuring, "portability", portability)
    found = [measuring.folder_portability(world.workspace, model, world.snapshot) for _ in range(2)]
    assert found[0] == found[1]
    assert (found[0].faults, len(loaded)) == ((), 1)
    (model.folder / "tokenizer.json").unlink()
    for _ in range(2):
        assert measuring.folder_portability(world.workspace, model, world.snapshot).faults, "what fails is not remembered"
    assert len(loaded) == 3
