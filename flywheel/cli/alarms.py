"""The verb for alarms: who is told of what, and a trial of it."""

from typing import Annotated

import typer

from flywheel.cli.common import Home, Json, open_workspace, print_json
from flywheel.errors import FlywheelError

app = typer.Typer()


@app.command()
def alarms(test: Annotated[bool, typer.Option("--test", help="Send a message to each address now.")] = False,
           home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Who is told what became of each turn and which checks warn; addresses are shown without their secrets."""
    from flywheel.alarms import send
    from flywheel.cli.console import console, waiting

    workspace = open_workspace(home)
    options, services = workspace.settings.alarms, send.services()
    if test and not services:
        raise FlywheelError(f"{send.VARIABLE} is not set. Set it to addresses as Apprise writes them, separated by spaces.")
    if test:
        with waiting("sending", as_json):
            send.send(services, None, f"This is a trial: alarms of {workspace.home.root} come here.\n{options.ui_url}")
    if as_json:
        names = [service.name for service in services]
        return print_json({"services": names, "tell": options.tell, "ui_url": options.ui_url, "tested": test})
    show = console(False).print
    for service in services:
        show(f"{service.name}{': has taken the trial' if test else ''}", markup=False, highlight=False)
    if not services:
        show(f"Nobody is told: {send.VARIABLE} is not set. It has addresses as Apprise writes them, separated by spaces.")
    show(f"Told: {', '.join(options.tell) or 'nothing'} (alarms.tell), with links to {options.ui_url} (alarms.ui_url)")
    if services and not test:
        show("Next: flywheel alarms --test")
    return None
