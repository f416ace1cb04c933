"""flywheel: from the pairs that users leave behind to an embedding model that is proven better, and back again.

The names that a notebook needs are here; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flywheel.orchestration.component import FlywheelComponent
    from flywheel.pipeline.workspace import Workspace
    from flywheel.settings import load_settings
    from flywheel.training.model import TrainedModel

__version__ = "0.1.0"
__all__ = ["FlywheelComponent", "TrainedModel", "Workspace", "load_settings"]

_PLACES = {
    "FlywheelComponent": "flywheel.orchestration.component",
    "TrainedModel": "flywheel.training.model",
    "Workspace": "flywheel.pipeline.workspace",
    "load_settings": "flywheel.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'flywheel' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
