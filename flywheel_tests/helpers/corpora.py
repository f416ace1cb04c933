"""Corpora for tests, and what re-embedding made of them."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KINDS = ("parquet", "folder", "jsonl", "jsonl.gz", "duckdb")


def some_texts(count: int) -> list[str]:
    """Texts of different lengths, the first two equal."""
    return ["how do I reset my password"] * 2 + [f"question {n} about " + "my order " * (n % 7) for n in range(2, count)]


def write_corpus(root: Path, kind: str, ids: list[object], texts: list[str | None]) -> Path:
    """The rows as one of `KINDS`, in columns called id and text."""
    root.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": ids, "text": pa.array(texts, pa.string()), "other": [0.5] * len(ids)})
    path = root / f"corpus.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=97)
    elif kind == "folder":
        (root / "corpus").mkdir()
        half = len(ids) // 2
        for name, rows in (("a", table.slice(0, half)), ("b", table.slice(half))):
            pq.write_table(rows, root / "corpus" / f"{name}.parquet", row_group_size=97)
        return root / "corpus"
    elif kind == "duckdb":
        with duckdb.connect(str(path)) as connection:
            connection.register("rows", table)
            connection.execute("CREATE TABLE docs AS SELECT * FROM rows")
    else:
        lines = "".join(json.dumps({"id": id_, "text": text}) + "\n\n" for id_, text in zip(ids, texts, strict=True))
        if kind == "jsonl.gz":
            import gzip

            path.write_bytes(gzip.compress(lines.encode()))
        else:
            path.write_text(lines)
    return path


def read_vectors(generation: Path) -> tuple[list[object], np.ndarray]:
    """The ids and vectors (n, dim) of a generation, in the order of its parts."""
    rows = pa.concat_tables(pq.read_table(part) for part in sorted(generation.glob("part-*.parquet")))
    vectors = np.concatenate([chunk.values.to_numpy() for chunk in rows["vector"].chunks if len(chunk)])
    return rows["id"].to_pylist(), vectors.reshape(rows.num_rows, -1)
