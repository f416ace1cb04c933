"""The group `promote`: who is champion, and the page that says why."""

from typing import Any

import dagster as dg
from pydantic import Field

from flywheel.evidence.render.markdown import render_markdown
from flywheel.evidence.sections import decision_section
from flywheel.files import digest
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.lineage import snapshot_of_run
from flywheel.orchestration.metadata import rounded, section_metadata
from flywheel.pipeline import evaluation as measuring
from flywheel.pipeline.promotion import decide_champion, rollback
from flywheel.pipeline.publish import save_figure, save_page
from flywheel.registry.decisions import in_words

_DECISION, _PAGE = "1", "1"
NO_NEW_DECISION = "no new decision"  # the outcome where the entry that is said was there before


class ChampionConfig(dg.Config):
    """Run configuration of the champion."""

    roll_back: bool = Field(False, description="Restore an earlier champion instead of judging a challenger.")
    to_entry: int | None = Field(None, description="Which entry of the history a rollback restores; none: the one before.")


def champion(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The asset that judges."""

    @flywheel.asset("champion", "promote", "leaderboard", kinds={"report"}, code_version=_DECISION)
    def champion(context: dg.AssetExecutionContext, config: ChampionConfig) -> dg.MaterializeResult:
        """The promoted model. A challenger takes its place only if it is provably better on the same test pairs."""
        with flywheel.at_work(context) as workspace:
            snapshot = snapshot_of_run(flywheel, context, workspace)
            if config.roll_back:
                entry, new = rollback(workspace, config.to_entry), True
            else:
                entry, new = decide_champion(workspace, snapshot)
            figure = save_figure(workspace, measuring.leaderboard(workspace, snapshot))
            now = measuring.read_champion(workspace, snapshot)
            present = workspace.registry.current()
        reigning = present.champion if present else None
        ours: dict[str, Any] = {}
        if reigning:
            folder = str(workspace.home.models / reigning.model)
            ours = {"model": reigning.model, "model_folder": dg.MetadataValue.path(folder), "dagster/uri": folder}
        if now:
            ours |= {"error": rounded(now.error), "test_pairs": now.metrics.n}
        return dg.MaterializeResult(
            metadata={
                "what_became_of_it": in_words(entry),
                **section_metadata("decision", decision_section(entry, present, snapshot.on_quora, now)),
                "error_versus_size": dg.MetadataValue.path(str(figure)),
                "outcome": entry.action if new else NO_NEW_DECISION,
                "entry": entry.number,
                "judged": new and entry.verdict is not None,
                **ours,
            },
            data_version=dg.DataVersion(f"{entry.number}-{reigning.model if reigning else 'none'}"),
        )

    return champion


def evidence(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The asset that shows it all."""

    @flywheel.asset("evidence", "promote", "champion", kinds={"report"}, code_version=_PAGE)
    def evidence(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """One page for a sceptic: which model, how much better, how sure, on whose data, at what cost, what breaks, what
        next.
        """
        with flywheel.at_work(context) as workspace:
            page, file = save_page(workspace, snapshot_of_run(flywheel, context, workspace))
        return dg.MaterializeResult(
            metadata={
                "answer": page.answer,
                "next_step": page.next_step + (f" ({page.command})" if page.command else ""),
                "file": dg.MetadataValue.path(str(file)),
                "page": dg.MetadataValue.md(render_markdown(page)),
                "dagster/uri": str(file),
            },
            data_version=dg.DataVersion(digest(f"{page.answer}{page.next_step}{page.command}")),
        )

    return evidence
