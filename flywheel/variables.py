"""Names in the environment that begin like ours: which of them are settings, misspelt ones, or somebody else's."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

PREFIX = "FLYWHEEL_"
_ALIKE = 0.85
# What Kubernetes sets for a service whose name begins with flywheel, and Docker for a link.
_SERVICE = re.compile(
    r"FLYWHEEL(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)|FLYWHEEL_(NAME|ENV_\w+)"
)


@dataclass(frozen=True)
class Variables:
    """The names that begin like ours, sorted out.

    `misspelt` has the setting that was meant, or none where only its group is known. `others` are no settings; `services` are
    those of them that Kubernetes or Docker sets.
    """

    settings: frozenset[str]
    misspelt: Mapping[str, str | None]
    others: tuple[str, ...]
    services: bool

    @classmethod
    def of(cls, names: Iterable[str], known: Collection[str]) -> "Variables":
        """Sort out the names of an environment; `known` are those of the settings, as they are written."""
        alike = sorted(name for name in names if name.upper().startswith(PREFIX))
        misspelt, others = {}, []
        groups = tuple(sorted({name.rpartition("__")[0] + "__" for name in known if "__" in name}))
        for name in alike:
            if name in known:
                continue
            meant = None if _SERVICE.fullmatch(name) else meant_by(name, known)
            if meant or (name.startswith(groups) and not _SERVICE.fullmatch(name)):
                misspelt[name] = meant
            else:
                others.append(name)
        services = any(_SERVICE.fullmatch(name) for name in others)
        return cls(frozenset(alike) & frozenset(known), misspelt, tuple(others), services)


def meant_by(name: str, known: Iterable[str]) -> str | None:
    """The name of `known` that another one is a slip of, if it is: other case, other underscores, a letter or two."""
    plain = {_plain(each): each for each in known}
    wanted = _plain(name)
    found = [wanted] if wanted in plain else get_close_matches(wanted, plain, n=1, cutoff=_ALIKE)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.upper().removeprefix(PREFIX)).strip("_")
