"""Vectors go from one cache to another through one file, and a file that is not right changes nothing."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.api import exchange
from flywheel.models.api.exchange import Imported, export_vectors, import_vectors
from flywheel.models.api.vectors import VectorSource
from flywheel.models.cache import EmbeddingCache

WIDTH = 4
ORIGIN = VectorSource("openai", "text-embedding-3-small", WIDTH)


def unit(texts: list[str]) -> np.ndarray:
    rows = np.array([[int(text) + 1, 1, 2, len(text)] for text in texts], dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def refuse(texts: list[str]) -> np.ndarray:
    raise AssertionError(f"asked for {texts}")


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def filled(folder: Path, texts: list[str]) -> EmbeddingCache:
    cache = EmbeddingCache(folder, WIDTH)
    cache.get(texts, unit)
    return cache


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An export of the vectors of 0 to 2,999."""
    target = tmp_path / "vectors.parquet"
    assert export_vectors(filled(tmp_path / "source", numbers(3000)), ORIGIN, target) == 3000
    return target


def rewritten(file: Path, hashes: pa.Array | None = None, vectors: pa.Array | None = None, **metadata: str) -> Path:
    """The file with another column or other metadata."""
    table = pq.read_table(file)
    columns = {"text_hash": hashes or table["text_hash"], "vector": vectors or table["vector"]}
    found = {**table.schema.metadata, **{f"flywheel.{name}".encode(): value.encode() for name, value in metadata.items()}}
    pq.write_table(pa.table(columns).replace_schema_metadata(found), file)
    return file


