"""A cache that several machines share: nothing is encoded twice, nothing goes there or comes from there twice, and what one
forgets comes back to none.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from flywheel import storage
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.models import cache as caches
from flywheel.models.cache import EmbeddingCache, drop, keep_only
from flywheel.models.shards import KEYS, Ragged

WIDTH = 4


@pytest.fixture(params=["file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/root/cache/a" if request.param == "file" else f"memory://{uuid.uuid4()}/cache/a"


def encode(texts: Sequence[str]) -> np.ndarray:
    return np.array([[len(text), *text.encode()[:3].ljust(3)] for text in texts], np.float32)


def refuse(texts: list[str]) -> np.ndarray:
    raise AssertionError(f"{texts} are encoded again")


def cache(folder: Path, uri: str | None) -> EmbeddingCache:
    return EmbeddingCache(folder, WIDTH, uri=uri)


def shards(uri: str) -> set[str]:
    return {name.removesuffix(KEYS) for name in storage.files(uri) if name.endswith(KEYS)}


class Moved:
    """Counts what is written to and read from the root."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[str] = []
        self.fetched: list[str] = []
        put, read = storage.put, storage.read
        monkeypatch.setattr(storage, "put", lambda file, place: self.sent.append(place) or put(file, place))
        monkeypatch.setattr(storage, "read", lambda place: self.fetched.append(place) or read(place))


def test_what_one_machine_encoded_no_other_encodes_again(uri: str, tmp_path: Path) -> None:
    here, there = cache(tmp_path / "here", uri), cache(tmp_path / "there", uri)
    texts = [f"text {number}" for number in range(50)]
    assert there.missing(texts) == 50
    here.get(texts[:30], encode)
    assert there.missing(texts) == 20
    assert there.unknown(texts) == texts[30:]
    assert np.array_equal(there.get(texts[:30], refuse), encode(texts[:30]))
    there.get(texts, lambda some: encode(some) if set(some) == set(texts[30:]) else refuse(some))
    assert np.array_equal(here.get(texts, refuse), encode(texts))


def test_states_of_several_rows_a_text_travel_too(uri: str, tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, WIDTH)
    cache(tmp_path / "here", uri).get_ragged(["a", "b"], lambda _: Ragged(rows, np.array([1, 2], np.int32)))
    first, second = cache(tmp_path / "there", uri).get_ragged(["a", "b"], refuse)  # type: ignore[arg-type]
    assert np.array_equal(np.concatenate([first, second]), rows)


def test_a_listing_that_was_too_early_for_the_vectors_of_a_shard_still_brings_them(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, WIDTH)
    cache(tmp_path / "here", uri).get_ragged(["a", "b"], lambda _: Ragged(rows, np.array([1, 2], np.int32)))
    keys_alone = {name: version for name, version in storage.files(uri).items() if name.endswith(KEYS)}
    monkeypatch.setattr(storage, "files", lambda _: dict(keys_alone))
    first, second = cache(tmp_path / "there", uri).get_ragged(["a", "b"], refuse)  # type: ignore[arg-type]
    assert np.array_equal(np.concatenate([first, second]), rows)


def test_each_shard_goes_there_once_and_comes_once_also_after_they_were_joined(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "_MANY_SHARDS", 4)
    here, there, moved = cache(tmp_path / "here", uri), cache(tmp_path / "there", uri), Moved(monkeypatch)
    for number in range(10):
        here.get([f"text {number}"], encode)
    assert len(list((tmp_path / "here").glob(f"*{KEYS}"))) < 5, "they were joined"
    assert len(shards(uri)) == 10
    assert len(moved.sent) == len(set(moved.sent)) == 20
    for number in range(10, 14):
        there.get([f"text {number}"], encode)
        here.missing([f"text {number}"])
        here.get(["another text"], encode)
    assert len(moved.fetched) == len(set(moved.fetched)), "nothing is fetched twice"
    assert len(moved.sent) == len(set(moved.sent)) == 30
    assert (here.texts(), there.missing([f"text {number}" for number in range(14)])) == (15, 0)


