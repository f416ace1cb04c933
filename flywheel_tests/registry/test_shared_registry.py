"""A history of decisions that several homes share: nobody's entry is lost, written over, or counted less than once."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flywheel import storage
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.registry.champions import Champion, Entry, Registry

CHAMPION = Champion("m", "v@32", "all", "head", 0.5, "s", "t", 0.1, None, None, 100, 0.5)


@pytest.fixture(params=["file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/root/registry" if request.param == "file" else f"memory://{uuid.uuid4()}/registry"


def append(registry: Registry, model: str) -> Entry:
    with registry.locked():
        present = registry.current()
        champion = Champion(**{**vars(CHAMPION), "model": model})
        return registry.append("promoted", champion, None, present.number if present else None)


def reigning(registry: Registry) -> str | None:
    champion = registry.champion()
    return champion.model if champion else None


def test_every_home_sees_the_same_history_and_champion_and_rolls_it_back_for_all(tmp_path: Path, uri: str) -> None:
    here, there = (Registry(tmp_path / name, uri) for name in ("here", "there"))
    assert (here.champion(), there.history()) == (None, [])
    append(here, "first")
    append(there, "second")
    append(here, "third")
    assert [entry.champion.model for entry in there.history() if entry.champion] == ["first", "second", "third"]
    assert there.history() == here.history()
    assert reigning(there) == "third"
    there.rollback()
    assert reigning(here) == "second"
    empty = Registry(tmp_path / "later", uri)
    assert (empty.current(), empty.history()) == (here.current(), here.history())


def test_of_two_machines_that_decide_at_once_one_is_told_and_can_decide_again(tmp_path: Path, uri: str) -> None:
    here, there = (Registry(tmp_path / name, uri) for name in ("here", "there"))
    append(here, "first")
    with there.locked():  # it decides on what it knows now
        assert reigning(there) == "first"
        append(here, "second")
        assert reigning(there) == "first"
        with pytest.raises(TryAgainError, match=r"Another machine wrote entry 2 of .* Run the same command again"):
            there.append("promoted", CHAMPION, None, 1)
    assert [reigning(each) for each in (here, there)] == ["second", "second"]
    append(there, "third")
    assert [entry.number for entry in here.history()] == [1, 2, 3]


def test_many_machines_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/root"

    def decide(number: int) -> None:
        registry = Registry(tmp_path / str(number), uri)
        for turn in range(3):
            while True:
                try:
                    append(registry, f"{number}-{turn}")
                    break
                except TryAgainError:
                    continue

    with ThreadPoolExecutor(6) as machines:
        list(machines.map(decide, range(6)))
    history = Registry(tmp_path / "later", uri).history()
    assert [entry.number for entry in history] == list(range(1, 19))
    assert {entry.champion.model for entry in history if entry.champion} == {f"{n}-{t}" for n in range(6) for t in range(3)}
    assert len({reigning(Registry(tmp_path / str(number), uri)) for number in range(6)}) == 1


def test_a_listing_that_caught_half_of_a_decision_is_completed(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (Registry(tmp_path / name, uri) for name in ("here", "there"))
    append(here, "first")
    append(here, "second")
    listed = storage.files(uri)
    del listed["history/000002.json"]  # folders are listed one after another, and another machine wrote in between
    with monkeypatch.context() as patch:
        patch.setattr(storage, "files", lambda _: dict(listed))
        assert [reigning(each) for each in (here, there)] == ["second", "second"]
    assert there.history() == here.history()


def test_a_kill_between_entry_and_pointer_leaves_the_old_champion_everywhere_until_the_promotion_is_ended(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (Registry(tmp_path / name, uri) for name in ("here", "there"))
    append(here, "first")
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "point_to", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            append(here, "second")
    assert [reigning(each) for each in (here, there)] == ["first", "first"]
    there.point_to(there.history()[1])  # as a decision on the same two does
    assert [reigning(each) for each in (here, there)] == ["second", "second"]


def test_a_kill_before_the_entry_is_here_too_loses_nothing(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Registry(tmp_path / "here", uri)
    append(here, "first")
    with monkeypatch.context() as patch:
        patch.setattr("flywheel.registry.champions.write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            append(here, "second")
    append(here, "third")
    assert [entry.champion.model for entry in here.history() if entry.champion] == ["first", "second", "third"]


def test_no_slow_machine_moves_the_pointer_back(tmp_path: Path, uri: str) -> None:
    here, there = (Registry(tmp_path / name, uri) for name in ("here", "there"))
    first, _ = append(here, "first"), append(there, "second")
    here.point_to(first)
    assert [reigning(each) for each in (here, there)] == ["second", "second"]


def test_a_home_with_a_history_brings_it_to_an_empty_root(tmp_path: Path, uri: str) -> None:
    alone = Registry(tmp_path / "here")
    append(alone, "first")
    append(alone, "second")
    here = Registry(tmp_path / "here", uri)
    assert reigning(here) == "second"
    there = Registry(tmp_path / "there", uri)
    assert (there.history(), reigning(there)) == (alone.history(), "second")


def test_a_home_with_another_history_is_refused(tmp_path: Path, uri: str) -> None:
    append(Registry(tmp_path / "here", uri), "first")
    append(Registry(tmp_path / "there"), "quite another")
    there = Registry(tmp_path / "there", uri)
    with pytest.raises(FlywheelError, match=r"have different histories: entry 1 is another one\. Set storage\.root to"):
        there.champion()
    assert reigning(Registry(tmp_path / "new", uri)) == "first"


def test_a_root_that_lost_everything_gets_it_back(tmp_path: Path) -> None:
    uri = f"memory://{uuid.uuid4()}/registry"
    here = Registry(tmp_path / "here", uri)
    append(here, "first")
    for name in storage.files(uri):
        storage.delete_file(f"{uri}/{name}")
    assert reigning(here) == "first"
    assert reigning(Registry(tmp_path / "there", uri)) == "first"


def test_a_damaged_pointer_is_written_again_from_the_root(tmp_path: Path, uri: str) -> None:
    here = Registry(tmp_path / "here", uri)
    append(here, "first")
    for name in ("champion.json", "root.json"):
        (tmp_path / "here" / name).write_text("{")
    assert reigning(here) == "first"
    assert json.loads((tmp_path / "here" / "champion.json").read_text()) == {"entry": 1}
