"""Sending a message through Apprise, to the addresses that the environment names and that nothing ever shows."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from flywheel.alarms.options import Kind
from flywheel.errors import FlywheelError, one_line

VARIABLE = "FLYWHEEL_ALARM_URLS"
_TRIES = 4
WAIT = wait_exponential(multiplier=5, max=60)  # 5, 10 and 20 seconds
_SHORTEST_SECRET = 6
_SHOWN = re.compile(r"(\w+://)(?:[^/@]*@)?([^/?]*)")  # scheme and host: of a webhook the path may be the secret
_LOOKS = {
    "promoted": "success", "kept": "info", "not judged": "info", "rolled back": "warning", "run failed": "failure",
    "retraining skipped": "info", "check failed": "failure", "check warns": "warning", "no data": "warning",
}  # fmt: skip


@dataclass(frozen=True)
class Service:
    """One address: its place among them, what of it may be shown, and what sends to it."""

    number: int
    name: str
    plugin: Any = field(repr=False)
    url: str = field(repr=False)

    def send(self, title: str, text: str, looks: str) -> str | None:
        """Send once; returns why it was not taken, without what is secret, or None."""
        import apprise

        with _quiet(), apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as said:
            try:
                plain = apprise.NotifyFormat.TEXT
                if self.plugin.notify(body=text, title=title, notify_type=apprise.NotifyType(looks), body_format=plain):
                    return None
                reason = said.getvalue() or "it did not take the message"
            except Exception as error:
                reason = str(error) or type(error).__name__
        return self._without_secrets(one_line(ValueError(reason)))

    def _without_secrets(self, text: str) -> str:
        for part in re.split(r"[:/@?&=,]+", self.url):
            if len(part) >= _SHORTEST_SECRET and part not in self.name:
                text = text.replace(part, "***").replace(unquote(part), "***")
        return text


def are_set() -> bool:
    """Whether the environment names any address."""
    return bool(os.environ.get(VARIABLE, "").split())


def services() -> list[Service]:
    """The addresses of the environment, separated by spaces or lines.

    Raises FlywheelError, which names it by its place, for one that Apprise does not know.
    """
    import apprise

    asset = apprise.AppriseAsset(
        app_id="flywheel", app_desc="flywheel", app_url="", async_mode=False, storage_mode=apprise.PersistentStoreMode.MEMORY
    )
    found = []
    for number, url in enumerate(os.environ.get(VARIABLE, "").split(), 1):
        with _quiet():
            plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if plugin is None:
            raise FlywheelError(
                f"Address {number} in {VARIABLE} is none that Apprise knows. Write it as Apprise does, such as "
                "json://host/path, mailtos://user:password@host or slack://token, and separate addresses by spaces."
            )
        shown = _SHOWN.match(plugin.url(privacy=True))
        found.append(Service(number, "".join(shown.groups()) if shown else f"address {number}", plugin, url))
    return found


def send(
    to: Sequence[Service], kind: Kind | None, text: str, *, of: str = "flywheel", wait: wait_base | None = None,
    tell: Callable[[str], None] = lambda _: None, taken: Callable[[Service], None] = lambda _: None,
) -> None:  # fmt: skip
    """Send a message of a kind (None: a trial) to every service, and again to those that did not take it, four times in all.

    One that took it does not get it twice. `of` is which flywheel it is about; `tell` hears what becomes of each try, and
    `taken` who has it. Raises
    FlywheelError with who has not taken it, and why.
    """
    title, looks = f"{of}: {kind or 'a trial of the alarms'}", _LOOKS[kind] if kind else "info"
    left = dict.fromkeys(to, "")
    tries = Retrying(
        stop=stop_after_attempt(_TRIES), wait=wait or WAIT, retry=retry_if_exception_type(_NotTakenError), reraise=True
    )
    for attempt in tries:
        with attempt:
            for service in list(left):
                if (reason := service.send(title, text, looks)) is None:
                    taken(service)
                    tell(f"{service.name} has taken it")
                    del left[service]
                else:
                    left[service] = reason
                    tell(f"{service.name} has not taken it: {reason}")
            if left:
                raise _NotTakenError(
                    "; ".join(f"{service.name} has not taken the message: {why}" for service, why in left.items())
                )


class _NotTakenError(FlywheelError):
    """Some service has not taken a message yet."""


@contextmanager
def _quiet() -> Iterator[None]:
    """While it lasts, nothing of what Apprise and its HTTP client log gets out: it names addresses."""
    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
