"""logs: what a flow wrote, and writes."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.options import FlowId, Json, Token, Url, target
from flow_manager.cli.output import clean, complain, dump_json, print_json
from flow_manager.cli.run import RECONNECT_FOR, with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient

# Following outlives a restart of the service.
FOLLOW_RECONNECT_FOR = 600.0
TAIL = 100
# At a terminal colours are let through, and no other command: a line must not be able to rename a window or type.
_COLOUR = re.compile("(\x1b\\[[0-9;:]*m)")


def register(app: typer.Typer) -> None:
    app.command()(logs)


def logs(
    context: typer.Context,
    flow: FlowId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And go on with what it writes.")] = False,
    tail: Annotated[
        int, typer.Option("--tail", "-n", min=0, max=10_000, metavar="N", help="Only the last N lines.")
    ] = TAIL,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="An ISO time, seconds since 1970, or how long ago: 10m, 2h."),
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="The time before each line.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show what a flow wrote; its errors go to standard error. With --json -f one line's object a line."""
    goal = target(context, url, token, as_json)
    moment = _since(since)

    def show(line: dict[str, Any]) -> None:
        stream = sys.stderr if line["stream"] == "stderr" else sys.stdout
        moment_shown = f"{line['timestamp'] or '-'} " if timestamps else ""
        stream.write(f"{moment_shown}{_shown(line['text'], stream.isatty())}\n")
        stream.flush()

    async def work(client: FlowManagerClient) -> None:
        if not follow:
            data = await client.call("get_logs", {"container_id": flow, "tail": tail, "since": moment})
            if goal.as_json:
                print_json(data)
            else:
                for line in data["lines"]:
                    show(line)
            return
        lost = 0
        follower = client.follow_logs(flow, tail=tail, since=moment)
        async for line in follower:
            if follower.lost > lost:
                complain(f"{follower.lost - lost} lines are missing here: they came too fast")
                lost = follower.lost
            plain = line.model_dump(mode="json")
            if goal.as_json:
                print(dump_json(plain), flush=True)
            else:
                show(plain)

    def connection(connected: bool) -> None:
        complain("connected again" if connected else "connection lost, trying again …")

    with_client(
        goal,
        work,
        reconnect_for=FOLLOW_RECONNECT_FOR if follow else RECONNECT_FOR,
        on_connection=connection if follow else None,
    )


def _since(text: str | None) -> float | str | None:
    """`10m` is ten minutes ago; all else is the service's to judge."""
    if text is None or not re.fullmatch(r"[0-9.]+(ms|s|m|h|d)", text):
        return text
    from flow_manager.contract.units import parse_seconds

    seconds = parse_seconds(text)
    return datetime.now(UTC).timestamp() - float(seconds)


def _shown(text: str, at_terminal: bool) -> str:
    """As it is for programs; for a terminal without what could command it."""
    if not at_terminal:
        return text.encode("utf-8", "replace").decode()
    parts = _COLOUR.split(text.expandtabs())
    return "".join(part if place % 2 else clean(part) for place, part in enumerate(parts))
