"""The baseline's verbs: what it would cost, paying for it once, and taking what was paid for to another home."""

import json
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flywheel.errors import FlywheelError
from flywheel.orchestration import steps
from flywheel.orchestration.baseline import baseline_status, embed, export_baseline, texts_to_embed
from flywheel.settings import Settings, load_settings
from flywheel_tests.conftest import flywheel
from flywheel_tests.helpers.endpoint import KEY, Endpoint, tokens_of

pytestmark = pytest.mark.usefixtures("plain_environment", "secret_key")


@pytest.fixture(scope="module")
def snapshot_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("baseline") / "home"
    settings = load_settings(home)
    steps.ingest_seed(settings)
    steps.snapshot(settings)
    return home


@pytest.fixture
def home(snapshot_home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(snapshot_home, tmp_path / "home")


def at(endpoint: Endpoint, home: Path) -> Settings:
    return Settings(home=home, baseline_url=endpoint.url, baseline_dimensions=4, baseline_price=1000)


def say(endpoint: Endpoint, *arguments: str | Path, key: str = KEY) -> subprocess.CompletedProcess[str]:
    """`flywheel baseline ...` on the endpoint, at 1,000 US dollars a million tokens; it never says the key."""
    finished = flywheel(
        "baseline", *arguments, OPENAI_API_KEY=key, FLYWHEEL_BASELINE_URL=endpoint.url, FLYWHEEL_BASELINE_DIMENSIONS="4",
        FLYWHEEL_BASELINE_PRICE="1000",
    )  # fmt: skip
    assert KEY not in finished.stdout + finished.stderr
    return finished


def test_the_verbs_tell_the_price_pay_once_and_carry_the_vectors_to_a_home_without_a_key(
    endpoint: Endpoint, home: Path, snapshot_home: Path, tmp_path: Path
) -> None:
    texts = texts_to_embed(at(endpoint, home), train=False)

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
    assert f"All {len(texts):,} texts were cached; nothing was asked for." in second.stdout
    assert len(endpoint.asked) == requests
    shown = say(endpoint, "status", "--home", home, key="").stdout
    assert f"Paid so far: {paid}." in shown
    assert "OPENAI_API_KEY is not set" in shown
    assert "Next: flywheel leaderboard" in shown

    file = tmp_path / "vectors.parquet"
    assert json.loads(say(endpoint, "export", file, "--home", home, "--json", key="").stdout)["vectors"] == len(texts)
    assert pq.read_schema(file).metadata[b"flywheel.family"] == f"127.0.0.1:{endpoint.server_port}/v1".encode()

    other = shutil.copytree(snapshot_home, tmp_path / "other")
    brought = say(endpoint, "import", file, "--home", other, key="")
    assert f"{len(texts):,} of the file's {len(texts):,} vectors were new" in brought.stdout
    measured = steps.measure_baseline(at(endpoint, other))
    assert measured.is_api
    assert measured.evaluation.variant == "text-embedding-3-small@4"
    assert len(endpoint.asked) == requests


def test_a_verb_that_has_to_pay_for_the_baseline_says_first_how_much(endpoint: Endpoint, home: Path) -> None:
    texts = texts_to_embed(at(endpoint, home), train=False)
    keys = {"OPENAI_API_KEY": KEY, "FLYWHEEL_BASELINE_URL": endpoint.url, "FLYWHEEL_BASELINE_DIMENSIONS": "4"}
    finished = flywheel("leaderboard", "--home", home, "--json", **keys)
    assert f"text-embedding-3-small is paid for {len(texts):,} texts: about" in finished.stderr
    assert [row["kind"] for row in json.loads(finished.stdout)] == ["baseline", "published"]
    assert "is paid for" not in flywheel("leaderboard", "--home", home, "--json", **keys).stderr
    evidence = json.loads(flywheel("evidence", "--home", home, "--json", **keys).stdout)
    assert (evidence["tone"], evidence["command"]) == ("open", "flywheel grid")
    assert KEY not in Path(evidence["file"]).read_text()


def test_train_is_embedded_when_asked_for(endpoint: Endpoint, home: Path) -> None:
    settings = at(endpoint, home)
    judged, all_texts = texts_to_embed(settings, train=False), texts_to_embed(settings, train=True)
    finished = say(endpoint, "embed", "--home", home, "--train", "--json")
    assert json.loads(finished.stdout)["paid"] == {"texts": len(all_texts), "tokens": tokens_of(all_texts), "uncounted": 0}
    found = baseline_status(settings)
    assert (found.judged.missing, found.train.missing) == (0, 0)
    assert (found.judged.cached, found.train.cached) == (len(judged), len(all_texts) - len(judged))


def test_without_a_snapshot_the_next_verb_is_named(endpoint: Endpoint, tmp_path: Path) -> None:
    finished = say(endpoint, "embed", "--home", tmp_path / "new")
    assert finished.returncode == 1
    assert "run `flywheel snapshot`" in finished.stderr
    with pytest.raises(FlywheelError, match="run `flywheel snapshot`"):
        baseline_status(at(endpoint, tmp_path / "new"))


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
    settings, file = at(endpoint, home), tmp_path / "vectors.parquet"
    with pytest.raises(FlywheelError, match="flywheel baseline embed"):
        export_baseline(settings, file)
    assert embed(settings, ["a", "b"]).texts == 2
    assert export_baseline(settings, file) == 2
    elsewhere = flywheel("baseline", "import", file, "--home", tmp_path / "new")
    assert elsewhere.returncode == 1
    assert "the settings ask for text-embedding-3-small at 1536 dimensions from openai" in elsewhere.stderr
    assert not (tmp_path / "new" / "cache").exists()


def test_wrong_usage_exits_with_2(endpoint: Endpoint) -> None:
    assert say(endpoint, "import").returncode == 2
