"""A corpus is embedded into a generation of its own, exactly once whatever is killed, and an index is switched over to it."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from flywheel.errors import FlywheelError
from flywheel.evaluation.speed import read_speeds
from flywheel.models.embedder import Embedder, folder_fingerprint
from flywheel.models.folder import open_model
from flywheel.pipeline.reembedding import run
from flywheel.pipeline.reembedding.engines import Here
from flywheel.pipeline.reembedding.generation import Generation, cut_over, served
from flywheel.pipeline.reembedding.plan import Request, Work, part_rows, plan_work
from flywheel.pipeline.reembedding.run import Estimate, Reembedding, reembed
from flywheel.training.model import TrainedModel
from flywheel_tests.conftest import verb
from flywheel_tests.helpers.clumps import World, clump_world
from flywheel_tests.helpers.corpora import KINDS, read_vectors, some_texts, write_corpus
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.helpers.tiny_models import ARCHITECTURES, write_tiny

TEXTS: list[str | None] = [*some_texts(100), None, " "]
IDS: list[object] = [f"doc {n}" for n in range(len(TEXTS))]


@dataclasses.dataclass(frozen=True)
class Shop:
    """A home with two trained models."""

    world: World
    models: tuple[TrainedModel, TrainedModel]

    @property
    def home(self) -> Path:
        return self.world.workspace.home.root


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    home = tmp_path_factory.mktemp("shop") / "home"
    world = clump_world(home, 40, splits={"max_component_pairs": 100}, evaluation={"min_components": 2})
    models = [world.workspace.train(world.job(random_seed=seed), world.snapshot) for seed in (0, 1)]
    workspace = with_options(world.workspace, encoding={"device": "cpu"})
    return Shop(dataclasses.replace(world, workspace=workspace), (models[0], models[1]))


def embedded(shop: Shop, corpus: Path, output: Path, model: int = 0, dry_run: bool = False, **fields: Any) -> Reembedding:
    return embed_work(shop, planned(shop, corpus, output, model, **fields), dry_run)


def planned(shop: Shop, corpus: Path, output: Path, model: int = 0, **fields: Any) -> Work:
    return plan_work(shop.world.workspace, Request(corpus, output, shop.models[model].name, **fields), 1)


def embed_work(shop: Shop, work: Work, dry_run: bool = False) -> Reembedding:
    return reembed(shop.world.workspace, work, Here(work), dry_run, lambda _: None, lambda done, of: None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_gets_the_vector_that_plain_encode_gives(kind: str, shop: Shop, tmp_path: Path) -> None:
    done = embedded(shop, write_corpus(tmp_path, kind, IDS, TEXTS), tmp_path / "out")
    ids, vectors = read_vectors(done.generation.folder)
    assert ids == IDS[:100]
    expected = open_model(shop.models[0].folder, "cpu").encode([str(text) for text in TEXTS[:100]], show_progress_bar=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    manifest = json.loads((done.generation.folder / "manifest.json").read_text())
    assert (manifest["complete"], manifest["outcome"]["vectors"], manifest["plan"]["dim"]) == (True, 100, 32)
    assert manifest["plan"]["model_fingerprint"] == folder_fingerprint(shop.models[0].folder)
    assert (manifest["plan"]["empty"], len(manifest["plan"]["empty_places"])) == (2, 2)


def test_pandas_and_duckdb_read_the_vectors(shop: Shop, tmp_path: Path) -> None:
    folder = embedded(shop, write_corpus(tmp_path, "parquet", list(range(102)), TEXTS), tmp_path / "out").generation.folder
    frame = pd.concat([pd.read_parquet(part) for part in sorted(folder.glob("*.parquet"))])
    assert np.stack(frame["vector"].tolist()).dtype == np.float32
    relation = duckdb.sql(f"SELECT id, vector::FLOAT[32] AS v FROM read_parquet('{folder}/*.parquet') ORDER BY id")
    nearest = duckdb.sql("SELECT id FROM relation ORDER BY array_cosine_distance(v, (SELECT v FROM relation LIMIT 1)) LIMIT 2")
    assert {row[0] for row in nearest.fetchall()} == {0, 1}
    del relation
    field = pq.read_schema(next(folder.glob("*.parquet"))).field("vector")
    assert field.type == pa.list_(pa.field("element", pa.float32(), nullable=False), 32)


def small_parts(work: Work, rows: int) -> None:
    """Begin a generation whose parts are smaller than usual; whoever goes on keeps to it."""
    dataclasses.replace(work.generation, plan=dataclasses.replace(work.plan, part_rows=rows)).write()


# A process that embeds and says so after each part, so that it can be killed between two and amid one.
_CHILD = """
import sys
from pathlib import Path
from flywheel.pipeline.reembedding.engines import Here
from flywheel.pipeline.reembedding.plan import Request, plan_work
from flywheel.pipeline.reembedding.run import reembed
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import load_settings
home, corpus, output, model = sys.argv[1:]
workspace = Workspace(load_settings(Path(home)))
work = plan_work(workspace, Request(Path(corpus), Path(output), model), 1)
print("to do", len(work.todo), flush=True)
reembed(workspace, work, Here(work), False, lambda _: None, lambda done, of: print("part", flush=True))
"""


def test_killed_it_goes_on_and_has_every_id_once(shop: Shop, tmp_path: Path) -> None:
    texts = some_texts(400)
    corpus = write_corpus(tmp_path, "folder", list(range(400)), list(texts))
    output, model = tmp_path / "out", shop.models[0]
    small_parts(planned(shop, corpus, output), 50)
    command = [sys.executable, "-c", _CHILD, shop.home, corpus, output, model.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "to do 8\n"
        for _ in range(2):
            assert child.stdout.readline() == "part\n"
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(FlywheelError, match=r"not complete: \d of 8 parts are missing"):
        cut_over(output, model.name)
    work = planned(shop, corpus, output)
    assert 0 < len(work.todo) <= 6
    torn = output / model.name / "part-000000.parquet"
    torn.write_bytes(torn.read_bytes()[:100])
    (output / model.name / f".aside-{2**22 - 1}-{'0' * 32}").write_bytes(b"what a killed process has left")
    done = embedded(shop, corpus, output)
    assert done.encoded == work.rows + done.generation.plan.part_rows
    assert done.encoded + done.kept == 400
    ids, vectors = read_vectors(done.generation.folder)
    assert ids == list(range(400))
    expected = Embedder(model.folder, "cpu")(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert not list(done.generation.folder.glob(".aside-*"))
    assert embedded(shop, corpus, output).encoded == 0


def test_generations_lie_side_by_side_and_one_command_switches_to_and_fro(shop: Shop, tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path, "parquet", IDS[:40], TEXTS[:40]), tmp_path / "out"
    a, b = (embedded(shop, corpus, output, each).generation for each in (0, 1))
    assert np.abs(read_vectors(a.folder)[1] - read_vectors(b.folder)[1]).max() > 1e-3
    assert served(output) is None
    for each, before in ((a, None), (b, a), (a, b)):
        run = verb("reembed", "--cutover", output, each.plan.model, "--json", "--home", shop.home)
        said = json.loads(run.stdout)
        assert (said["model"], said["before"] and said["before"]["model"]) == (each.plan.model, before and before.plan.model)
        assert read_vectors(output / "current")[0] == IDS[:40]
        assert (output / "current").resolve() == each.folder
    (b.folder / "part-000000.parquet").unlink()
    for model, reason in (
        (b.plan.model, "1 of 1 parts are missing"),
        ("nonsense", "no generation"),
        ("../out", "no generation"),
    ):
        run = verb("reembed", "--cutover", output, model)
        assert (run.returncode, reason in run.stderr) == (1, True)
        assert (output / "current").resolve() == a.folder
    (output / "current").unlink()
    (output / "current").mkdir()
    with pytest.raises(FlywheelError, match="is no link"):
        cut_over(output, a.plan.model)


def test_a_reader_of_the_link_finds_a_generation_at_any_moment_of_a_switch(shop: Shop, tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path, "parquet", IDS[:4], TEXTS[:4]), tmp_path / "out"
    names = [embedded(shop, corpus, output, each).generation.plan.model for each in (0, 1)]
    cut_over(output, names[0])
    loop = f"from pathlib import Path; from flywheel.pipeline.reembedding.generation import cut_over\nprint(0, flush=True)\nfor n in range(10**6): cut_over(Path({str(output)!r}), {names!r}[n % 2])"  # noqa: E501
    with subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seen, until = set(), time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < until:
            for _ in range(500):
                seen.add(os.readlink(output / "current"))
                assert (output / "current" / "part-000000.parquet").exists()
        child.kill()
    assert seen == set(names)


def test_another_state_of_the_corpus_is_not_mixed_in(shop: Shop, tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path, "jsonl", IDS[:40], TEXTS[:40]), tmp_path / "out"
    folder = embedded(shop, corpus, output).generation.folder
    write_corpus(tmp_path, "jsonl", IDS[:41], TEXTS[:41])
    with pytest.raises(FlywheelError, match=r"holds vectors of 40 texts .* other ones \(41\).*remove"):
        planned(shop, corpus, output)
    assert embedded(shop, corpus, tmp_path / "another").encoded == 41
    shutil.rmtree(folder)  # the other remedy
    assert embedded(shop, corpus, output).encoded == 41


def test_what_was_embedded_of_a_corpus_that_changed_meanwhile_is_removed(shop: Shop, tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path, "jsonl", IDS[:40], TEXTS[:40]), tmp_path / "out"
    small_parts(planned(shop, corpus, output), 10)
    work = planned(shop, corpus, output)
    before = corpus.read_text()
    for changed in (before.replace("question 7", "question 77"), before[: len(before) // 2]):
        corpus.write_text(changed)
        with pytest.raises(FlywheelError, match="has changed while it was embedded"):
            embed_work(shop, work)
        assert not list(work.generation.folder.glob("part-*"))
    corpus.unlink()
    with pytest.raises(FlywheelError, match="has changed while it was embedded"):
        embed_work(shop, work)
    corpus.write_text(before)
    done = embedded(shop, corpus, output)
    expected = Embedder(shop.models[0].folder, "cpu")([str(text) for text in TEXTS[:40]])
    np.testing.assert_allclose(read_vectors(done.generation.folder)[1], expected, atol=1e-5)


def test_a_run_killed_after_its_last_part_is_only_finished(shop: Shop, tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path, "parquet", IDS[:40], TEXTS[:40]), tmp_path / "out"
    generation = embedded(shop, corpus, output).generation
    dataclasses.replace(generation, outcome={}).write()
    run = verb("reembed", corpus, output, "--model", shop.models[0].name, "--json", "--home", shop.home)
    assert run.returncode == 0, run.stderr
    done = json.loads(run.stdout)
    assert (done["complete"], done["encoded"], done["kept"]) == (True, 0, 40)


def test_other_weights_or_numbers_are_not_mixed_in(shop: Shop, tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path, "parquet", IDS[:40], TEXTS[:40]), tmp_path / "out"
    generation = embedded(shop, corpus, output).generation
    with pytest.raises(FlywheelError, match=r"computed in float32, not in bfloat16\. Give --numbers float32"):
        planned(shop, corpus, output, numbers="bfloat16")
    changed = dataclasses.replace(generation.plan, model_fingerprint="0" * 32)
    dataclasses.replace(generation, plan=changed).write()
    with pytest.raises(FlywheelError, match="another model of this name"):
        planned(shop, corpus, output)
    (generation.folder / "manifest.json").write_text("{}")
    with pytest.raises(FlywheelError, match="is damaged"):
        planned(shop, corpus, output)
    (generation.folder / "manifest.json").unlink()
    with pytest.raises(FlywheelError, match="holds files and no manifest"):
        planned(shop, corpus, output)


def test_bfloat16_vectors_are_close(shop: Shop, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, "parquet", IDS[:100], TEXTS[:100])
    exact, quick = (
        read_vectors(embedded(shop, corpus, tmp_path / numbers, numbers=numbers).generation.folder)[1]
        for numbers in ("float32", "bfloat16")
    )
    assert 1e-6 < np.abs(exact @ exact.T - quick @ quick.T).max() < 0.03


def test_the_same_folder_is_not_embedded_into_twice_at_once(shop: Shop, tmp_path: Path) -> None:
    work = planned(shop, write_corpus(tmp_path, "parquet", IDS[:4], TEXTS[:4]), tmp_path / "out")
    work.generation.folder.mkdir(parents=True)
    with FileLock(work.generation.folder / ".lock"), pytest.raises(FlywheelError, match="Another process embeds"):
        embed_work(shop, work)
    assert embed_work(shop, work).encoded == 4


def test_a_plan_writes_nothing_and_tells_time_and_dollars(shop: Shop, tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path, "parquet", IDS, TEXTS), tmp_path / "out"
    priced = with_options(shop.world.workspace, compute={"price_per_hour": 3600.0})
    work = plan_work(priced, Request(corpus, output, shop.models[0].name), 1)
    told: list[Estimate] = []
    done = reembed(priced, work, Here(work), True, told.append, lambda done, of: None)
    assert not output.exists()
    assert done.estimate == told[0]
    assert told[0].dollars == pytest.approx(told[0].seconds) == pytest.approx(102 / told[0].rate)
    json.dumps(done.to_json())


def test_a_disk_that_is_too_small_is_named_before_and_one_that_fills_up_after(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], check=False).returncode:
        pytest.skip("only root makes a small disk")
    try:
        many = write_corpus(tmp_path / "many", "parquet", list(range(20_000)), [f"t {n}" for n in range(20_000)])
        with pytest.raises(FlywheelError, match=r"The vectors take about .* are free in"):
            embed_work(shop, planned(shop, many, disk / "out"))
        corpus = write_corpus(tmp_path, "parquet", IDS, TEXTS)
        full = disk / "filler"
        full.write_bytes(b"0" * 500_000)

        class Filling(Here):
            def run(self, work: Work) -> Any:
                for number, part in enumerate(super().run(work)):
                    yield part
                    if number == 0:
                        with suppress(OSError), full.open("ab", buffering=0) as file:
                            while file.write(b"0" * 1000):
                                pass

        small_parts(planned(shop, corpus, disk / "out"), 30)
        work = planned(shop, corpus, disk / "out")
        with pytest.raises(FlywheelError, match=r"disk that holds .* is full; 30 of 102 rows are embedded and stay"):
            reembed(shop.world.workspace, work, Filling(work), False, lambda _: None, lambda done, of: None)
        full.unlink()
        done = embedded(shop, corpus, disk / "out")
        assert (done.kept, done.encoded, done.generation.complete) == (30, 72, True)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_large_corpus_brings_the_machines_speed_up_to_date(shop: Shop, tmp_path: Path) -> None:
    texts: list[str | None] = [f"t {n % 9}" for n in range(1024)]  # nine encodings a part
    done = embedded(shop, write_corpus(tmp_path, "parquet", list(range(1024)), texts), tmp_path / "out")
    speeds = read_speeds(shop.world.workspace.home.speeds)
    assert speeds["all-MiniLM-L6-v2"] == pytest.approx(1024 / done.seconds)


def test_small_corpora_have_parts_for_every_worker_and_large_ones_not_too_many() -> None:
    cases = {(10, 1): 256, (4_000, 1): 500, (4_000, 2): 256, (10**6, 64): 1953, (10**6, 1): 8192, (10**9, 64): 100_000}
    assert {case: part_rows(*case) for case in cases} == cases


def test_what_cannot_be_embedded_is_said_by_the_verb(shop: Shop, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, "parquet", IDS[:4], TEXTS[:4])
    no_champion = verb("reembed", corpus, tmp_path / "out", "--home", shop.home)
    assert (no_champion.returncode, "There is no champion yet" in no_champion.stderr) == (1, True)
    model = ("--model", shop.models[0].name, "--home", shop.home)
    cases = {
        ("reembed", tmp_path / "gone.parquet", tmp_path / "out", *model): "There is no corpus at",
        ("reembed", corpus, tmp_path / "out", "--text", "txt", *model): "has no column 'txt'",
        ("reembed", corpus, tmp_path, *model): "lie in each other",
        ("reembed", corpus, tmp_path / "out", "--actors", "2", *model): "--actors is for Ray",
    }
    for command, sentence in cases.items():
        run = verb(*command)
        assert (run.returncode, sentence in run.stderr) == (1, True), run.stderr
    run = verb("reembed", corpus, tmp_path / "out", *model)
    assert run.returncode == 0, run.stderr
    follow = run.stdout[run.stdout.index("Next: flywheel ") :].split()[2:]
    assert verb(*follow).returncode == 0
    assert (tmp_path / "out" / "current").is_symlink()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_an_embedder_gives_what_plain_encode_gives_for_every_architecture(architecture: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", architecture, prompts={"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    texts = ["what is the best way", "how do i learn", "what is the best way", "clump1 wording3 " * 20, "?"]
    embedder = Embedder(folder, "cpu")
    expected = open_model(folder, "cpu").encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(embedder(texts), expected, atol=1e-5)
    assert embedder([]).shape == (0, embedder.dim) == (0, expected.shape[1])


def test_the_estimate_has_a_seam_for_engines_that_start_slowly(shop: Shop, tmp_path: Path) -> None:
    work = planned(shop, write_corpus(tmp_path, "parquet", IDS[:40], TEXTS[:40]), tmp_path / "out")
    engine = Here(work)
    engine.startup = 100.0
    assert run.estimate_work(work, engine, None).seconds > 100
    assert Generation.read(tmp_path / "out" / shop.models[0].name) is None
