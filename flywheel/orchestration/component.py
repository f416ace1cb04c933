"""A flywheel as a Dagster component: `type: flywheel.FlywheelComponent` in a `defs.yaml`."""

import dagster as dg
from pydantic import Field

from flywheel.errors import FlywheelError
from flywheel.orchestration.build import FRESH_DAYS, build_defs
from flywheel.orchestration.flywheel import prefixed


class FlywheelComponent(dg.Component, dg.Model, dg.Resolvable):
    """One flywheel in a code location, beside other assets and other flywheels. The attributes are those of `build_defs`.

    `home` is an absolute path, or relative to the folder of the `defs.yaml`. Steps run in the code location's own executor.
    """

    home: str
    key_prefix: list[str] = Field(default_factory=list)
    group_prefix: str = ""
    owners: list[str] = Field(default_factory=list)
    pools: dict[str, str | None] = Field(default_factory=dict)
    sensors: bool = True
    schedule: bool = True
    alarms: bool = True
    fresh_days: float | None = FRESH_DAYS
    resource: str | None = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions. Raises FlywheelError for invalid settings, or when another flywheel has the same key prefix."""
        homes = [each.home for each in self._all(context) if _named(each) == _named(self)]
        if len(homes) > 1:
            raise FlywheelError(
                f"The flywheels with the homes {' and '.join(homes)} have the same key_prefix, {self.key_prefix}. Give each a "
                "key_prefix of its own in its defs.yaml."
            )
        return build_defs(
            (context.path / self.home).resolve(),
            key_prefix=self.key_prefix,
            group_prefix=self.group_prefix,
            owners=self.owners,
            pools=self.pools,
            sensors=self.sensors,
            schedule=self.schedule,
            alarms=self.alarms,
            fresh_days=self.fresh_days,
            resource=self.resource,
        )

    def _all(self, context: dg.ComponentLoadContext) -> list["FlywheelComponent"]:
        return context.component_tree.get_all_components(of_type=FlywheelComponent)


def _named(component: FlywheelComponent) -> str:
    """How the names of its jobs begin: different prefixes may give the same."""
    return prefixed(tuple(component.key_prefix), "")
