"""How a training job's events come into a run: as Dagster Pipes messages, wherever the job runs.

Training knows no Dagster, so it is this process that makes the messages, of the plain events that it is sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster_pipes import PIPES_METADATA_TYPE_INFER, PIPES_PROTOCOL_VERSION

from flywheel.training.progress import Listener, Progress, paced, to_text

_SECONDS_BETWEEN_LINES = 2.0


class _HandedMessages(dg.PipesMessageReader):
    """A message reader that is handed its messages instead of fetching them."""

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[dict[str, Any]]:
        self._handler = handler
        self.hand("opened", extras={})
        try:
            yield {}
        finally:
            self.hand("closed")

    def hand(self, method: str, **params: Any) -> None:
        """Let Dagster handle one message."""
        self._handler.handle_message({"__dagster_pipes_version": PIPES_PROTOCOL_VERSION, "method": method, "params": params})

    def no_messages_debug_text(self) -> str:
        return "Messages are handed over within this process."


@dataclass(frozen=True)
class TrainingPipes:
    """An open Pipes session: events go to the run's log as they come, metadata to the asset's materialisation."""

    session: dg.PipesSession
    messages: _HandedMessages

    @property
    def listener(self) -> Listener:
        """Writes progress into the run's log, a line every two seconds at most."""

        def log(event: Progress) -> None:
            self.messages.hand("log", message=to_text(event), level="info")

        return paced(log, _SECONDS_BETWEEN_LINES)

    def report(self, metadata: dict[str, Any], data_version: str) -> dg.MaterializeResult:
        """Report the session's one asset as materialised."""
        (asset,) = self.session.context.selected_asset_keys
        named = {name: {"raw_value": value, "type": PIPES_METADATA_TYPE_INFER} for name, value in metadata.items()}
        self.messages.hand(
            "report_asset_materialization",
            asset_key=asset.to_escaped_user_string(), metadata=named, data_version=data_version,
        )  # fmt: skip
        return dg.PipesClientCompletedInvocation(self.session).get_materialize_result()


@contextmanager
def training_pipes(context: dg.AssetExecutionContext) -> Iterator[TrainingPipes]:
    """A Pipes session for the step of `context`."""
    messages = _HandedMessages()
    with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), messages) as session:
        yield TrainingPipes(session, messages)
