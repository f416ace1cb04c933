"""All settings: the groups that the rooms declare, read from `<home>/flywheel.toml` and `FLYWHEEL_*` variables.

`[baseline] url = "..."` in the file is `FLYWHEEL_BASELINE__URL` in the environment, which wins.
"""

import json
import logging
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from flywheel.alarms.options import AlarmOptions
from flywheel.alarms.send import VARIABLE as _ALARM_URLS
from flywheel.compute.options import ComputeOptions
from flywheel.errors import FlywheelError
from flywheel.evaluation.options import DriftOptions, EvaluationOptions
from flywheel.evidence.options import EvidenceOptions
from flywheel.home import Home
from flywheel.models.catalogue import Models
from flywheel.models.options import BaselineOptions, EncodingOptions, ModelTables
from flywheel.pairs.options import PairOptions, SplitOptions, StorageOptions
from flywheel.registry.options import HousekeepingOptions, PromotionOptions
from flywheel.training.options import GridOptions, RetrainingOptions, TrainingOptions
from flywheel.variables import Variables, meant_by

log = logging.getLogger(__name__)

Origin = Literal["default", "file", "environment"]
DEFAULT_HOME = Path("data")
_HOME_VARIABLE = "FLYWHEEL_HOME"


class Settings(BaseSettings):
    """Every setting, in groups. Explicit arguments are overridden by the environment, except for `home`."""

    model_config = SettingsConfigDict(env_prefix="FLYWHEEL_", env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = DEFAULT_HOME
    pairs: PairOptions = PairOptions()
    splits: SplitOptions = SplitOptions()
    storage: StorageOptions = StorageOptions()
    models: ModelTables = ModelTables()
    encoding: EncodingOptions = EncodingOptions()
    training: TrainingOptions = TrainingOptions()
    grid: GridOptions = GridOptions()
    compute: ComputeOptions = ComputeOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    drift: DriftOptions = DriftOptions()
    baseline: BaselineOptions = BaselineOptions()
    promotion: PromotionOptions = PromotionOptions()
    retraining: RetrainingOptions = RetrainingOptions()
    evidence: EvidenceOptions = EvidenceOptions()
    alarms: AlarmOptions = AlarmOptions()
    housekeeping: HousekeepingOptions = HousekeepingOptions()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """The environment wins over what is passed in, which is what the file holds."""
        return _OurVariables(settings_cls), init_settings

    @property
    def openai_api_key(self) -> str | None:
        """The API key, from the environment only, so that no settings dump can show it."""
        return os.environ.get("OPENAI_API_KEY") or None


def groups() -> dict[str, type[BaseModel]]:
    """The class of each group, by its name in the file."""
    fields = Settings.model_fields.items()
    return {name: type(field.default) for name, field in fields if isinstance(field.default, BaseModel)}


def find_home(home: Path | None = None) -> Home:
    """The home that was named, else that of FLYWHEEL_HOME, else `data/` in the working directory."""
    root = home or Path(os.environ.get(_HOME_VARIABLE) or DEFAULT_HOME)
    return Home(root.expanduser().resolve())


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings of a home (see `find_home`).

    Raises FlywheelError naming every setting that is unknown or invalid.
    """
    place = find_home(home)
    _warn_of_a_file_elsewhere(place.settings_file)
    in_file, in_environment = _read_file(place.settings_file), _read_environment()
    for group, options in in_file.items():  # without this a table in the environment would be merged with that of the file
        in_file[group] = {name: value for name, value in options.items() if name not in in_environment.get(group, {})}
    try:
        settings = Settings(**in_file)
    except ValidationError as error:
        raise FlywheelError(
            f"Invalid settings: {_listed(error, in_environment)}. Fix {place.settings_file} or the FLYWHEEL_* variables; "
            "`flywheel config` lists every setting."
        ) from error
    return _checked(settings).model_copy(update={"home": place.root})


class _InFile(Settings):
    """Settings that know of no environment."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: PydanticBaseSettingsSource,
        **more: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """What is passed in is all there is."""
        return (init_settings,)


def settings_in_file(home: Path) -> Settings:
    """The settings of a home's file alone, whatever the environment says and wherever the process works.

    Raises FlywheelError naming every setting that is unknown or invalid.
    """
    file = Home(home).settings_file
    try:
        settings = _InFile(**_read_file(file))
    except ValidationError as error:
        raise FlywheelError(f"Invalid settings: {_listed(error, {})}. Fix {file}.") from error
    return _checked(settings).model_copy(update={"home": home})


def _checked(settings: Settings) -> Settings:
    """Give settings back whose grid has known base models only; raises FlywheelError for others."""
    models = Models.of(settings.models.tables)
    try:
        for cell in settings.grid.cells:
            models.find(cell.variant.base)
    except FlywheelError as error:
        raise FlywheelError(f"Invalid settings: grid.variants: {error}") from error
    return settings


def origins(home: Path | None = None) -> dict[tuple[str, str], Origin]:
    """Where the value of each setting comes from, by group and name."""
    in_file, in_environment = _read_file(find_home(home).settings_file), _read_environment()

    def origin(group: str, name: str) -> Origin:
        if name in in_environment.get(group, {}):
            return "environment"
        return "file" if name in in_file.get(group, {}) else "default"

    return {(group, name): origin(group, name) for group, options in groups().items() for name in options.model_fields}


def settings_template() -> str:
    """A `flywheel.toml` that explains every setting, each commented out at its default."""
    lines = ["# Settings of this home. Remove the # before a line to change it; `flywheel config` shows what is in force."]
    for group, options in groups().items():
        lines += ["", f"# {(options.__doc__ or '').splitlines()[0]}", f"[{group}]"]
        defaults = options()
        for name, field in options.model_fields.items():
            value = getattr(defaults, name)
            shown = "" if value is None else to_toml(value)
            lines += [f"# {field.description}", f"# {name} = {shown}".rstrip()]
    return "\n".join(lines) + "\n"


def without_secrets(value: Any) -> Any:
    """A setting's value with passwords inside an address replaced, for showing it."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"(://[^:/@\s]+:)[^@\s]+@", r"\1***@", value)
    return re.sub(r"(?i)(password\s*=\s*)('[^']*'|\S+)", r"\1***", value)


def to_toml(value: Any) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {to_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        raise FlywheelError(f"{file.parent} is not a folder. Choose another home with --home or FLYWHEEL_HOME.") from error
    except (OSError, ValueError) as error:
        raise FlywheelError(f"{file} cannot be read: {error}. Fix it, or move it away to use the defaults.") from error
    known = groups()
    loose = sorted(name for name, value in content.items() if name not in known or not isinstance(value, dict))
    if loose:
        named = ", ".join(f"{name}{_meant(name)}" for name in loose)
        raise FlywheelError(
            f"Unknown setting in {file}: {named}. Settings come in groups ({', '.join(known)}), such as [baseline] "
            'with url = "..." below it; `flywheel config` lists them all.'
        )
    return content


def variables() -> Variables:
    """The variables of the environment that begin like ours, sorted out."""
    return Variables.of(os.environ, {*_fields(), _HOME_VARIABLE, _ALARM_URLS})


def warn_of_other_variables() -> None:
    """Name the variables that begin like ours and are no settings, in one line: some may be meant for us."""
    found = variables()
    if found.others:
        hint = "; with enableServiceLinks: false a pod has none of the services'" if found.services else ""
        are = "is no setting and is" if len(found.others) == 1 else "are no settings and are"
        log.warning("%s %s ignored (`flywheel config` lists every setting%s)", ", ".join(found.others), are, hint)


def _fields() -> dict[str, FieldInfo]:
    return {
        f"FLYWHEEL_{group}__{name}".upper(): field
        for group, options in groups().items()
        for name, field in options.model_fields.items()
    }


class _OurVariables(EnvSettingsSource):
    """The variables that are settings, and no others: the library takes a name in any case, and a whole group as JSON."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): os.environ[name] for name in variables().settings}


def _read_environment() -> dict[str, Any]:
    fields, misspelt = _fields(), variables().misspelt
    if misspelt:
        named = ", ".join(f"{name} (did you mean {meant}?)" if meant else name for name, meant in misspelt.items())
        raise FlywheelError(
            f"Unknown setting {named}. Rename or unset it: variables are named FLYWHEEL_<GROUP>__<SETTING>, such as "
            "FLYWHEEL_BASELINE__URL; `flywheel config` lists every setting."
        )
    for name, value in os.environ.items():
        field = fields.get(name)
        if field is not None and get_origin(field.annotation) in (dict, tuple) and not _is_json(value):
            raise FlywheelError(f'{name} is not JSON: {value}. Write a list as ["a", "b"] and a table as {{"name": "value"}}.')
    return _OurVariables(Settings)()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _listed(error: ValidationError, in_environment: Mapping[str, Any]) -> str:
    """Every wrong setting by the name under which it was given, and what is wrong with it."""

    def line(loc: tuple[int | str, ...], message: str, kind: str) -> str:
        given = in_environment.get(str(loc[0]), {})
        from_environment = len(loc) > 1 and isinstance(given, Mapping) and loc[1] in given
        name = f"FLYWHEEL_{loc[0]}__{loc[1]}".upper() if from_environment else ".".join(map(str, loc))
        hint = _meant(str(loc[1]), str(loc[0])) if kind == "extra_forbidden" and len(loc) == 2 else ""
        if loc[0] == "models" and len(loc) == 2:
            hint = f", since it is the name of a base model{_meant(str(loc[1]), 'models')}"
        elif loc[0] == "models" and kind == "extra_forbidden" and str(loc[-1])[:1].isdigit():
            hint = f'. A name with a dot stands in quotes: [models."{".".join(map(str, loc[1:]))}"]'
        if kind == "string_pattern_mismatch" and len(loc) == 2:
            meaning = groups()[str(loc[0])].model_fields[str(loc[1])].description or ""
            message = f"not of the form that it takes ({meaning.rstrip('.')})"
        return f"{name}: {message.removeprefix('Value error, ')}{hint}"

    return "; ".join(line(each["loc"], each["msg"], each["type"]) for each in error.errors())


def _meant(name: str, group: str | None = None) -> str:
    """What a name in the file was meant to be, as words to add: a group, a setting of its group, or one of another group."""
    known = groups()
    if group is None and name in known:
        return " (which is a group)"
    here = list(known) if group is None else list(known[group].model_fields)
    if meant := meant_by(name, here):
        return f" (did you mean {f'[{meant}]' if group is None else f'{group}.{meant}'}?)"
    places = [f"{other}.{each}" for other, options in known.items() for each in options.model_fields if meant_by(name, [each])]
    return f" (did you mean {' or '.join(places)}?)" if places else ""


@cache
def _warn_of_a_file_elsewhere(file: Path) -> None:
    """Settings once were read from the working directory, and a file there looks as if it counted."""
    here = Path(file.name)
    if here.exists() and not file.exists():
        move = f"mv {here} {shlex.quote(str(file))}"
        if not file.parent.exists():
            move = f"mkdir -p {shlex.quote(str(file.parent))} && {move}"
        log.warning("%s is not read, since settings belong to a home. To use it: %s", here.resolve(), move)
