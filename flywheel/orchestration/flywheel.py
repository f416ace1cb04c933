"""One flywheel as a Dagster sees it: what its assets, jobs and pools are called, and how its steps open the workspace."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from flywheel.errors import FlywheelError, TryAgainError
from flywheel.orchestration.checks import about
from flywheel.orchestration.instance import PROCESS_TAG, process_tag
from flywheel.orchestration.partitions import Grid
from flywheel.pipeline.workspace import Workspace

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
FIRST_PAUSE = 30.0  # seconds before something is tried again; then twice as many, and so on
Made = dg.MaterializeResult | Iterator[dg.MaterializeResult]


@dataclass(frozen=True)
class Pools:
    """The pools that limit how many steps run at once; None: no pool.

    `gpu` has what trains and encodes, `api` what may pay, `store` what writes to the store.
    """

    gpu: str | None = "gpu"
    api: str | None = "api"
    store: str | None = "store"


@dataclass(frozen=True)
class Flywheel:
    """What tells this flywheel from others of one Dagster, and what its definitions are made with.

    `in_one_process` says that every step of a run executes in the run's own process, so that a run whose process has ended is
    over. What may succeed later is tried again so many times.
    """

    grid: Grid
    key_prefix: tuple[str, ...] = ()
    group_prefix: str = ""
    owners: tuple[str, ...] = ()
    pools: Pools = field(default_factory=Pools)
    resource: str = "workspace"
    in_one_process: bool = False
    tries_again: int = 3

    def key(self, asset: str) -> dg.AssetKey:
        """The key of one of its assets."""
        return dg.AssetKey([*self.key_prefix, asset])

    def keys(self, *assets: str) -> list[dg.AssetKey]:
        """The keys of some of its assets."""
        return [self.key(asset) for asset in assets]

    def name(self, name: str) -> str:
        """What a job, sensor, schedule or resource of its own is called."""
        return prefixed(self.key_prefix, name)

    def asset(
        self, name: str, group: str, *deps: str, checks: Sequence[str] = (), **more: Any
    ) -> Callable[[Callable[..., Made]], dg.AssetsDefinition]:
        """`@dg.asset` with what all of its assets have; `checks` are made by the asset's own run."""
        key = self.key(name)
        return dg.asset(
            key=key,
            group_name=f"{self.group_prefix}{group}",
            owners=list(self.owners),
            deps=self.keys(*deps),
            required_resource_keys={self.resource},
            check_specs=[dg.AssetCheckSpec(asset=key, **about(check)) for check in checks],
            **more,
        )

    def check(
        self, asset: str, check: str, pool: str | None = None
    ) -> Callable[[Callable[..., dg.AssetCheckResult]], dg.AssetChecksDefinition]:
        """`@dg.asset_check` for a check that can be run without its asset."""
        return dg.asset_check(asset=self.key(asset), required_resource_keys={self.resource}, pool=pool, **about(check))

    def workspace(self, context: Any) -> Workspace:
        """The workspace of the context of a sensor or schedule."""
        workspace = getattr(context.resources, self.resource)
        assert isinstance(workspace, Workspace)
        return workspace

    @contextmanager
    def at_work(self, context: Context | dg.OpExecutionContext) -> Iterator[Workspace]:
        """The workspace of a step; a FlywheelError is shown in the UI as its one sentence.

        Dagster tries again what may succeed later, after 30 seconds, one minute and two, and not what would fail again. The
        run's tags say which process it is, so that a killed run is not taken for a slow one.
        """
        if self.in_one_process:
            context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: process_tag()})
        try:
            yield self.workspace(context)
        except FlywheelError as error:
            failure = dg.Failure(description=str(error), allow_retries=False)
            if not isinstance(error, TryAgainError):
                raise failure from error
            failure.__cause__ = error
            op = context if isinstance(context, dg.OpExecutionContext) else context.op_execution_context
            pause = FIRST_PAUSE * 2**op.retry_number
            raise dg.RetryRequested(self.tries_again, pause) from failure  # whose sentence is shown when no try is left


def prefixed(key_prefix: tuple[str, ...], name: str) -> str:
    """A name with a key prefix before it, of the characters that Dagster allows in names."""
    return "_".join(re.sub(r"\W", "_", part, flags=re.ASCII) for part in (*key_prefix, name))
