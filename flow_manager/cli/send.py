"""send: give a flow a message, and perhaps wait for its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.files import parse_object, read_object
from flow_manager.cli.options import FlowId, Json, Token, Url, target
from flow_manager.cli.output import print_json, say
from flow_manager.cli.run import with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient


def register(app: typer.Typer) -> None:
    app.command()(send)


def send(
    context: typer.Context,
    flow: FlowId,
    message: Annotated[str, typer.Argument(metavar="JSON", help="A JSON object, or `-` to read one from stdin.")],
    reply: Annotated[bool, typer.Option("--reply", help="Wait for the flow's reply and print it.")] = False,
    wake: Annotated[
        bool, typer.Option("--wake", help="A flow that is away gets it later, and is woken for it.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, max=600, metavar="SECONDS", help="For the reply.")
    ] = 30.0,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Send a flow a message."""
    goal = target(context, url, token, as_json)
    body = read_object("-", "JSON") if message == "-" else parse_object(message, "JSON")
    request = {"container_id": flow, "message": body, "expect_reply": reply, "timeout": timeout}
    if wake:
        request["wake"] = True

    async def work(client: FlowManagerClient) -> dict[str, Any]:
        from flow_manager.client.client import ANSWER_GRACE

        answer: dict[str, Any] = await client.call("send_message", request, timeout=timeout + ANSWER_GRACE)
        return answer

    answer = with_client(goal, work)
    if goal.as_json:
        print_json(answer)
    elif reply:
        print_json(answer.get("reply"))
    else:
        say("delivered" if answer["delivered"] else "queued")
