"""What a training process is told of this one's environment: what it needs, and no secret that it does not."""

import json
from collections.abc import Mapping

from flywheel.compute.devices import visible_card
from flywheel.settings import Settings

_NAMES = {
    "PATH", "HOME", "USER", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    # how the hub and shared storage are reached
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS",
}  # fmt: skip
_PREFIXES = (
    *("LC_", "HF_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "TOKENIZERS_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_"),
    *("FLYWHEEL_", "AWS_"),
)


def training_environment(environment: Mapping[str, str], settings: Settings, device: str) -> dict[str, str]:
    """The variables of `environment` that are on the list, with what of the settings decides where things lie and run."""
    passed = {name: value for name, value in environment.items() if name in _NAMES or name.startswith(_PREFIXES)}
    for store in ("FLYWHEEL_STORE", "FLYWHEEL_STORE_DATA"):  # training reads snapshots; a catalogue's password may stand here
        passed.pop(store, None)
    if device.startswith("cuda:"):  # the process sees the leased card alone, so that no library takes another
        passed["CUDA_VISIBLE_DEVICES"], device = visible_card(device, environment), "cuda:0"
    return passed | {
        "FLYWHEEL_HOME": str(settings.home),
        "FLYWHEEL_DEVICE": device,
        "FLYWHEEL_MODEL_PATHS": json.dumps({name: str(path) for name, path in settings.model_paths.items()}),
    }
