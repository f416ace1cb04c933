"""The cache gives what the encoder would have given, encodes each text once, and survives a kill at any moment."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.errors import FlywheelError
from flywheel.models import cache as caches
from flywheel.models.cache import EmbeddingCache
from flywheel.models.shards import Ragged

WIDTH = 4

# A process that fills a cache with texts 0 to n - 1, writes down every text that it encodes, and, when told to, dies at
# its k-th rename or removal of a file or at its k-th call of the encoder. It joins shards once they are `many`.
FILLER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from flywheel.models import cache as caches

folder, log, count, die_at_step, die_at_call, many = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
caches._MANY_SHARDS = many
calls = steps = 0

def encode(texts):
    global calls
    calls += 1
    if calls == die_at_call:
        os.kill(os.getpid(), signal.SIGKILL)
    with open(log, "a") as file:
        file.write("".join(f"{text}\\n" for text in texts))
    return np.array([[len(text), float(text), 1, 0] for text in texts])

def mortal(change):
    def step(*arguments, **named):
        global steps
        steps += 1
        if steps == die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*arguments, **named)
    return step

Path.replace, Path.unlink = mortal(Path.replace), mortal(Path.unlink)
print("ready", flush=True)
sys.stdin.readline()
caches.EmbeddingCache(folder, 4).get([str(number) for number in range(count)], encode)
"""


def encode(texts: list[str]) -> np.ndarray:
    """A cheap encoder of width 4 under which different numbers have different vectors."""
    return np.array([[len(text), sum(map(ord, text)), hash(text) % 1009, 1] for text in texts], dtype=np.float32)


def encode_number(texts: list[str]) -> np.ndarray:
    """What the filling processes compute."""
    return np.array([[len(text), float(text), 1, 0] for text in texts], dtype=np.float32)


def refuse(texts: list[str]) -> np.ndarray:
    """An encoder that must not be called."""
    raise AssertionError(f"{len(texts)} texts were encoded again")


def start_filler(folder: Path, log: Path, count: int, step: int = 0, call: int = 0, many: int = 100) -> subprocess.Popen[str]:
    """Start a process that fills `folder` as soon as it reads a line, and dies at that step or call, if any."""
    arguments = [sys.executable, "-c", FILLER, str(folder), str(log), *map(str, (count, step, call, many))]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def numbers(count: int) -> list[str]:
    """The texts of the filling processes."""
    return [str(number) for number in range(count)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(max_size=3), max_size=12), max_size=8), st.sets(st.integers(0, 7)))
def test_any_sequence_of_gets_gives_what_the_encoder_gives_and_encodes_each_text_once(
    requests: list[list[str]], reopened: set[int]
) -> None:
    encoded: list[str] = []

    def encode_and_note(texts: list[str]) -> np.ndarray:
        encoded.extend(texts)
        return encode(texts)

    with TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder), WIDTH)
        for place, texts in enumerate(requests):
            if place in reopened:
                cache = EmbeddingCache(Path(folder), WIDTH)
            assert cache.missing(texts) == len(set(texts) - set(encoded))
            vectors = cache.get(texts, encode_and_note)
            assert vectors.dtype == np.float32
            assert np.array_equal(vectors, encode(texts).reshape(-1, WIDTH))
            assert cache.missing(texts) == 0
    assert len(encoded) == len(set(encoded))


def test_texts_reach_the_encoder_in_the_order_asked_for_and_in_bounded_chunks(tmp_path: Path) -> None:
    chunks: list[list[str]] = []
    texts = numbers(5000)
    EmbeddingCache(tmp_path, WIDTH).get(texts + texts, lambda chunk: chunks.append(chunk) or encode(chunk))
    assert [text for chunk in chunks for text in chunk] == texts
    assert max(map(len, chunks)) < 5000


def test_a_new_cache_on_the_same_folder_encodes_nothing_again(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, WIDTH).get(numbers(5000), encode)
    backwards = numbers(5000)[::-1]
    assert np.array_equal(EmbeddingCache(tmp_path, WIDTH).get(backwards, refuse), encode(backwards))


def test_an_open_cache_sees_what_another_one_stored(tmp_path: Path) -> None:
    reader, writer = EmbeddingCache(tmp_path, WIDTH), EmbeddingCache(tmp_path, WIDTH)
    assert reader.missing(["a", "b", "b"]) == 2
    writer.get(["b"], encode)
    assert reader.missing(["a", "b", "b"]) == 1
    writer.get(["a"], encode)
    assert np.array_equal(reader.get(["a", "b"], refuse), encode(["a", "b"]))


