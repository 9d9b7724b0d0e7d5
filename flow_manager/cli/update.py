"""update: other code for a flow, or the older one again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.options import Json, Token, Url, target
from flow_manager.cli.output import print_json, say
from flow_manager.cli.run import with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient


def register(app: typer.Typer) -> None:
    app.command()(update)


def update(
    context: typer.Context,
    flow: Annotated[str, typer.Argument(metavar="FLOW", help="A flow's id or name.")],
    code: Annotated[
        Path | None,
        typer.Argument(metavar="CODE", help="A file, folder or tar archive on the service's machine."),
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the code that the last update replaced.")
    ] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Replace a flow's code, taken back if it fails.

    A flow that runs is restarted with it. The code is below the folders that the service's `policy.code_roots` allows.
    """
    if rollback == (code is not None):
        raise typer.BadParameter("give the new code, or --rollback")
    goal = target(context, url, token, as_json)

    request: dict[str, Any] = {"container_id": flow}
    if code is not None:
        request["code_path"] = str(code.absolute())

    async def work(client: FlowManagerClient) -> Any:
        from flow_manager.client.inside import WAKE_TIMEOUT

        event = "rollback_container" if rollback else "update_container"
        return await client.call(event, request, timeout=WAKE_TIMEOUT)

    info = with_client(goal, work)
    if goal.as_json:
        print_json(info)
    else:
        say(f"{info['name']} {'rolled back' if rollback else 'updated'}, {info['status']}")
