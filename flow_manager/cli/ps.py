"""ps and status: what there is, and how it is."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.options import FlowId, Json, Token, Url, target
from flow_manager.cli.output import print_json, print_table, say
from flow_manager.cli.pairs import split_pair
from flow_manager.cli.run import with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient

# Answered from the service's memory; this many at a time keeps a list of thousands from taking seconds.
STATUS_AT_ONCE = 32
# Of one flow: its flow state, its health, its share of a core, its memory.
How = tuple[str, str, str, str]


def register(app: typer.Typer) -> None:
    app.command()(ps)
    app.command()(status)


def ps(
    context: typer.Context,
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="NAME", help="Only flows of this runtime.")
    ] = None,
    state: Annotated[str | None, typer.Option("--state", metavar="STATE", help="Only flows in this state.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only flows with this label; repeatable.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List the flows."""
    goal = target(context, url, token, as_json)
    labels = dict(split_pair(text, "--label") for text in label or [])
    request = {"runtime": runtime, "state": state, "labels": labels or None}

    async def work(client: FlowManagerClient) -> tuple[list[dict[str, Any]], list[How]]:
        flows = await client.call("list_containers", request)
        return flows, [] if goal.as_json else await _how(client, flows)

    flows, how = with_client(goal, work)
    if goal.as_json:
        print_json(flows)
        return
    now = datetime.now(UTC)
    print_table(
        ["ID", "NAME", "RUNTIME", "STATE", "FLOW", "HEALTH", "IMAGE", "PORTS", "AGE", "CPU", "MEMORY"],
        [
            [
                flow["id"],
                flow["name"],
                flow["runtime"],
                flow["status"],
                state,
                health,
                flow["image"],
                ports(flow),
                age(flow, now),
                cpu,
                memory,
            ]
            for flow, (state, health, cpu, memory) in zip(flows, how, strict=True)
        ],
    )


def status(context: typer.Context, flow: FlowId, url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """How a flow is."""
    goal = target(context, url, token, as_json)

    async def work(client: FlowManagerClient) -> dict[str, Any]:
        found: dict[str, Any] = await client.call("get_status", {"container_id": flow})
        return found

    data = with_client(goal, work)
    if goal.as_json:
        print_json(data)
        return
    usage = data.pop("resource_usage", None) or {}
    for name, value in [*data.items(), *usage.items()]:
        if value is not None:
            say(f"{name.replace('_', ' ')}: {value}")


async def _how(client: FlowManagerClient, flows: list[dict[str, Any]]) -> list[How]:
    """Flow state, health, processor and memory. The list holds what flows are, not how; a flow that went meanwhile has `-`."""
    from flow_manager.client import ServiceRefused

    turn = asyncio.Semaphore(STATUS_AT_ONCE)

    async def one(flow: dict[str, Any]) -> How:
        async with turn:
            try:
                status = await client.call("get_status", {"container_id": flow["id"]})
            except ServiceRefused:
                return "-", "-", "-", "-"
        health = str(status["health"]) if flow["status"] == "running" else "-"
        usage = status.get("resource_usage") or {}
        cpu, memory = usage.get("cpu_percent"), usage.get("memory_bytes")
        return (
            str(status["flow_state"]),
            health,
            f"{cpu:.1f}%" if cpu is not None else "-",
            f"{memory / 2**20:.1f}M" if memory is not None else "-",
        )

    return list(await asyncio.gather(*(one(flow) for flow in flows)))


def ports(flow: dict[str, Any]) -> str:
    """`8080->80/tcp`, as Docker writes it."""
    return ", ".join(f"{host}->{inside}" for inside, host in flow["ports"].items()) or "-"


def age(flow: dict[str, Any], now: datetime) -> str:
    try:
        seconds = max(0, int((now - datetime.fromisoformat(flow["created"])).total_seconds()))
    except (ValueError, TypeError):
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