def test_a_fill_lists_the_root_once_however_many_texts_it_has(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, files = [], storage.files
    monkeypatch.setattr(storage, "files", lambda place: listed.append(place) or files(place))
    monkeypatch.setattr(caches, "_CHUNK", 10)
    here = cache(tmp_path / "here", uri)
    here.get([f"text {number}" for number in range(100)], encode)
    assert len(listed) == 1
    here.get([f"text {number}" for number in range(100)], refuse)
    assert len(listed) == 1


def test_half_a_shard_is_none_and_goes_there_again(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = cache(tmp_path / "here", uri), cache(tmp_path / "there", uri)
    put = storage.put

    def cut_off(file: Path, place: str) -> None:
        if place.endswith(KEYS):
            raise TryAgainError("the connection was reset")
        put(file, place)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", cut_off)
        with pytest.raises(TryAgainError):
            here.get(["a", "b"], encode)
    assert len(storage.files(uri)) == 1
    assert there.missing(["a", "b"]) == 2
    assert np.array_equal(here.get(["a", "b"], refuse), encode(["a", "b"])), "it was stored here"
    here.share()
    assert there.missing(["a", "b"]) == 0


def everything(folder: Path) -> EmbeddingCache:
    return cache(folder, None)


def test_a_forgotten_text_comes_back_from_no_machine(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_MANY_SHARDS", 4)
    folders = [tmp_path / name for name in ("here", "there")]
    here, there = (cache(folder, uri) for folder in folders)
    texts = [f"text {number}" for number in range(12)]
    for text in texts:  # one shard each at the root; joined here and there, not the same ones
        here.get([text], encode)
        there.missing([text])
    there.get(["theirs"], encode)
    assert drop(folders[0], ["text 3", "nobody's"], uri) == 1
    assert there.missing(["new"]) == 1  # it looks there
    assert everything(folders[1]).missing(["text 3"]) == 1
    there.get(["new"], encode)
    later = cache(tmp_path / "later", uri)
    for each in (here, there, later):
        assert each.unknown([*texts, "theirs", "new"]) == ["text 3"]
    there.share()
    assert cache(tmp_path / "last", uri).unknown(texts) == ["text 3"]
    here.get(["text 3"], encode)  # somebody writes it again
    assert there.missing(["text 3"]) == 0


def test_a_machine_that_has_nothing_forgets_at_the_root_and_fetches_no_vectors_that_stay(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cache(tmp_path / "here", uri)
    here.get(["a", "b"], encode)
    here.get(["c"], encode)
    moved = Moved(monkeypatch)
    assert drop(tmp_path / "empty", ["a"], uri) == 0
    vectors = [place for place in moved.fetched if place.endswith(".vectors.npy")]
    assert len(vectors) == 1
    assert cache(tmp_path / "there", uri).unknown(["a", "b", "c"]) == ["a"]


def test_a_deletion_that_was_cut_off_is_ended_by_the_same_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cache(tmp_path / "here", uri)
    here.get(["a", "b"], encode)

    def cut_off(place: str) -> None:
        raise TryAgainError("the connection was reset")

    for name in ("delete_file", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(storage, name, cut_off if name == "delete_file" else lambda place, content: cut_off(place))
            with pytest.raises(TryAgainError):
                drop(tmp_path / "here", ["a"], uri)
    drop(tmp_path / "here", ["a"], uri)
    for folder in ("here", "there"):
        assert cache(tmp_path / folder, uri).unknown(["a", "b"]) == ["a"]
    assert len(shards(uri)) == 1


def test_pruning_keeps_what_is_needed_on_every_machine(uri: str, tmp_path: Path) -> None:
    here, there = cache(tmp_path / "here", uri), cache(tmp_path / "there", uri)
    here.get(["a", "b"], encode)
    there.get(["c"], encode)
    keep_only(tmp_path / "empty", ["a", "c"], uri)
    assert here.unknown(["a", "b", "c", "d"]) == ["b", "d"]
    assert there.unknown(["a", "b", "c", "d"]) == ["b", "d"]


def test_a_root_that_lost_its_shards_gets_them_back_and_takes_none_away(uri: str, tmp_path: Path) -> None:
    here = cache(tmp_path / "here", uri)
    here.get(["a", "b"], encode)
    for name in storage.files(uri):
        storage.delete_file(f"{uri}/{name}")
    here.get(["c"], encode)
    assert np.array_equal(here.get(["a", "b", "c"], refuse), encode(["a", "b", "c"]))
    assert cache(tmp_path / "there", uri).missing(["a", "b", "c"]) == 0


def test_a_cache_from_before_there_was_a_root_is_sent(uri: str, tmp_path: Path) -> None:
    cache(tmp_path / "here", None).get(["a", "b"], encode)
    cache(tmp_path / "here", uri).share()
    assert cache(tmp_path / "there", uri).missing(["a", "b"]) == 0


def test_a_root_that_cannot_be_reached_is_a_sentence_and_what_is_here_is_given_all_the_same(tmp_path: Path) -> None:
    cache(tmp_path, None).get(["a"], encode)
    unreachable = cache(tmp_path, "nonsense://bucket/cache")
    assert np.array_equal(unreachable.get(["a"], refuse), encode(["a"]))
    with pytest.raises(FlywheelError, match=r"nonsense://bucket/cache cannot be read .*storage\.root"):
        unreachable.get(["b"], encode)
