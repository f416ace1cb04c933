"""A model folder on a Hugging Face hub, by the hub's own client."""

import os
from pathlib import Path

from flywheel.errors import FlywheelError, one_line
from flywheel.models.exports.folder import KEPT_BACK


def push_to_hub(folder: Path, repository: str, message: str) -> str:
    """Upload a model folder as one commit to `repository` ("owner/name"), which is made, private, if it is not there.

    Returns the commit's address. The token is `HF_TOKEN`, the hub `HF_ENDPOINT` or huggingface.co. Raises FlywheelError
    without a token, and when the hub refuses or cannot be reached.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    token = os.environ.get("HF_TOKEN")
    if not token:
        raise FlywheelError(
            "HF_TOKEN is not set. Make a token with write access in the hub's settings, and set HF_TOKEN to it."
        )
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, ignore_patterns=list(KEPT_BACK)
        )
    except HFValidationError as error:
        raise FlywheelError(f"{repository!r} is no name of a repository. Give --name OWNER/NAME.") from error
    except OfflineModeIsEnabled as error:
        raise FlywheelError("HF_HUB_OFFLINE keeps this machine off the hub. Unset it for the export.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "Check that HF_TOKEN may write there" if status in (401, 403, 404) else "Run the same command again"
        raise FlywheelError(f"The hub at {hub.endpoint} refused {repository} ({status}). {remedy}.") from error
    except HTTPError as error:
        raise FlywheelError(
            f"The hub at {hub.endpoint} was not reached ({one_line(error)}). Check the network and HF_ENDPOINT."
        ) from error
    return commit.commit_url
