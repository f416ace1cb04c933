"""The two jobs that sensors and the schedule launch."""

import dagster as dg

INGEST = dg.define_asset_job(
    "ingest", selection=dg.AssetSelection.assets("interaction_pairs", "pairs"), description="Take in the inbox."
)
RETRAIN = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.assets(
        "snapshot", "baseline_scores", "finetuned_model", "evaluation", "leaderboard", "champion"
    ),
    description="Export the pairs, train the champion's variant on all of them, evaluate, and promote it if it is better.",
)
