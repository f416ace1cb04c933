"""What a request that brought no vectors means, in a sentence with a remedy."""

from flywheel.models.api.refusals import Refusal
from flywheel.models.api.request import Shape


def explain(refusal: Refusal, shape: Shape, base_url: str, model: str) -> str:
    """Say what a failed request means and what to do about it."""
    kept = "what was embedded so far is kept; or use the local baseline with FLYWHEEL_BASELINE__SOURCE=local."
    later = f"Run the command again later: {kept}"
    match refusal.status:
        case 401 | 403:  # what is said here about a key may quote parts of it
            return (
                f"{base_url} refused the API key for {model} (HTTP {refusal.status}). Set "
                "OPENAI_API_KEY to a key that may use it, or use the local baseline with FLYWHEEL_BASELINE__SOURCE=local."
            )
        case 402 | 429:
            return f"{base_url} limits the rate or the quota for {model} ({refusal.words}). {later}"
        case None if refusal.silent:
            return f"{base_url} did not answer for {model}: {refusal.reason}; {_asked(refusal)}. {later}"
        case None:
            return (
                f"{base_url} cannot be reached for {model} ({refusal.reason}); {_asked(refusal)}. Check the "
                f"network and baseline.url, then run the command again: {kept}"
            )
        case 200:
            return (
                f"{base_url} did not answer with embeddings of {model}, but with {refusal.reason}. "
                "Set baseline.url to an OpenAI-compatible endpoint; most end in /v1."
            )
        case 301:
            return f"{base_url} sends requests on to {refusal.reason}. Set baseline.url to {refusal.reason}."
        case 404 | 405:
            return (
                f"{base_url} has no embeddings of {model} ({refusal.words}). "
                "Check baseline.model and baseline.url: most addresses end in /v1."
            )
        case status if status and status >= 500:
            return f"{base_url} failed on {model} ({refusal.words}); {_asked(refusal)}. {later}"
    refused = f"{base_url} refused the request for {model} ({refusal.words})."
    if shape.width_field and refusal.names("dimensions"):
        return f'{refused} Set baseline.send_dimensions to "auto".'
    if shape.encoding and refusal.names("encoding_format"):
        return f'{refused} Set baseline.encoding_format to "auto".'
    return f"{refused} Check baseline.model, baseline.dimensions and baseline.url."


def _asked(refusal: Refusal) -> str:
    """How often the request that failed in the end was sent: the endpoint may want money for every time."""
    times = refusal.asked
    return "it was asked once and may have counted it" if times < 2 else f"it was asked {times} times and may have counted each"
