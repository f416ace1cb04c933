"""The command line as a whole: its verbs, how it fails, how it stops."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from flywheel.cli import alarms, baseline, demo, export, grid, housekeeping, models, pairs, reembed, results
from flywheel.cli.common import Home, Json, open_home, print_json, read_settings
from flywheel.errors import FlywheelError, disk_is_full
from flywheel.files import write_bytes
from flywheel.processes import stoppable

_SECONDS_TO_STOP = 8
_STOPPED = "stopped; the same command goes on where this one was."


class _Stoppable(TyperGroup):
    """Verbs that end with one sentence and exit code 130 on Ctrl-C, within ten seconds, and on a second one at once."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            with stoppable(_SECONDS_TO_STOP, _give_up):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail(_STOPPED, 130)


app = typer.Typer(
    cls=_Stoppable, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Turn the pairs your users leave behind into an embedding model you own.",
    epilog="Start with `flywheel demo`, then `flywheel up`.",
)  # fmt: skip


def main() -> None:
    """Run the command line; a failure that is explained prints its sentence and exits with 1."""
    try:
        app()
    except FlywheelError as error:
        _fail(str(error), 1)
    except Exception:
        home = Path(os.environ.get("FLYWHEEL_HOME", "data"))  # sessions set it to the home they work on
        if disk_is_full(home):
            _fail(f"The disk that holds {home} is full. Free some space and run the same command again.", 1)
        if home.exists() and not os.access(home, os.W_OK):
            _fail(f"{home} cannot be written. Choose another home with --home or FLYWHEEL_HOME.", 1)
        raise


def _give_up() -> None:
    """End this process whatever it is doing; a bar may have hidden the terminal's cursor."""
    shown = "\x1b[?25h\n" if sys.stderr.isatty() else ""
    os.write(2, f"{shown}flywheel: {_STOPPED}\n".encode())
    os._exit(130)


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"flywheel: {sentence}", file=sys.stderr)
    sys.exit(code)


for verbs in (demo, pairs, models, grid, baseline, results, export, reembed, alarms, housekeeping):
    app.add_typer(verbs.app)


@app.command()
def up(home: Home = None, port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000) -> None:
    """Open the Dagster UI on this home, with sensors and schedule running."""
    from flywheel.orchestration.server import check_free, serve_ui

    with open_home(home) as session:
        place = session.workspace.home
        check_free(place, port)
    serve_ui(place, port)


@app.command()
def config(init: Annotated[bool, typer.Option("--init", help="Write a flywheel.toml that explains every setting.")] = False,
           home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Every setting with its value and where that came from; secrets are never shown."""
    from flywheel.settings import find_home, origins, settings_template, to_toml, without_secrets

    file = find_home(home).settings_file
    if init:
        if file.exists():
            raise FlywheelError(f"{file} exists already and was left as it is. Edit it, or move it away first.")
        write_bytes(file, settings_template().encode())
    try:
        settings, sources = read_settings(home), origins(home)
    except FlywheelError:
        if not as_json:
            print(settings_template())  # what there is, for whoever looks for the right name
        raise
    groups: dict[str, dict[str, Any]] = {}
    for group, name in sources:
        groups.setdefault(group, {})[name] = without_secrets(getattr(getattr(settings, group), name))
    if as_json:
        listed = {
            group: {name: {"value": value, "origin": sources[group, name]} for name, value in options.items()}
            for group, options in groups.items()
        }
        return print_json({"home": settings.home, "file": file if file.exists() else None, **listed})
    print(f"# home {settings.home}, settings in {file}" + ("" if file.exists() else " (not there: flywheel config --init)"))
    for group, options in groups.items():
        print(f"\n[{group}]")
        for name, value in options.items():
            shown = "not set" if value is None else to_toml(value)
            print(f"{name} = {shown}  # {sources[group, name]}")
    return None
