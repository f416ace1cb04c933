"""The environment variables that a training sees, wherever it runs: what it needs, no secret, nothing of a launcher.

Launchers such as torchrun, accelerate, deepspeed, mpirun and srun leave variables behind (`WORLD_SIZE`, `MASTER_ADDR`, ...)
that make libraries wait for processes that nobody starts. A training of flywheel is one process on one device.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_NAMES = {
    "PATH", "HOME", "USER", "LANG", "TMPDIR", "TMP", "TEMP", "PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LD_PRELOAD",
    # how the hub and shared storage are reached
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS",
}  # fmt: skip
_PREFIXES = (
    *("LC_", "HF_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "TOKENIZERS_", "CUDA_", "CUBLAS_", "NVIDIA_"),
    *("HIP_", "ROCR_", "HSA_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"),
    *("AWS_", "AZURE_", "FSSPEC_"),
)


def needed_for_training(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that are on the list."""
    return {name: value for name, value in environment.items() if name in _NAMES or name.startswith(_PREFIXES)}


@contextmanager
def only_what_training_needs() -> Iterator[None]:
    """Take all other variables from this process's environment until the block ends."""
    taken = _take_others()
    try:
        yield
    finally:
        _take_others()  # what a library has set meanwhile, for this training
        os.environ.update(taken)


def _take_others() -> dict[str, str]:
    return {name: os.environ.pop(name) for name in os.environ.keys() - needed_for_training(os.environ).keys()}