def test_looking_does_not_make_the_folder(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "none", WIDTH)
    assert cache.missing(["a"]) == 1
    assert cache.get([], refuse).shape == (0, WIDTH)
    assert not (tmp_path / "none").exists()


def test_texts_that_differ_in_a_space_or_a_case_have_their_own_vectors(tmp_path: Path) -> None:
    assert EmbeddingCache(tmp_path, WIDTH).missing(["a", "a ", "A", "", "a\0"]) == 5


def test_a_cache_deleted_under_an_open_one_is_filled_again(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, WIDTH)
    cache.get(["a", "b"], encode)
    for path in tmp_path.iterdir():
        path.unlink()
    assert cache.missing(["a", "b"]) == 2
    assert np.array_equal(cache.get(["b", "c"], encode), encode(["b", "c"]))


def test_two_processes_on_one_cache_encode_each_text_exactly_once(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / "encoded"
    processes = [start_filler(folder, log, 9000), start_filler(folder, log, 12000)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert sorted(log.read_text().split(), key=int) == numbers(12000)
    assert np.array_equal(EmbeddingCache(folder, WIDTH).get(numbers(12000), refuse), encode_number(numbers(12000)))


def test_threads_on_one_cache_encode_each_text_exactly_once(tmp_path: Path) -> None:
    cache, encoded, start = EmbeddingCache(tmp_path, WIDTH), [], threading.Barrier(4)

    def encode_and_note(texts: list[str]) -> np.ndarray:
        encoded.extend(texts)
        return encode(texts)

    def fill() -> None:
        start.wait()
        cache.get(numbers(3000), encode_and_note)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(encoded, key=int) == numbers(3000)


# Three chunks of two files each are renamed six times.
@pytest.mark.parametrize("rename", range(1, 7))
def test_a_kill_at_any_rename_loses_at_most_one_chunk_and_leaves_nothing_behind(tmp_path: Path, rename: int) -> None:
    folder, log = tmp_path / "cache", tmp_path / "encoded"
    process = start_filler(folder, log, 6000, step=rename)
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL

    kept = 2048 * ((rename - 1) // 2)
    cache = EmbeddingCache(folder, WIDTH)
    assert cache.missing(numbers(6000)) == 6000 - kept
    assert len(log.read_text().split()) - kept <= 2048

    resumed: list[str] = []
    vectors = cache.get(numbers(6000), lambda texts: resumed.extend(texts) or encode_number(texts))
    assert np.array_equal(vectors, encode_number(numbers(6000)))
    assert resumed == numbers(6000)[kept:]
    assert len(list(folder.glob("*.npy"))) == 6
    assert not list(folder.glob("*.tmp"))


# The second chunk is renamed by step 4; two renames make one shard of two, whose six names are then removed. The third chunk
# and what follows it are steps 13 to 22.
@pytest.mark.parametrize("step", range(5, 23))
def test_a_kill_while_shards_are_joined_loses_none_of_them(tmp_path: Path, step: int) -> None:
    folder, log = tmp_path / "cache", tmp_path / "encoded"
    process = start_filler(folder, log, 6000, step=step, many=2)
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL

    kept = 4096 if step < 15 else 6000
    cache = EmbeddingCache(folder, WIDTH)
    assert cache.missing(numbers(6000)) == 6000 - kept
    again = start_filler(folder, tmp_path / "encoded-again", 7000, many=2)
    again.communicate("go\n")
    assert again.returncode == 0
    assert np.array_equal(cache.get(numbers(7000), refuse), encode_number(numbers(7000)))
    assert (tmp_path / "encoded-again").read_text().split() == numbers(7000)[kept:]
    assert not list(folder.glob("*.tmp"))


def test_many_small_shards_become_few_and_every_vector_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_MANY_SHARDS", 8)
    monkeypatch.setattr(caches, "_FULL_SHARD_BYTES", 4096)
    texts = numbers(400)
    writer, reader = EmbeddingCache(tmp_path, WIDTH), EmbeddingCache(tmp_path, WIDTH)
    for start in range(0, 400, 10):
        writer.get(texts[start : start + 10], encode_number)
        assert reader.missing(texts) == 390 - start
    assert len(list(tmp_path.glob("*.keys.npy"))) < 15
    for cache in (writer, reader, EmbeddingCache(tmp_path, WIDTH)):
        assert np.array_equal(cache.get(texts, refuse), encode_number(texts))
        assert cache.texts() == 400


def test_many_small_shards_of_many_rows_become_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_MANY_SHARDS", 8)
    cache = EmbeddingCache(tmp_path, WIDTH)
    for number in range(1, 20):
        cache.get_ragged([str(number)], lambda texts: Ragged(np.full((int(texts[0]), WIDTH), float(texts[0])), [int(texts[0])]))
    assert len(list(tmp_path.glob("*.keys.npy"))) < 8
    for number, rows in enumerate(cache.get_ragged(numbers(20)[1:], refuse), start=1):
        assert np.array_equal(rows, np.full((number, WIDTH), number))


def test_a_kill_inside_the_encoder_frees_the_lock_and_keeps_the_chunks_before(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / "encoded"
    process = start_filler(folder, log, 6000, call=3)
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    finished = start_filler(folder, log, 6000)
    finished.communicate("go\n")
    assert finished.returncode == 0
    assert sorted(log.read_text().split(), key=int) == numbers(6000)


def test_a_reader_during_a_fill_sees_the_finished_chunks_whole(tmp_path: Path) -> None:
    texts, seen = numbers(6000), []

    def encode_and_look(chunk: list[str]) -> np.ndarray:
        seen.append(EmbeddingCache(tmp_path, WIDTH).missing(texts))
        return encode(chunk)

    EmbeddingCache(tmp_path, WIDTH).get(texts, encode_and_look)
    assert seen == [6000, 6000 - 2048, 6000 - 4096]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (np.ones((2, WIDTH + 1)), "shape"),
        (np.ones((1, WIDTH)), "shape"),
        (np.ones(2 * WIDTH), "shape"),
        (np.array([[1, 1, 1, 1], [1, np.nan, 1, 1]]), "for 1 of 2 texts"),
        (np.full((2, WIDTH), np.inf), "for 2 of 2 texts"),
    ],
)
def test_vectors_of_another_shape_or_with_nan_are_refused_and_not_stored(
    tmp_path: Path, result: np.ndarray, words: str
) -> None:
    cache = EmbeddingCache(tmp_path, WIDTH)
    with pytest.raises(FlywheelError, match=words):
        cache.get(["a", "b"], lambda _: result)
    assert cache.missing(["a", "b"]) == 2
    assert not list(tmp_path.glob("*.npy"))
    assert np.array_equal(cache.get(["a", "b"], encode), encode(["a", "b"]))


def test_an_encoder_that_fails_keeps_what_it_gave_before_and_frees_the_lock(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, WIDTH)

    def fail_on_the_second_chunk(texts: list[str]) -> np.ndarray:
        if "0" not in texts:
            raise KeyboardInterrupt
        return encode(texts)

    with pytest.raises(KeyboardInterrupt):
        cache.get(numbers(3000), fail_on_the_second_chunk)
    assert cache.missing(numbers(3000)) == 3000 - 2048
    assert np.array_equal(cache.get(numbers(3000), encode), encode(numbers(3000)))


def test_a_cache_of_another_width_is_refused(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, WIDTH).get(["a"], encode)
    with pytest.raises(FlywheelError, match=r"shape \(1, 4\), not of width 8. Delete \w+.keys.npy and \w+.vectors.npy in"):
        EmbeddingCache(tmp_path, 8).get(["a"], refuse)


def test_a_damaged_shard_is_refused_and_not_read(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, WIDTH).get(numbers(100), encode)
    (vectors,) = tmp_path.glob("*.vectors.npy")
    os.truncate(vectors, vectors.stat().st_size // 2)
    with pytest.raises(FlywheelError, match="is damaged"):
        EmbeddingCache(tmp_path, WIDTH).get(["1"], refuse)
    with pytest.raises(FlywheelError, match=f"Delete .*{vectors.name} in {tmp_path}"):
        EmbeddingCache.open(tmp_path)


@pytest.mark.parametrize("suffix", ["keys", "vectors", "lengths"])
def test_deleting_the_files_named_of_a_damaged_shard_costs_its_texts_alone(tmp_path: Path, suffix: str) -> None:
    EmbeddingCache(tmp_path, WIDTH).get_ragged(["a", "bb"], tokens)
    (damaged,) = tmp_path.glob(f"*.{suffix}.npy")
    others = ["ccc", "dddd"]
    EmbeddingCache(tmp_path, WIDTH).get_ragged(others, tokens)
    beside = tmp_path / "paid.jsonl"
    beside.write_text("a line\n")
    os.truncate(damaged, damaged.stat().st_size - 3)
    with pytest.raises(FlywheelError, match="only their vectors are made again") as caught:
        EmbeddingCache(tmp_path, WIDTH).texts()
    named = re.findall(r"\S+\.npy", str(caught.value).partition("Delete ")[2])
    assert sorted(named) == sorted(path.name for path in tmp_path.glob(f"{damaged.name.partition('.')[0]}.*"))
    for name in named:
        (tmp_path / name).unlink()
    assert EmbeddingCache(tmp_path, WIDTH).unknown(["a", *others, "bb"]) == ["a", "bb"]
    asked: list[str] = []
    rows = EmbeddingCache(tmp_path, WIDTH).get_ragged(["a", *others, "bb"], lambda texts: asked.extend(texts) or tokens(texts))
    assert asked == ["a", "bb"]
    assert [each.tolist() for each in rows] == [tokens([text]).rows.tolist() for text in ["a", *others, "bb"]]
    assert beside.read_text() == "a line\n"


def test_a_full_disk_is_explained_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = EmbeddingCache(tmp_path, WIDTH)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(FlywheelError, match="full"):
        cache.get(["a"], encode)
    monkeypatch.undo()
    assert np.array_equal(cache.get(["a"], encode), encode(["a"]))
    assert not list(tmp_path.glob("*.tmp"))


def tokens(texts: list[str]) -> Ragged:
    """As many rows as the text has letters, each its place and the letter."""
    rows = [(place, ord(letter), 0, 1) for text in texts for place, letter in enumerate(text)]
    return Ragged(np.array(rows, dtype=np.float32).reshape(-1, WIDTH), np.array([len(text) for text in texts]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.text("abc", max_size=5), max_size=8), max_size=4))
def test_texts_of_many_rows_come_back_as_they_were(asked: list[list[str]]) -> None:
    with TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder), WIDTH, np.float16)
        for texts in asked:
            given_back = cache.get_ragged(texts, tokens)
            assert [rows.tolist() for rows in given_back] == [tokens([text]).rows.tolist() for text in texts]
        again = EmbeddingCache(Path(folder), WIDTH, np.float16)
        assert again.texts() == len({text for texts in asked for text in texts})


