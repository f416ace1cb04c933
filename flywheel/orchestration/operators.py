"""What an operator does by hand, as jobs with a form in the Launchpad: roll back, promote, a new test set, forget."""

from dataclasses import asdict
from typing import Any

import dagster as dg
from pydantic import Field

from flywheel.orchestration.flywheel import Flywheel
from flywheel.pairs.forget import Selection, find
from flywheel.pipeline.forgetting import forget as forget_everywhere


class ForgetConfig(dg.Config):
    """What to forget: exactly one of the first three."""

    user: str | None = Field(None, description="Everything this user left.")
    batch: str | None = Field(None, description="Everything one file brought: its batch id.")
    text_contains: str | None = Field(None, description="Every pair whose text holds these words.")
    really: bool = Field(False, description="Delete for good. Without it the run only says what there is.")


def build_operator_jobs(flywheel: Flywheel) -> list[Any]:
    """The jobs that only a person launches."""
    champion, snapshot = ({"ops": {flywheel.key(name).to_python_identifier(): {"config": config}}} for name, config in (
        ("champion", {"roll_back": True}), ("snapshot", {"new_test": True}),
    ))  # fmt: skip
    described = {
        "promote": (
            ("leaderboard", "champion", "evidence"), None,
            "Judge the best challenger now; it is promoted only if it is provably better.",
        ),
        "roll_back": (
            ("champion", "evidence"), champion,
            "Restore an earlier champion: the one before, or entry `to_entry` of the history.",
        ),
        "new_test_set": (
            ("snapshot", "baseline_scores", "api_heads", "leaderboard"), snapshot,
            "Draw new calibration and test pairs, and measure baseline, champion and cached cells on them.",
        ),
    }  # fmt: skip
    jobs: list[Any] = [
        dg.define_asset_job(
            flywheel.name(name), selection=dg.AssetSelection.assets(*flywheel.keys(*assets)), config=config, description=words
        )
        for name, (assets, config, words) in described.items()
    ]
    return [*jobs, _forget(flywheel)]


def _forget(flywheel: Flywheel) -> dg.JobDefinition:
    @dg.op(name=flywheel.name("forget_pairs"), required_resource_keys={flywheel.resource}, pool=flywheel.pools.store)
    def forget_pairs(context: dg.OpExecutionContext, config: ForgetConfig) -> None:
        with flywheel.at_work(context) as workspace:
            selection = Selection(config.user, config.batch, config.text_contains)
            match = find(workspace.store, selection)
            lines = f"{match.quarantined:,} quarantined lines"
            context.log.info(f"{match.observations:,} observations of {match.pairs:,} pairs and {lines} match")
            if not config.really:
                context.log.warning("Nothing was deleted. To delete for good, launch it again with `really: true`.")
                return
            report = forget_everywhere(workspace, selection)
        context.add_output_metadata({name: str(value) for name, value in asdict(report).items()})
        context.log.info(f"Forgotten: {report.observations:,} observations of {report.pairs:,} pairs.")
        if report.models:
            champion = ", the champion too" if report.champion else ""
            context.log.warning(f"{len(report.models)} models were trained or calibrated on them{champion}. Train again.")

    @dg.job(name=flywheel.name("forget"), description="Delete pairs for good, and name the models that were trained on them.")
    def forget() -> None:
        forget_pairs()

    return forget