def listed(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def test_what_one_cache_exports_another_imports_once(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_GROUP", 1000)  # several row groups, several batches
    export_vectors(EmbeddingCache(tmp_path / "source", WIDTH), ORIGIN, file)
    target = filled(tmp_path / "target", numbers(10))
    assert import_vectors(target, ORIGIN, file) == Imported(3000, 2990)
    assert import_vectors(target, ORIGIN, file) == Imported(3000, 0)
    assert np.array_equal(EmbeddingCache(tmp_path / "target", WIDTH).get(numbers(3000), refuse), unit(numbers(3000)))


def test_a_file_says_whose_vectors_it_holds_and_holds_no_text(file: Path) -> None:
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        assert parquet.metadata.row_group(0).column(1).compression == "ZSTD"
    assert schema.names == ["text_hash", "vector"]
    assert schema.types == [pa.binary(16), pa.list_(pa.float32(), WIDTH)]
    assert schema.metadata == {
        b"flywheel.family": b"openai", b"flywheel.model": b"text-embedding-3-small", b"flywheel.dimensions": b"4"
    }  # fmt: skip


def test_equal_vectors_give_equal_files_however_they_came(tmp_path: Path, file: Path) -> None:
    cache = EmbeddingCache(tmp_path / "other", WIDTH)
    for start in range(2900, -1, -100):
        cache.get(numbers(3000)[start : start + 100], unit)
    export_vectors(cache, ORIGIN, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == file.read_bytes()


def test_an_export_replaces_a_file_whole_and_leaves_nothing_beside_it(tmp_path: Path, file: Path) -> None:
    before = file.read_bytes()
    shard = next((tmp_path / "source").glob("*.vectors.npy"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(FlywheelError, match="damaged"):
        export_vectors(EmbeddingCache(tmp_path / "source", WIDTH), ORIGIN, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["vectors.parquet"]
    for bad in (tmp_path, tmp_path / "none" / "x.parquet"):
        with pytest.raises(FlywheelError, match="name a file in a folder that exists"):
            export_vectors(filled(tmp_path / "third", ["1"]), ORIGIN, bad)
    with pytest.raises(FlywheelError, match="nothing to export"):
        export_vectors(EmbeddingCache(tmp_path / "empty", WIDTH), ORIGIN, file)


@pytest.mark.parametrize(("value", "length"), [("nan", "nan"), ("inf", "inf"), ("0", "0")])
def test_a_broken_vector_is_not_exported_and_the_way_out_leads_to_an_export(
    tmp_path: Path, file: Path, value: str, length: str
) -> None:
    filled(tmp_path / "source", ["7000"])
    before = file.read_bytes()
    shard = max((tmp_path / "source").glob("*.vectors.npy"), key=lambda path: path.stat().st_size)
    rows = np.load(shard)
    rows[5] = np.float32(value)
    np.save(shard, rows)
    with pytest.raises(FlywheelError, match=f"has length {length}, where all have length 1, so nothing was exported") as caught:
        export_vectors(EmbeddingCache(tmp_path / "source", WIDTH), ORIGIN, file)
    assert "`flywheel baseline embed`" in str(caught.value)
    assert file.read_bytes() == before
    named = re.findall(r"\S+\.npy", str(caught.value))
    assert shard.name in named
    for name in named:
        (tmp_path / "source" / name).unlink()
    assert export_vectors(filled(tmp_path / "source", numbers(10)), ORIGIN, file) >= 10


# A folder that takes no file, not even from root; a name that is too long with what is written aside, and one by itself.
@pytest.mark.parametrize("name", ["/proc/vectors.parquet", "x" * 250, "x" * 300])
def test_a_place_that_takes_no_file_asks_for_another_file_and_not_for_another_home(tmp_path: Path, name: str) -> None:
    with pytest.raises(FlywheelError, match=r"cannot be written \(.{5,40}\). Choose another file") as caught:
        export_vectors(filled(tmp_path / "source", ["1"]), ORIGIN, tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name} ")
    assert "--home" not in str(caught.value)


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = filled(tmp_path / "source", ["1"])
    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(FlywheelError, match=r"vectors.parquet is full"):
        export_vectors(cache, ORIGIN, tmp_path / "vectors.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"family": "localhost:8080/v1"}, "from localhost:8080/v1, and the settings ask for text-embedding-3-small at 4"),
        ({"model": "text-embedding-3-large"}, "holds vectors of text-embedding-3-large"),
        ({"dimensions": "8"}, "at 8 dimensions"),
    ],
)
def test_vectors_of_another_origin_are_refused(tmp_path: Path, file: Path, metadata: dict[str, str], words: str) -> None:
    refused(tmp_path, rewritten(file, **metadata), words)


def test_a_file_that_says_nothing_of_its_origin_is_refused(tmp_path: Path, file: Path) -> None:
    pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    refused(tmp_path, file, "does not say flywheel.family")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (unit(numbers(3000))[:, :3], r"fixed_size_list<element: float>\[3\] in the column vector"),
        (unit(numbers(3000)).astype(np.float64), "double"),
        (np.where(np.arange(3000)[:, None] == 2999, np.float32("nan"), unit(numbers(3000))), "length nan in row 3,000"),
        (np.where(np.arange(3000)[:, None] == 7, np.float32("inf"), unit(numbers(3000))), "length inf in row 8"),
        (np.where(np.arange(3000)[:, None] == 0, np.float32(0), unit(numbers(3000))), "length 0 in row 1"),
        (unit(numbers(3000)) * np.float32(1.01), "length 1.01 in row 1"),
    ],
)
def test_vectors_of_another_shape_or_length_are_refused(tmp_path: Path, file: Path, rows: np.ndarray, words: str) -> None:
    refused(tmp_path, rewritten(file, vectors=listed(rows)), words)


@pytest.mark.parametrize(
    "columns",
    [
        {"hashes": pa.array([None, *[b"x" * 16] * 2999], pa.binary(16))},
        {"vectors": pa.array([None, *[[0.0, 0.0, 0.0, 1.0]] * 2999], pa.list_(pa.float32(), 4))},
        {"vectors": pa.array([[None, 0.0, 0.0, 1.0]] * 3000, pa.list_(pa.float32(), 4))},
    ],
)
def test_rows_without_a_hash_or_a_vector_are_refused(tmp_path: Path, file: Path, columns: dict[str, pa.Array]) -> None:
    refused(tmp_path, rewritten(file, **columns), "without a hash or a vector")


def test_what_was_set_aside_goes_along(tmp_path: Path, file: Path) -> None:
    aside = {"00" * 16: "400 - No", "ff" * 16: "500 - 漢"}
    export_vectors(EmbeddingCache(tmp_path / "source", WIDTH), ORIGIN, file, aside)
    assert import_vectors(EmbeddingCache(tmp_path / "target", WIDTH), ORIGIN, file) == Imported(3000, 3000, aside)


@pytest.mark.parametrize("said", ["{", "[]", '{"0": "No"}', '{"xx": "No"}'])
def test_a_file_whose_set_aside_texts_are_unclear_is_refused(tmp_path: Path, file: Path, said: str) -> None:
    refused(tmp_path, rewritten(file, set_aside=said), "does not say which texts were set aside")


def test_columns_that_are_none_of_ours_are_refused(tmp_path: Path, file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.rename_columns(["hash", "vector"]).replace_schema_metadata(table.schema.metadata), file)
    refused(tmp_path, file, "holds nothing in the column text_hash")
    pq.write_table(table.set_column(0, "text_hash", table["text_hash"].cast(pa.binary())), file)
    refused(tmp_path, file, "holds binary in the column text_hash")


def test_a_file_that_is_damaged_anywhere_is_refused_and_nothing_of_it_is_taken(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_GROUP", 1000)
    export_vectors(EmbeddingCache(tmp_path / "source", WIDTH), ORIGIN, file)
    whole = file.read_bytes()
    with pq.ParquetFile(file) as parquet:
        last = parquet.metadata.row_group(2).column(1)
        inside = last.data_page_offset + last.total_compressed_size // 2
    flipped = bytes([*whole[:inside], whole[inside] ^ 1, *whole[inside + 1 :]])
    for damaged in (flipped, whole[:-10], whole[: len(whole) // 2], whole[100:], b"", b"text_hash,vector\n"):
        file.write_bytes(damaged)
        refused(tmp_path, file, "cannot be read")
    refused(tmp_path, tmp_path / "none.parquet", "There is no file")
    refused(tmp_path, tmp_path, "is a folder. Name the file")
    refused(tmp_path, tmp_path / ("x" * 300), "File name too long")


def refused(tmp_path: Path, file: Path, words: str) -> None:
    cache = filled(tmp_path / "target", ["5000"])
    with pytest.raises(FlywheelError, match=words) as caught:
        import_vectors(cache, ORIGIN, file)
    assert re.search(re.escape(str(file)), str(caught.value))
    assert "\n" not in str(caught.value)
    assert cache.texts() == 1


def test_what_a_kill_left_twice_counts_once(tmp_path: Path) -> None:
    cache = filled(tmp_path, numbers(10))
    for file in list(tmp_path.glob("*.npy")):  # as between the writing of a joined shard and the removal of its parts
        (tmp_path / f"copy-{file.name}").write_bytes(file.read_bytes())
    assert cache.texts() == 10
    assert sum(len(keys) for keys, _ in cache.rows(3)) == 10
    assert np.array_equal(cache.get(numbers(10), refuse), unit(numbers(10)))
