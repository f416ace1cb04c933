"""An endpoint that reads nothing wins and loses nothing: every verb says so and why, and each remedy it names leads on."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import dagster as dg
import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.records import evaluation_folder
from flywheel.evaluation.sanity import Finding
from flywheel.files import write_json
from flywheel.models.catalogue import Variant
from flywheel.orchestration.instance import open_session
from flywheel.orchestration.materialise import materialise
from flywheel.pipeline.evaluation import evaluate_cell, leaderboard, read_baseline
from flywheel.pipeline.promotion import decide_champion, next_match
from flywheel.pipeline.publish import save_page
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel_tests.conftest import copy_home, verb
from flywheel_tests.evaluation.test_sanity import drawn, unit
from flywheel_tests.helpers.clumps import clump_world, embed
from flywheel_tests.helpers.homes import make_workspace

pytestmark = pytest.mark.usefixtures("plain_environment")
V32 = Variant.parse("all-MiniLM-L6-v2@32")
WHAT = "practically every text has the same vector"
CAUSE = "Likely cause: the endpoint does not read the texts."


def constant(texts: list[str]) -> np.ndarray:
    """One vector, as long as the real ones."""
    return np.tile(embed(["clump0 intenta wording0"]), (len(texts), 1))


def weak(texts: list[str]) -> np.ndarray:
    """Real vectors under much noise."""
    return embed(texts) + 2 * unit(np.stack([drawn(text, 384) for text in texts]))


class Answers(BaseHTTPRequestHandler):
    """Gives what the server makes of the texts."""

    server: "Server"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vectors = self.server.made(body["input"]).astype(np.float32)
        packed = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": base64.b64encode(row).decode() if packed else row.tolist()}
            for i, row in enumerate(vectors)
        ]
        usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
        answer = json.dumps({"object": "list", "data": data, "model": body["model"], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Leave stderr alone."""


class Server(ThreadingHTTPServer):
    """An endpoint on the loopback that makes of texts whatever it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.made: Callable[[list[str]], np.ndarray] = constant


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a snapshot and an evaluated cell, and nothing to compare it with."""
    world = clump_world(tmp_path_factory.mktemp("home") / "home", clumps=200, compute={"run_in": "inline"})
    evaluate_cell(world.workspace, train_cell(world.workspace, world.snapshot, Cell(V32, "400"), "head"), world.snapshot)
    return world.workspace.home.root


@pytest.fixture
def home(measured: Path, tmp_path: Path) -> Path:
    return copy_home(measured, tmp_path / "home")


def say(server: Server, home: Path, *arguments: str, **more: str) -> CompletedProcess[str]:
    environment = {
        "OPENAI_API_KEY": "sk-key", "FLYWHEEL_BASELINE__URL": f"http://127.0.0.1:{server.server_port}/v1",
        "FLYWHEEL_BASELINE__DIMENSIONS": "384", "FLYWHEEL_ENCODING__DEVICE": "gone",
        "FLYWHEEL_BASELINE__LOCAL_VARIANT": str(V32),
    }  # fmt: skip
    return verb(*arguments, "--home", home, **{**environment, **more})


def test_no_verdict_stands_against_it_and_putting_it_right_leads_on(server: Server, home: Path) -> None:
    paid = say(server, home, "baseline", "embed")
    assert (
        f"No verdict is possible: text-embedding-3-small@384 baseline cannot be compared with anything: {WHAT}" in paid.stdout
    )
    refused = say(server, home, "champion", "promote")
    assert refused.returncode == 1
    assert refused.stderr.startswith("flywheel: No verdict is possible: text-embedding-3-small@384 baseline cannot be compared")
    assert CAUSE in refused.stderr
    assert refused.stderr.count("\n") == 1
    board = json.loads(say(server, home, "leaderboard", "--json").stdout)
    assert [(row["kind"], bool(row["alarm"])) for row in board if "alarm" in row] == [
        ("baseline", True), ("untuned", False), ("tuned", False),
    ]  # fmt: skip
    shown = " ".join(say(server, home, "leaderboard").stdout.split())
    assert "text-embedding-3-small@384 ‡" in shown
    assert f"{CAUSE} Put the endpoint right" in shown
    page = json.loads(say(server, home, "evidence", "--json").stdout)
    assert page["tone"] == "open"
    assert page["answer"].startswith(
        "No verdict is possible: text-embedding-3-small@384 baseline cannot be compared with anything"
    )
    assert page["next_step"].startswith(
        "Put the endpoint right (baseline.url, baseline.model) and run `flywheel baseline embed --again`"
    )
    assert "p = " not in json.dumps(page)
    assert "Proven better" not in Path(page["file"]).read_text()
    assert say(server, home, "champion", "show").returncode == 1

    server.made = weak
    assert "All" in say(server, home, "baseline", "embed").stdout  # what is cached is not asked for again by itself
    assert say(server, home, "champion", "promote").returncode == 1
    again = json.loads(say(server, home, "baseline", "embed", "--again", "--json").stdout)
    assert again["alarm"] is None
    assert again["paid"]["texts"] > 0
    judged = json.loads(say(server, home, "champion", "promote", "--json").stdout)
    assert (judged["judged"], judged["action"]) == (True, "promoted")
    assert judged["alarm"] is None


def test_after_again_nothing_is_said_of_the_vectors_before(server: Server, home: Path) -> None:
    server.made = weak
    say(server, home, "baseline", "embed")
    assert json.loads(say(server, home, "champion", "promote", "--json").stdout)["action"] == "promoted"
    server.made = constant
    again = json.loads(say(server, home, "baseline", "embed", "--again", "--json").stdout)
    assert WHAT in again["alarm"]
    page = json.loads(say(server, home, "evidence", "--json").stdout)
    assert page["answer"].startswith("No verdict is possible: text-embedding-3-small@384 baseline cannot be compared")


