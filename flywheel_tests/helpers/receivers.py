"""Who takes messages: a webhook and a mail server on the loopback, which remember them and answer as they are told to."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

SECRET = "webhook-secret-0123456789"


class _Hook(BaseHTTPRequestHandler):
    server: "Webhook"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        self.server.tries += 1
        if answer is None:  # hang
            self.server.closing.wait()
            return
        if answer == 200:
            self.server.taken.append(body)
        self.send_response(answer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Leave stderr alone."""


class Webhook(ThreadingHTTPServer):
    """Answers each message with the next of `answers`, a status or None for never, and with 200 when none is left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.answers: list[int | None] = []
        self.taken: list[dict[str, Any]] = []
        self.tries = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """Its address for Apprise, which gives it a second to answer."""
        return f"json://127.0.0.1:{self.server_port}/{SECRET}?cto=1&rto=1"

    @property
    def messages(self) -> list[str]:
        return [body["message"] for body in self.taken]


@contextmanager
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()


class Mailbox:
    """What a mail server has taken."""

    def __init__(self) -> None:
        self.mails: list[Message] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content))
        return "250 taken"

    @property
    def texts(self) -> list[str]:
        parts = (part for mail in self.mails for part in mail.walk() if part.get_content_type() == "text/plain")
        return [part.get_payload(decode=True).decode() for part in parts]  # type: ignore[union-attr]


@contextmanager
def mail_server() -> Iterator[tuple[Mailbox, str]]:
    """A mail server, and its address for Apprise."""
    mailbox = Mailbox()
    with socket.socket() as probe:  # the controller tries its own port, and cannot be given 0
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield mailbox, f"mailto://localhost:{port}?from=flywheel@example.com&to=team@example.com"
    finally:
        controller.stop()
