"""Running a verb against a service: the connection, and the exit status of what can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from flow_manager.cli.options import Target
from flow_manager.cli.output import complain

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient
    from flow_manager.contract.wake import ContainerWakeEvent

DONE, REFUSED, WRONG_USAGE, NOT_REACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
# A verb does one thing: a service that is away this long is told of rather than waited for.
RECONNECT_FOR = 15.0

# What the service says for every client, in the words of this one.
_REMEDIES = {"unauthorized": "give it with --token, or in FLOW_MANAGER_TOKEN; `flow-manager token create` makes one"}

T = TypeVar("T")


def with_client(
    target: Target,
    action: Callable[[FlowManagerClient], Awaitable[T]],
    *,
    reconnect_for: float = RECONNECT_FOR,
    on_connection: Callable[[bool], None] | None = None,
    on_wake: Callable[[ContainerWakeEvent], None] | None = None,
) -> T:
    """Connect, run `action`, disconnect. Ends the program with the exit status of section 9 when that fails."""
    from flow_manager.client import FlowManagerClient, ServiceRefused, Unreachable

    async def work() -> T:
        client = FlowManagerClient(
            target.url, target.token, reconnect_for=reconnect_for, on_connection=on_connection, on_wake=on_wake
        )
        async with client:
            return await action(client)

    try:
        return asyncio.run(work())
    except ServiceRefused as refused:
        complain(worded(refused))
        raise typer.Exit(REFUSED) from None
    except Unreachable as unreachable:
        complain(f"not reachable: {unreachable}")
        raise typer.Exit(NOT_REACHABLE) from None
    except ValueError as wrong:
        complain(f"wrong usage: {wrong}")
        raise typer.Exit(WRONG_USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def worded(refused: Any) -> str:
    """The service's message, and of its details what helps a person."""
    lines = [f"{refused.code}: {refused.message}"]
    if remedy := _REMEDIES.get(refused.code):
        lines.append(f"  {remedy}")
    fields = refused.details.get("fields")
    if isinstance(fields, list) and len(fields) > 1:
        lines += [f"  {item.get('path')}: {item.get('reason')}" for item in fields if isinstance(item, dict)]
    for name in ("reason", "exit_code", "retry_after", "error_id"):
        if (value := refused.details.get(name)) is not None and str(value) not in lines[0]:
            lines.append(f"  {name.replace('_', ' ')}: {value}")
    if refused.details.get("rolled_back") is True:
        lines.append("  the older code is back")
    return "\n".join(lines)