def test_in_dagster_each_side_has_its_check_and_the_boards_blocks_the_decision(server: Server, home: Path) -> None:
    say(server, home, "baseline", "embed")
    workspace = make_workspace(
        home, encoding={"device": "gone"}, baseline={"url": f"http://127.0.0.1:{server.server_port}/v1", "dimensions": 384}
    )
    with open_session(workspace.settings) as session:
        with pytest.raises(FlywheelError, match=f"No verdict is possible: .* {WHAT}"):
            materialise(session, ["baseline_scores", "leaderboard", "champion"])
        log = session.instance.all_logs(session.instance.get_runs()[0].run_id)
    events = [entry.dagster_event for entry in log if entry.dagster_event]
    checks = {each.check_name: each for event in events if (each := checked(event))}
    assert {name: check.passed for name, check in checks.items()} == {
        "baseline_is_api": True, "baseline_is_sane": False, "sides_are_sane": False,
    }  # fmt: skip
    assert not checks["baseline_is_sane"].blocking  # the board shows it, and a champion may still be challenged
    assert checks["sides_are_sane"].blocking
    assert WHAT in (checks["sides_are_sane"].description or "")
    made = [event.asset_key.to_user_string() for event in events if event.is_step_materialization and event.asset_key]
    assert made == ["baseline_scores", "leaderboard"]


def checked(event: dg.DagsterEvent) -> dg.AssetCheckEvaluation | None:
    """What a check found, if the event says that."""
    return event.asset_check_evaluation_data if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION else None


@pytest.mark.parametrize(("source", "named"), [("local", str(V32)), ("guess", "commoner label")])
def test_or_another_baseline_leads_on(server: Server, home: Path, source: str, named: str) -> None:
    say(server, home, "baseline", "embed")
    step = json.loads(say(server, home, "evidence", "--json").stdout)["next_step"]
    assert "or set baseline.source to local or to guess and run `flywheel grid`" in step
    other = {"FLYWHEEL_BASELINE__SOURCE": source}
    grid = say(server, home, "grid", "--variant", "all-MiniLM-L6-v2@256", "--size", "400", **other)
    assert (
        "largest difference of a cosine" in grid.stderr
    )  # the vectors here are no model's; the baseline is measured all the same
    judged = json.loads(say(server, home, "champion", "promote", "--json", **other).stdout)
    assert judged["verdict"]["reference_name"] == f"{named} baseline"
    assert judged["action"] == "promoted"
    page = json.loads(say(server, home, "evidence", "--json", **other).stdout)
    assert page["tone"] == "proven"
    assert page["against"] == ("always giving the commoner label" if source == "guess" else f"the untuned {named}")
    assert page["answer"].endswith("Whether it beats text-embedding-3-small has not been measured.")


def test_without_a_key_nothing_is_dropped(server: Server, home: Path) -> None:
    say(server, home, "baseline", "embed")
    refused = say(server, home, "baseline", "embed", "--again", OPENAI_API_KEY="")
    assert refused.returncode == 1
    assert (
        "OPENAI_API_KEY is not set, so nothing was dropped. Set it and run `flywheel baseline embed --again`" in refused.stderr
    )
    assert json.loads(say(server, home, "baseline", "status", "--json").stdout)["judged"]["missing"] == 0


def test_a_champion_that_cannot_be_compared_on_new_pairs_is_said_and_the_next_candidate_meets_the_baseline(
    measured: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(
        copy_home(measured, tmp_path / "home"), encoding={"device": "gone"}, compute={"run_in": "inline"},
        baseline={"source": "guess"},
    )  # fmt: skip
    snapshot = workspace.current_snapshot()
    measure(workspace)
    champion = decide_champion(workspace, snapshot)[0].champion
    assert champion is not None
    evaluate_cell(workspace, train_cell(workspace, snapshot, Cell(V32, "800"), "head"), snapshot)
    row = next(row for row in leaderboard(workspace, snapshot).tuned if row.record_id == champion.model)
    measure(workspace)
    baseline = read_baseline(workspace, snapshot).evaluation
    odd = replace(row, findings=(Finding(True, WHAT, "the model's vectors have collapsed", "Train another"),))
    write_json(evaluation_folder(workspace.home.evaluations, row.test_id, row.record_id) / "evaluation.json", odd.to_json())
    shown = verb("champion", "show", "--home", workspace.home.root)
    assert "On the present test pairs all-MiniLM-L6-v2@32 | 400 cannot be compared with anything" in " ".join(
        shown.stdout.split()
    )
    match = next_match(workspace, leaderboard(workspace, snapshot), baseline, odd)
    assert match is not None
    assert (match.challenger.size, match.reference) == ("800", baseline)
    page, _ = save_page(workspace, snapshot)
    assert page.answer.startswith("No verdict is possible: all-MiniLM-L6-v2@32 | 400 cannot be compared with anything")
    assert page.command == "flywheel champion promote"
    entry, new = decide_champion(workspace, snapshot)
    assert (new, entry.action) == (True, "promoted")
    assert entry.verdict is not None
    assert entry.verdict.reference_name == "commoner label baseline"


def measure(workspace: Workspace) -> None:
    from flywheel.pipeline.evaluation import measure_baseline

    measure_baseline(workspace, workspace.current_snapshot(), pay=False)
