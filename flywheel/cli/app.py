"""The command line as a whole: its verbs, how it fails, how it stops."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from flywheel.cli import baseline, models, pairs, verdict
from flywheel.cli.common import Home, Json, open_home, print_json, read_settings
from flywheel.errors import FlywheelError, disk_is_full
from flywheel.processes import stoppable


class _Stoppable(TyperGroup):
    """Verbs that end with one sentence and exit code 130 when they are told to stop."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            with stoppable():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("stopped; the same command goes on where this one was.", 130)


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


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"flywheel: {sentence}", file=sys.stderr)
    sys.exit(code)


@app.command()
def demo(home: Home = None, as_json: Json = False) -> None:
    """Turn the whole loop once on the starter set: ingest, train, evaluate, promote."""
    from flywheel import demo as demonstration

    with open_home(home) as session:
        demonstration.run(session, as_json)


for verbs in (pairs, models, baseline, verdict):
    app.add_typer(verbs.app)


@app.command()
def up(home: Home = None, port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000) -> None:
    """Open the Dagster UI on this home, with sensors and schedule running."""
    from flywheel.orchestration.server import serve_ui

    with open_home(home) as session:
        settings = session.settings
    sys.exit(serve_ui(settings, port))


@app.command()
def config(home: Home = None, as_json: Json = False) -> None:
    """Every setting with its value; secrets never stand among them."""
    settings = read_settings(home)
    values = settings.model_dump(mode="json")
    if as_json:
        return print_json(values)
    for name, value in values.items():
        print(f"{name} = {value!r}    # {type(settings).model_fields[name].description or ''}".rstrip(" #"))
