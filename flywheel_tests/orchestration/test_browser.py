"""A person at the UI, in a real browser: a cell, what became of a turn, a warning, the schedule, the forms."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel_tests.conftest import copy_home
from flywheel_tests.orchestration.test_daemon import Server

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
_BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_BROWSER is None, reason="no Chromium is on this machine (Debian: apt-get install chromium)"),
]
_PATIENCE = 120_000  # milliseconds: two cores may be busy
_TICK = re.compile(r"^[A-Z][a-z]{2} \d.* AM UTC$")  # Jan 4, 2027, 3:00 AM UTC


class Person:
    """Somebody with a browser, on the pages of a server."""

    def __init__(self, page: "playwright.Page", server: Server) -> None:
        self.page, self.server = page, server
        page.set_default_timeout(_PATIENCE)

    def open(self, path: str) -> None:
        self.page.goto(f"http://127.0.0.1:{self.server.port}/{path}")

    def sees(self, text: str | re.Pattern[str]) -> str:
        """Waits until a text is on the page; returns what holds it."""
        found = self.page.get_by_text(text).first
        found.wait_for()
        return found.inner_text()

    def presses(self, button: str) -> None:
        self.page.get_by_role("button", name=button).last.click()


@pytest.fixture(scope="module")
def home(demo: tuple[Path, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_home(demo[0], tmp_path_factory.mktemp("browser") / "home")


@pytest.fixture(scope="module")
def person(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    server = Server(home, tmp_path_factory.mktemp("log") / "up.log", retrain_after=1_000_000)
    try:
        server.wait_until("the web server answers", lambda: server.runs("ingest") == [])
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=_BROWSER, args=["--no-sandbox"])
            yield Person(browser.new_page(viewport={"width": 1440, "height": 1000}), server)
    finally:
        server.stop()


def test_a_cell_is_materialised_from_its_page(person: Person) -> None:
    person.open("assets/finetuned_model?view=partitions&partition=400|all-MiniLM-L6-v2%40256")
    person.page.get_by_role("button", name="Materialize").first.click()
    person.presses("Launch 1 run")
    person.server.wait_until("the cell's run succeeds", lambda: "SUCCESS" in person.server.runs("__ASSET_JOB"))
    person.open("assets/evaluation?view=partitions&partition=400|all-MiniLM-L6-v2%40256")
    person.sees("points_below_untuned")


def test_the_champions_page_says_what_became_of_the_turn_and_the_board_names_a_figure(person: Person) -> None:
    person.open("assets/champion?view=overview")
    person.sees("what_became_of_it")
    assert "fewer errors" in person.sees(re.compile("all against .* baseline"))
    person.open("assets/leaderboard?view=overview")
    figure = person.sees(re.compile(r"error_versus_size\.png"))
    assert Path(figure).read_bytes().startswith(b"\x89PNG")


def test_a_warning_says_why_on_its_page(person: Person) -> None:
    person.open("assets/baseline_scores?view=checks&checkDetail=baseline_is_api")
    assert "not text-embedding-3-small" in person.sees(re.compile("The baseline is the untuned"))


def test_the_schedule_is_tried_by_hand_and_says_why_it_waits(person: Person) -> None:
    person.open("locations/__repository__@flywheel.definitions/schedules/weekly_retrain")
    person.presses("Preview tick result")
    person.page.get_by_role("dialog").get_by_text(_TICK).first.click()
    person.page.get_by_text(_TICK).last.click()
    person.presses("Continue")
    person.sees(re.compile("new interaction pairs|new pairs"))


def test_an_operator_finds_forms_for_what_only_a_person_does(person: Person) -> None:
    person.open("locations/flywheel.definitions/jobs/forget/playground")
    person.sees(re.compile("Launch Run"))
    person.open("locations/flywheel.definitions/jobs/roll_back/playground")
    person.sees(re.compile("roll_back"))
