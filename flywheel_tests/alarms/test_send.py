"""Messages reach a real webhook and a real mail server, once each, and a server that fails is waited for within limits."""

import logging
import time
from collections.abc import Iterator

import pytest
from tenacity import wait_none

from flywheel.alarms.alarm import Alarm
from flywheel.alarms.send import VARIABLE, send, services
from flywheel.errors import FlywheelError
from flywheel_tests.conftest import flywheel, verb
from flywheel_tests.helpers.receivers import SECRET, Webhook, mail_server, webhook

TEXT = Alarm("promoted", "New champion.\n It wins.", "assets/champion").text("http://ui.example/")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with webhook() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        yield server


def test_a_message_is_a_sentence_and_a_link() -> None:
    assert TEXT == "New champion. It wins.\nhttp://ui.example/assets/champion"
    cut = Alarm("run failed", "word " * 1000, "runs/1").text("http://ui.example")
    assert len(cut) < 700
    assert cut.endswith(" ...\nhttp://ui.example/runs/1")


def test_a_webhook_and_a_mailbox_get_it_once(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server() as (mailbox, address):
        monkeypatch.setenv(VARIABLE, f"{hook.url}\n {address}")
        send(services(), "promoted", TEXT, of="flywheel/search")
        assert ["\n".join(text.split("\r\n")).strip() for text in mailbox.texts] == [TEXT]
        assert mailbox.mails[0]["Subject"] == "flywheel/search: promoted"
    (body,) = hook.taken
    assert (body["message"], body["title"], body["type"]) == (TEXT, "flywheel/search: promoted", "success")


def test_who_has_not_taken_it_is_asked_again_and_who_has_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as good, webhook() as bad:
        bad.answers = [500, 503]
        monkeypatch.setenv(VARIABLE, f"{good.url} {bad.url}")
        send(services(), "kept", TEXT, wait=wait_none())
        assert (len(good.taken), good.tries) == (1, 1)
        assert (len(bad.taken), bad.tries) == (1, 3)


@pytest.mark.parametrize(("answers", "said"), [([500] * 9, "500"), ([None] * 9, "Connection error")])
def test_a_server_that_fails_or_hangs_is_given_up_in_bounded_time(hook: Webhook, answers: list[int | None], said: str) -> None:
    hook.answers = answers
    started = time.monotonic()
    with pytest.raises(FlywheelError, match=said):
        send(services(), "kept", TEXT, wait=wait_none())
    assert hook.tries == 4
    assert time.monotonic() - started < 30
    assert not hook.taken


def test_no_secret_is_said_or_logged(hook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(VARIABLE, f"{hook.url} json://somebody:password-0123456789@127.0.0.1:9/{SECRET}")
    said: list[str] = []
    with pytest.raises(FlywheelError) as raised:
        send(services(), "kept", TEXT, wait=wait_none(), tell=said.append)
    everything = f"{said} {raised.value} {services()} {caplog.text}"
    assert "json://127.0.0.1:9 has not taken it: " in everything
    assert SECRET not in everything
    assert "password" not in everything


def test_an_address_that_is_none_is_named_by_its_place(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{hook.url} nonsense://{SECRET}")
    with pytest.raises(FlywheelError, match=r"Address 2 in FLYWHEEL_ALARM_URLS is none that Apprise knows\.") as raised:
        services()
    assert SECRET not in str(raised.value)


def test_a_person_tries_the_addresses(hook: Webhook, tmp_path: object) -> None:
    shown = verb("alarms", "--home", str(tmp_path))
    assert shown.returncode == 0
    assert hook.taken == []
    tried = verb("alarms", "--test", "--home", str(tmp_path))
    assert "has taken the trial" in tried.stdout
    assert "This is a trial" in hook.messages[0]
    assert SECRET not in shown.stdout + shown.stderr + tried.stdout + tried.stderr
    nobody = verb("alarms", "--test", "--home", str(tmp_path), FLYWHEEL_ALARM_URLS="")
    assert nobody.returncode == 1
    assert "FLYWHEEL_ALARM_URLS is not set" in nobody.stderr


@pytest.mark.slow
def test_a_trial_that_is_not_taken_ends_with_who_and_why(hook: Webhook, tmp_path: object) -> None:
    hook.answers = [500] * 9
    tried = flywheel("alarms", "--test", "--home", str(tmp_path))
    assert tried.returncode == 1
    assert "has not taken the message" in tried.stderr
    assert SECRET not in tried.stdout + tried.stderr