def test_pruning_keeps_what_is_wanted_and_frees_the_rest(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, WIDTH, np.float16)
    texts = ["a", "bb", "ccc", "dddd"]
    cache.get_ragged(texts[:2], tokens)
    cache.get_ragged(texts[2:], tokens)
    reader = EmbeddingCache(tmp_path, WIDTH, np.float16)
    held = reader.get_ragged(texts, tokens)
    before = cache.size()
    assert cache.prune(iter(["bb", "never seen"])) == 3
    assert cache.size() < before
    assert [rows.tolist() for rows in held] == [tokens([text]).rows.tolist() for text in texts]
    fresh = EmbeddingCache(tmp_path, WIDTH, np.float16)
    assert (fresh.texts(), fresh.missing(texts)) == (1, 3)
    assert fresh.get_ragged(["bb"], tokens)[0].tolist() == tokens(["bb"]).rows.tolist()
    assert fresh.prune([]) == 1
    assert not list(tmp_path.glob("*.npy"))


def test_a_folder_is_opened_without_knowing_its_width(tmp_path: Path) -> None:
    assert EmbeddingCache.open(tmp_path) is None
    EmbeddingCache(tmp_path, WIDTH, np.float16).get_ragged(["abc"], tokens)
    opened = EmbeddingCache.open(tmp_path)
    assert opened is not None
    assert (opened.width, opened.dtype, opened.texts()) == (WIDTH, np.float16, 1)


def test_a_number_too_large_for_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlywheelError, match="NaN or infinity"):
        EmbeddingCache(tmp_path, WIDTH, np.float16).get(["a"], lambda texts: np.full((1, WIDTH), 1e6))
