"""The environment variables that a training process gets: what it needs, and no secret that it does not."""

from collections.abc import Mapping

from flywheel.compute.devices import visible_card

_NAMES = {
    "PATH", "HOME", "USER", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    # how the hub and shared storage are reached
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS",
}  # fmt: skip
_PREFIXES = (
    *("LC_", "HF_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "TOKENIZERS_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_"),
    "AWS_",
)


def training_environment(environment: Mapping[str, str], device: str) -> dict[str, str]:
    """The variables of `environment` that are on the list; of the cards only the one of `device`, if it is a card."""
    passed = {name: value for name, value in environment.items() if name in _NAMES or name.startswith(_PREFIXES)}
    if device.startswith("cuda:"):  # the process sees the leased card alone, so that no library takes another
        passed["CUDA_VISIBLE_DEVICES"] = visible_card(device, environment)
    return passed
