"""The two jobs that sensors and the schedule launch."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

_BY_RECIPE = ("finetuned_model", "evaluation")


def recipe_config(recipe: str, assets: Sequence[str] = _BY_RECIPE) -> dict[str, Any]:
    """Run configuration that trains and evaluates by `recipe`, for a run of `assets`."""
    return {"ops": {name: {"config": {"recipe": recipe}} for name in assets if name in _BY_RECIPE}}


INGEST = dg.define_asset_job(
    "ingest", selection=dg.AssetSelection.assets("interaction_pairs", "pairs"), description="Take in the inbox."
)
RETRAIN = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.assets(
        "snapshot", "baseline_scores", "finetuned_model", "evaluation", "leaderboard", "champion", "evidence"
    ),
    description="Export the pairs, train the champion's variant on all of them, evaluate, and promote it if it is better.",
)
