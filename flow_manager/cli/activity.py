"""activity: what happened, and what happens."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.options import Json, Token, Url, target
from flow_manager.cli.output import clean, complain, console, dump_json, print_json
from flow_manager.cli.run import RECONNECT_FOR, with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient

# Following outlives a restart of the service, and even an upgrade of its machine.
FOLLOW_RECONNECT_FOR = 600.0
PAGE = 1000
SHOWN, SHOWN_BEFORE_FOLLOWING = 100, 10


def register(app: typer.Typer) -> None:
    app.command()(activity)


def activity(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And go on with what happens.")] = False,
    after: Annotated[
        int | None, typer.Option("--after", min=0, metavar="CURSOR", help="Only entries after this one.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=0, help=f"Newest entries shown; {SHOWN}, with -f {SHOWN_BEFORE_FOLLOWING}."),
    ] = None,
    container: Annotated[str | None, typer.Option("--container", metavar="FLOW", help="Only this flow.")] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only this type; repeatable.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show the activity log, oldest first. With --json -f one entry a line."""
    goal = target(context, url, token, as_json)
    wanted: dict[str, Any] = {"container_id": container, "types": types or None}
    show = _line_printer() if not goal.as_json else lambda entry: print(dump_json(entry), flush=True)

    async def work(client: FlowManagerClient) -> None:
        count = limit if limit is not None else (SHOWN_BEFORE_FOLLOWING if follow else SHOWN)
        if not follow:
            page = await _newest(client, wanted, after, count)
            if goal.as_json:
                print_json(page)
            else:
                for entry in reversed(page["entries"]):
                    show(entry)
            return
        await _follow(client, wanted, after, count, show)

    def connection(connected: bool) -> None:
        complain("connected again" if connected else "connection lost, trying again …")

    with_client(
        goal,
        work,
        reconnect_for=FOLLOW_RECONNECT_FOR if follow else RECONNECT_FOR,
        on_connection=connection if follow else None,
    )


async def _newest(client: FlowManagerClient, wanted: dict[str, Any], after: int | None, count: int) -> dict[str, Any]:
    """The newest `count` entries after `after`, newest first, over as many pages as it takes."""
    entries: list[dict[str, Any]] = []
    following: int | None = None
    while len(entries) < count:
        request = {**wanted, "before": following, "limit": min(PAGE, count - len(entries))}
        page = await client.call("list_activity", request)
        fresh = [entry for entry in page["entries"] if after is None or entry["cursor"] > after]
        entries += fresh
        following = page["next"]
        if following is None or len(fresh) < len(page["entries"]):
            return {"entries": entries, "next": None if len(fresh) < len(page["entries"]) else following}
    return {"entries": entries, "next": following}


async def _follow(client: FlowManagerClient, wanted: dict[str, Any], after: int | None, count: int, show: Any) -> None:
    stream: str | None = None
    if after is None:
        page = await client.call("list_activity", {**wanted, "limit": max(1, min(count, PAGE))})
        newest = page["entries"]
        for entry in reversed(newest[:count]):
            show(entry)
        # Nothing yet: from the very beginning, so that what happens before the subscription is seen, too.
        after = newest[0]["cursor"] if newest else 0
        stream = newest[0]["stream"] if newest else None
    feed = client.subscribe_activity(after=after, stream=stream, **wanted)
    gaps = 0
    async for entry in feed:
        if feed.gaps > gaps:
            gaps = feed.gaps
            complain("some entries are missing here: the service no longer has them")
        show(entry.model_dump(mode="json"))


def _line_printer() -> Any:
    """Coloured at a terminal, plain elsewhere: `time  type  message`."""
    if not sys.stdout.isatty():
        return lambda entry: print(*_columns(entry), sep="  ", flush=True)
    from rich.text import Text

    out = console()

    def show(entry: dict[str, Any]) -> None:
        moment, kind, message = _columns(entry)
        out.print(Text.assemble((moment, "dim"), "  ", (kind, style_of(entry["type"])), "  ", message))

    return show


def style_of(kind: str) -> str:
    if kind.endswith(("failed", "died", "lost", "unavailable")):
        return "red"
    return "cyan" if kind in ("container_message", "actor_event") else "green"


def _columns(entry: dict[str, Any]) -> tuple[str, str, str]:
    try:
        moment = datetime.fromisoformat(entry["timestamp"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, TypeError):
        moment = "-"
    return moment, clean(entry["type"]).ljust(20), clean(entry["message"])
