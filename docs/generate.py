"""`python docs/generate.py`: write `settings.md` and `cli.md`, the two pages of this folder that are made from the code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from flywheel.cli.app import app
from flywheel.models.options import ModelTable, ModelTables
from flywheel.settings import groups, to_toml

FOLDER = Path(__file__).parent
COMMAND = "python docs/generate.py"
_SHARED = ("home", "as_json", "help")  # options that every verb has, explained once

_SETTINGS = """# Settings

Made from the code by `{command}`.

Settings belong to a home. They are in `<home>/flywheel.toml`; `flywheel config --init` writes one with every setting
commented out, and `flywheel config` shows each value and whether it comes from the default, the file or the environment.
An unknown or invalid setting in the file stops every command with a sentence that names it. So does a variable whose name is
a slip of a setting's (one underscore for two, small letters, a wrong letter), and the sentence has the one that was meant.
Other variables that begin with `FLYWHEEL_` are somebody else's: they are named in one line and ignored.

In the file a setting has a group and a name. An environment variable wins over the file; lists and tables in it are JSON:

```toml
[pairs]
seed_pairs = "none"
redact = ["email", "phone"]
```

```bash
export FLYWHEEL_PAIRS__SEED_PAIRS=none
export FLYWHEEL_PAIRS__REDACT='["email", "phone"]'
```

Other variables that flywheel or its libraries read:

| variable | meaning |
|---|---|
| `FLYWHEEL_HOME` | The home. `--home` wins over it; without both it is `data/` in the working directory. |
| `DAGSTER_HOME` | Where Dagster keeps its state, if you run it yourself; `flywheel up` and the verbs keep theirs in the home. |
| `OPENAI_API_KEY` | The key of the embedding API. It is read from the environment only and never stored or shown. |
| `FLYWHEEL_ALARM_URLS` | Who is told of events, as Apprise writes addresses, separated by spaces. Never stored or shown. |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | Credentials for `s3://` addresses. |
| `AWS_REGION`, `AWS_ENDPOINT_URL` | Where these addresses are. |
| `HF_TOKEN`, `HF_ENDPOINT` | For `export --to hub`: a token with write access, and the hub's address. |
| `MLFLOW_TRACKING_URI`, `MLFLOW_REGISTRY_URI` | For `export --to mlflow`: the server, and a registry elsewhere. |
| `HF_HUB_OFFLINE` | With `1`, nothing is asked of the Hugging Face hub. |
| `TIKTOKEN_CACHE_DIR` | Where tiktoken keeps its vocabulary. It is used if it is there and never downloaded. |

"""

_CLI = """# Command line

Made from the code by `{command}`.

Every verb takes `--help`, and `--home FOLDER` for the folder that holds all state. Without it the home is the one that
`FLYWHEEL_HOME` names, else `data/` in the working directory. Every verb but `up` takes `--json`: it then prints one JSON
document on standard output, and everything else goes to standard error.

Exit codes: 0 done, 1 a failure explained in one sentence, 2 wrong usage, 130 stopped by Ctrl-C. A command that was stopped
or killed continues where it was when it is run again.

"""


def pages() -> dict[Path, str]:
    """The content of each generated page, by its file."""
    settings = _SETTINGS.format(command=COMMAND) + "\n".join(_group(name, options) for name, options in _nested(groups()))
    return {FOLDER / "settings.md": settings, FOLDER / "cli.md": _CLI.format(command=COMMAND) + "\n".join(_verbs())}


def _nested(groups: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The groups, each followed by those within it."""
    for group, options in groups.items():
        yield group, options
        if options is not ModelTables:
            fields = options.model_fields.items()
            yield from _nested({f"{group}.{name}": field.annotation for name, field in fields if _is_group(field.annotation)})


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _group(group: str, options: Any) -> str:
    name = f"{group}.NAME" if options is ModelTables else group
    options = ModelTable if options is ModelTables else options
    defaults = options()
    lines = [f"## `[{name}]`", "", (options.__doc__ or "").splitlines()[0], ""]
    if "." in group:
        lines += [f"In the environment it is one variable, `FLYWHEEL_{group.replace('.', '__').upper()}`: a table as JSON.", ""]
    lines += ["| name | default | environment variable | meaning |", "|---|---|---|---|"]
    for name, field in options.model_fields.items():
        if _is_group(field.annotation):
            continue
        value = getattr(defaults, name)
        default = "not set" if value is None else f"`{to_toml(value)}`"
        meaning = f"{field.description}{_choices(field.annotation)}".replace("|", "\\|").replace("<", "&lt;")
        variable = "-" if options is ModelTable or "." in group else f"`{f'FLYWHEEL_{group}__{name}'.upper()}`"
        lines.append(f"| `{name}` | {default} | {variable} | {meaning} |")
    return "\n".join(lines) + "\n"


def _choices(annotation: Any) -> str:
    """The words that a setting may be, as a sentence; nothing where it may be any."""
    if get_origin(annotation) is tuple:
        return _choices(get_args(annotation)[0]).replace("One of", "Any of")
    if get_origin(annotation) is not Literal:
        return ""
    return f" One of {', '.join(f'`{word}`' for word in get_args(annotation))}."


def _verbs() -> Iterator[str]:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    for name in sorted(root.commands):
        command = root.commands[name]
        yield _verb(f"flywheel {name}", command)
        if isinstance(command, TyperGroup):
            yield from (_verb(f"flywheel {name} {under}", command.commands[under]) for under in sorted(command.commands))


def _verb(path: str, command: TyperCommand | TyperGroup) -> str:
    own = [parameter for parameter in command.params if parameter.name not in _SHARED]
    usage, about = " ".join([path, *map(_usage, own)]), [command.help or ""]
    if isinstance(command, TyperGroup):
        usage += " [COMMAND]"
        about += ["", f"Without a command: {(command.callback.__doc__ or '').strip()}"]
    lines = [f"## {path}", "", *about, "", "```text", usage, "```", ""]
    if own:
        lines += ["| argument or option | meaning |", "|---|---|"]
        lines += [f"| `{_named(parameter)}` | {_meaning(parameter)} |" for parameter in own]
        lines.append("")
    return "\n".join(lines)


def _usage(parameter: TyperArgument | TyperOption) -> str:
    name = _named(parameter)
    if parameter.nargs == -1 or parameter.multiple:
        name += " ..."
    return name if parameter.required else f"[{name}]"


def _named(parameter: TyperArgument | TyperOption) -> str:
    name = str(parameter.name).upper()
    if isinstance(parameter, TyperArgument):
        return name
    option = parameter.opts[0]
    return option if parameter.is_flag else f"{option} {name if option.lstrip('-').upper() == name else 'TEXT'}"


def _meaning(parameter: TyperArgument | TyperOption) -> str:
    meaning = str(getattr(parameter, "help", None) or "")
    default = parameter.default
    if default is None or isinstance(default, bool | list | tuple) or "default" in meaning:
        return meaning
    return f"{meaning} Default: `{default}`."


def main() -> None:
    """Write the pages."""
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
