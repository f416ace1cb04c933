"""The one sentence of a step that failed."""

import dagster as dg


def sentence_of(event: dg.DagsterEvent) -> str | None:
    """What a failed step says: our own sentence, else the message of what it died of. None for any other event."""
    if not event.is_step_failure:
        return None
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    if data.error:
        cause = data.error.cause or data.error
        return f"{event.step_key} failed: {cause.message.strip()}"
    return None
