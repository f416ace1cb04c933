"""The Definitions object that Dagster loads."""

from flywheel.home import Home
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.instance import check_home
from flywheel.settings import load_settings

_settings = load_settings()
check_home(Home(_settings.home))
defs = build_defs(_settings)
