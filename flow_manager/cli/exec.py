"""exec: run a command in a flow; its outputs and its exit status are ours."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.options import FlowId, Json, Token, Url, target
from flow_manager.cli.output import complain, print_json
from flow_manager.cli.pairs import environment
from flow_manager.cli.run import WRONG_USAGE, with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient


def register(app: typer.Typer) -> None:
    # As in docker: what follows the flow belongs to the command, also when it looks like an option.
    app.command("exec", context_settings={"allow_interspersed_args": False})(execute)


def execute(
    context: typer.Context,
    flow: FlowId,
    command: Annotated[list[str], typer.Argument(metavar="[--] COMMAND...", help="It reads nothing from here.")],
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="K=V", help="K alone takes the value from here; repeatable."),
    ] = None,
    workdir: Annotated[
        str | None, typer.Option("--workdir", "-w", metavar="PATH", help="Working folder in the flow.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", min=0, max=600, metavar="SECONDS", help="Then it is ended.")
    ] = 60.0,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Run a command in a flow, and wake it for that where it sleeps.

    Exit status: the command's own; 1, 2 and 3 also as with every verb, told by a message.
    """
    goal = target(context, url, token, as_json)
    argv = command[1:] if command[:1] == ["--"] else command
    if not argv:
        complain("wrong usage: a COMMAND is wanted")
        raise typer.Exit(WRONG_USAGE)
    request: dict[str, Any] = {"container_id": flow, "command": argv, "timeout": timeout, "working_dir": workdir}
    if env:
        request["environment"] = environment(env, os.environ)

    async def work(client: FlowManagerClient) -> dict[str, Any]:
        from flow_manager.client.inside import EXEC_GRACE

        answer: dict[str, Any] = await client.call("exec_container", request, timeout=timeout + EXEC_GRACE)
        return answer

    answer = with_client(goal, work)
    if goal.as_json:
        print_json(answer)
    else:
        _pass_on(answer)
    raise typer.Exit(answer["exit_code"])


def _pass_on(answer: dict[str, Any]) -> None:
    """As it is: whoever runs a command asks for what it writes, colours and all."""
    for stream, text in ((sys.stdout, answer["stdout"]), (sys.stderr, answer["stderr"])):
        stream.write(text)
        stream.flush()
    if answer["truncated"]:
        complain("there was more output: the service keeps the first megabyte of each stream")
