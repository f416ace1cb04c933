"""The Definitions object that Dagster loads."""

from flywheel.orchestration.build import build_defs
from flywheel.orchestration.instance import check_home
from flywheel.settings import load_settings

_settings = load_settings()
check_home(_settings)
defs = build_defs(_settings)
