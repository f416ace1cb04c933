"""The Definitions object that Dagster loads."""

import os

from flywheel.home import Home
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.instance import UP, check_home
from flywheel.settings import load_settings, warn_of_other_variables

_settings = load_settings()
if UP not in os.environ:  # which has said it already
    warn_of_other_variables()
check_home(Home(_settings.home))
defs = build_defs(_settings)
