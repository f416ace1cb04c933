"""Flywheel's own code location: one home, found as the command line finds it. Each run is one process."""

import os

import dagster as dg

from flywheel.orchestration.build import build_defs
from flywheel.orchestration.server import UP
from flywheel.settings import load_settings, warn_of_other_variables

_settings = load_settings()
if UP not in os.environ:  # which has said it already
    warn_of_other_variables()
defs = build_defs(_settings, executor=dg.in_process_executor)
