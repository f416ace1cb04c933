"""The baseline's verbs: what it would cost, paying for it once, and taking what was paid for to another home."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flywheel.errors import FlywheelError
from flywheel.pipeline.baseline import baseline_status, embed, export_baseline, texts_to_embed
from flywheel.pipeline.cleanup import forget_texts
from flywheel.pipeline.evaluation import measure_baseline, read_baseline
from flywheel.pipeline.ingest import ingest_seed, take_snapshot
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.conftest import flywheel, verb
from flywheel_tests.helpers.endpoint import KEY, Endpoint, Handler, refuse, tokens_of
from flywheel_tests.helpers.endpoint import embed as answer
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.servers import SERVERS

pytestmark = pytest.mark.usefixtures("plain_environment", "secret_key")


@pytest.fixture(scope="module")
def snapshot_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("baseline") / "home"
    workspace = make_workspace(home)
    ingest_seed(workspace)
    take_snapshot(workspace)
    return home


@pytest.fixture
def home(snapshot_home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(snapshot_home, tmp_path / "home")


def at(endpoint: Endpoint, home: Path) -> Workspace:
    return make_workspace(home, baseline={"url": endpoint.url, "dimensions": 4, "price": 1000})


def say(endpoint: Endpoint, *arguments: str | Path, key: str = KEY) -> subprocess.CompletedProcess[str]:
    """`flywheel baseline ...` on the endpoint, at 1,000 US dollars a million tokens; it never says the key."""
    finished = verb(
        "baseline", *arguments, OPENAI_API_KEY=key, FLYWHEEL_BASELINE__URL=endpoint.url, FLYWHEEL_BASELINE__DIMENSIONS="4",
        FLYWHEEL_BASELINE__PRICE="1000",
    )  # fmt: skip
    assert KEY not in finished.stdout + finished.stderr
    return finished


def test_the_verbs_tell_the_price_pay_once_and_carry_the_vectors_to_a_home_without_a_key(
    endpoint: Endpoint, home: Path, snapshot_home: Path, tmp_path: Path
) -> None:
    texts = texts_to_embed(at(endpoint, home).current_snapshot(), train=False)

    before = json.loads(say(endpoint, "--home", home, "--json").stdout)
    assert (before["judged"]["cached"], before["judged"]["missing"]) == (0, len(texts))
    assert before["judged"]["money"] == pytest.approx(before["judged"]["tokens"] / 1000)
    assert before["judged"]["tokens"] == -(-tokens_of(texts) // 4)
    assert (before["key_set"], before["next"], endpoint.asked) == (True, "flywheel baseline embed", [])

    first = say(endpoint, "embed", "--home", home)
    assert first.returncode == 0
    assert f"{len(texts):,} texts to embed, 0 are cached: about {before['judged']['tokens']:,} tokens" in first.stdout
    assert "characters / 4" in first.stdout
    paid = f"{tokens_of(texts):,} tokens of {len(texts):,} texts, {tokens_of(texts) / 1000:.4f} US dollars"
    assert f"Paid: {paid}." in first.stdout
    requests = len(endpoint.asked)

    second = say(endpoint, "embed", "--home", home)
    assert f"All {len(texts):,} texts were cached; nothing was paid." in second.stdout
    assert len(endpoint.asked) == requests
    shown = say(endpoint, "status", "--home", home, key="").stdout
    assert f"Paid so far: {paid}." in shown
    assert "OPENAI_API_KEY is not set" in shown
    assert "Next: flywheel grid, then flywheel leaderboard" in shown

    file = tmp_path / "vectors.parquet"
    assert json.loads(say(endpoint, "export", file, "--home", home, "--json", key="").stdout)["vectors"] == len(texts)
    assert pq.read_schema(file).metadata[b"flywheel.family"] == f"127.0.0.1:{endpoint.server_port}/v1".encode()

    other = shutil.copytree(snapshot_home, tmp_path / "other")
    brought = say(endpoint, "import", file, "--home", other, key="")
    assert f"{len(texts):,} of the file's {len(texts):,} vectors were new" in brought.stdout
    measured = measure_baseline(at(endpoint, other), at(endpoint, other).current_snapshot(), pay=False)
    assert measured.is_api
    assert measured.evaluation.variant == "text-embedding-3-small@4"
    assert len(endpoint.asked) == requests


def test_looking_pays_nothing_and_paying_is_said_by_the_verbs_name(endpoint: Endpoint, home: Path) -> None:
    keys = {
        "OPENAI_API_KEY": KEY, "FLYWHEEL_BASELINE__URL": endpoint.url, "FLYWHEEL_BASELINE__DIMENSIONS": "4",
        "FLYWHEEL_EVALUATION__MIN_COMPONENTS": "2",
    }  # fmt: skip
    assert "No model has been evaluated on snapshot" in verb("leaderboard", "--home", home, **keys).stdout
    unmeasured = verb("evidence", "--home", home, **keys)
    assert unmeasured.returncode == 1
    assert "The baseline has not been measured on snapshot" in unmeasured.stderr
    assert "Run `flywheel grid`" in unmeasured.stderr
    grid = verb("grid", "--variant", "all-MiniLM-L6-v2@256", "--size", "100", "--home", home, **keys)
    assert grid.returncode == 0, grid.stderr
    assert endpoint.asked == []
    board = json.loads(verb("leaderboard", "--home", home, "--json", **keys).stdout)
    assert [row["variant"] for row in board if row["kind"] == "baseline"] == ["all-MiniLM-L6-v2@384"]
    assert verb("evidence", "--home", home, **keys).returncode == 0
    only_api = {**keys, "FLYWHEEL_BASELINE__SOURCE": "openai"}
    refused = verb("champion", "promote", "--home", home, **only_api)
    assert refused.returncode == 1
    assert (
        "have no vector of text-embedding-3-small yet. Set OPENAI_API_KEY and run `flywheel baseline embed`" in refused.stderr
    )
    assert endpoint.asked == []

    paid = json.loads(verb("baseline", "embed", "--home", home, "--json", **keys).stdout)
    asked = len(endpoint.asked)
    assert asked
    board = json.loads(verb("leaderboard", "--home", home, "--json", **keys).stdout)
    api = [row for row in board if row["variant"] == "text-embedding-3-small@4"]
    assert [(row["kind"], row["error"]) for row in api] == [("baseline", paid["error"])]
    evidence = json.loads(verb("evidence", "--home", home, "--json", **keys).stdout)
    assert KEY not in Path(evidence["file"]).read_text()
    noise = verb("champion", "promote", "--home", home, **only_api)  # the endpoint's vectors say nothing of their texts
    assert "text-embedding-3-small@4 baseline cannot be compared with anything" in noise.stderr
    assert len(endpoint.asked) == asked


def test_train_is_embedded_when_asked_for(endpoint: Endpoint, home: Path) -> None:
    workspace = at(endpoint, home)
    snapshot = workspace.current_snapshot()
    judged, all_texts = texts_to_embed(snapshot, train=False), texts_to_embed(snapshot, train=True)
    finished = say(endpoint, "embed", "--home", home, "--train", "--json")
    assert json.loads(finished.stdout)["paid"] == {"texts": len(all_texts), "tokens": tokens_of(all_texts), "uncounted": 0}
    found = baseline_status(workspace, snapshot)
    assert (found.judged.missing, found.train.missing) == (0, 0)
    assert (found.judged.cached, found.train.cached) == (len(judged), len(all_texts) - len(judged))


def test_without_a_snapshot_the_next_verb_is_named(endpoint: Endpoint, tmp_path: Path) -> None:
    finished = say(endpoint, "embed", "--home", tmp_path / "new")
    assert finished.returncode == 1
    assert "Run `flywheel snapshot`" in finished.stderr


def test_without_a_key_the_price_is_told_and_nothing_is_asked_for(endpoint: Endpoint, home: Path) -> None:
    finished = say(endpoint, "embed", "--home", home, key="")
    assert finished.returncode == 1
    assert "texts to embed" in finished.stdout
    assert "there is no API key. Set OPENAI_API_KEY, bring the vectors with `flywheel baseline import`" in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert endpoint.asked == []


def test_a_wrong_key_is_told_in_one_sentence(endpoint: Endpoint, home: Path) -> None:
    endpoint.key = "another"
    finished = say(endpoint, "embed", "--home", home)
    assert finished.returncode == 1
    assert "refused the API key" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_file_for_another_model_is_refused(
    endpoint: Endpoint, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    workspace, file = at(endpoint, home), tmp_path / "vectors.parquet"
    with pytest.raises(FlywheelError, match="flywheel baseline embed"):
        export_baseline(workspace, file)
    assert embed(workspace, ["a", "b"]).texts == 2
    assert export_baseline(workspace, file) == 2
    elsewhere = flywheel("baseline", "import", file, "--home", tmp_path / "new")
    assert elsewhere.returncode == 1
    assert "the settings ask for text-embedding-3-small at 1536 dimensions from openai" in elsewhere.stderr
    assert not (tmp_path / "new" / "cache").exists()


def test_wrong_usage_exits_with_2(endpoint: Endpoint) -> None:
    assert say(endpoint, "import").returncode == 2


def test_an_export_is_written_over_no_file_of_somebody_elses(tmp_path: Path) -> None:
    file = tmp_path / "questions.parquet"
    pq.write_table(pa.table({"text": ["theirs"]}), file)
    notes = tmp_path / "notes.txt"
    notes.write_text("theirs")
    for each in (file, notes):
        before = each.read_bytes()
        run = verb("baseline", "export", each, "--home", tmp_path / "home")
        assert (run.returncode, run.stdout) == (1, "")
        assert f"{each} is there and no export of flywheel's, so it is kept. Give the export another name." in run.stderr
        assert each.read_bytes() == before


def test_where_the_pairs_carry_no_verdict_embed_says_so_and_what_leads_on(endpoint: Endpoint, home: Path) -> None:
    keys = {
        "OPENAI_API_KEY": KEY, "FLYWHEEL_BASELINE__URL": endpoint.url, "FLYWHEEL_BASELINE__DIMENSIONS": "4",
        "FLYWHEEL_EVALUATION__MIN_COMPONENTS": "10000",
    }  # fmt: skip
    said = verb("baseline", "embed", "--home", home, **keys).stdout
    assert "No verdict is possible: " in said
    assert "components are fewer than the 10000 a verdict needs. Ingest labelled pairs of new questions" in said


def test_a_text_that_the_api_fails_on_is_named_counted_as_its_error_and_tried_again_when_asked(
    endpoint: Endpoint, home: Path, snapshot_home: Path, tmp_path: Path
) -> None:
    def fail(handler: Handler, body: dict[str, Any]) -> None:
        (refuse(400, "Filtered") if bad in body["input"] else answer)(handler, body)

    snapshot = at(endpoint, home).current_snapshot()
    bad = snapshot.pairs("test")["text_a"].iloc[0]
    texts = texts_to_embed(snapshot, train=False)
    endpoint.usually = fail
    first = say(endpoint, "embed", "--home", home)
    assert first.returncode == 0, first.stderr
    assert "Set aside, because the API fails on them (1; `flywheel baseline embed --retry` tries again):" in first.stdout
    assert f"  {bad[:60]!r}: 400 - Filtered" in first.stdout
    pairs = snapshot.pairs("test")
    failed = int(((pairs["text_a"] == bad) | (pairs["text_b"] == bad)).sum())
    assert f"{failed} test pair" in first.stdout
    assert "that the API could not embed and count as its errors; without them its error is" in first.stdout
    record = read_baseline(at(endpoint, home), snapshot)
    assert record.is_api
    assert record.evaluation.failures is not None
    assert record.evaluation.failures.test == failed

    endpoint.asked.clear()
    second = json.loads(say(endpoint, "embed", "--home", home, "--json").stdout)
    assert (second["paid"]["texts"], second["estimate"]["missing"], second["estimate"]["failed"]) == (0, 0, 1)
    assert second["failed"] == [{"begins": bad[:60], "reason": "400 - Filtered"}]
    status = say(endpoint, "status", "--home", home)
    assert "Set aside, because the API fails on them (1;" in status.stdout
    assert "Next: flywheel grid, then flywheel leaderboard" in status.stdout
    assert endpoint.asked == []

    file, other = tmp_path / "vectors.parquet", shutil.copytree(snapshot_home, tmp_path / "other")
    assert say(endpoint, "export", file, "--home", home, key="").returncode == 0
    for _ in range(2):
        assert json.loads(say(endpoint, "import", file, "--home", other, "--json", key="").stdout)["set_aside"] == 1
    elsewhere = measure_baseline(at(endpoint, other), snapshot, pay=False)
    assert elsewhere.is_api
    assert elsewhere.evaluation.failures == record.evaluation.failures
    assert endpoint.asked == []

    without = say(endpoint, "embed", "--retry", "--home", home, key="")
    assert without.returncode == 1
    assert "there is no API key" in without.stderr
    assert baseline_status(at(endpoint, home), snapshot).judged.failed == 1

    endpoint.usually = answer
    third = json.loads(say(endpoint, "embed", "--retry", "--home", home, "--json").stdout)
    assert endpoint.asked == [[bad]]
    assert third["failed"] == []
    again = read_baseline(at(endpoint, home), snapshot).evaluation
    assert again.failures is None
    assert third["error"] == again.error
    assert baseline_status(at(endpoint, home), snapshot).judged.cached == len(texts)


def test_what_is_forgotten_is_not_known_as_set_aside(endpoint: Endpoint, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    workspace = at(endpoint, home)
    bad, *others = texts_to_embed(workspace.current_snapshot(), train=False)[:5]
    endpoint.usually = lambda handler, body: (refuse(400, "No") if bad in body["input"] else answer)(handler, body)
    embed(workspace, [bad, *others])
    assert set(workspace.api.failed([bad, *others])) == {bad}
    forget_texts(workspace, {bad})
    assert workspace.api.failed([bad, *others]) == {}
    assert (workspace.api.cache.folder / "set_aside.jsonl").read_bytes().strip() == b""


def test_settings_of_requests_come_from_the_environment(endpoint: Endpoint, home: Path) -> None:
    endpoint.usually = SERVERS["OpenAI ada-002"]
    keys = {"OPENAI_API_KEY": KEY, "FLYWHEEL_BASELINE__URL": endpoint.url, "FLYWHEEL_BASELINE__DIMENSIONS": "4"}
    always = verb("baseline", "embed", "--home", home, **keys, FLYWHEEL_BASELINE__SEND_DIMENSIONS="true")
    assert always.returncode == 1
    assert 'This model does not support specifying dimensions). Set baseline.send_dimensions to "auto".' in always.stderr
    set_so = {"FLYWHEEL_BASELINE__SEND_DIMENSIONS": "auto", "FLYWHEEL_BASELINE__BATCH_TEXTS": "40",
              "FLYWHEEL_BASELINE__ENCODING_FORMAT": "base64"}  # fmt: skip
    endpoint.bodies.clear()
    assert verb("baseline", "embed", "--home", home, **keys, **set_so).returncode == 0
    assert {body["encoding_format"] for body in endpoint.bodies} == {"base64"}
    assert max(len(body["input"]) for body in endpoint.bodies) == 40
