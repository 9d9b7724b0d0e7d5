"""start, stop, restart, pause, unpause, kill and rm: one event for each flow that is named, in the order given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.options import FlowIds, Json, Target, Token, Url, target
from flow_manager.cli.output import complain, print_json, say
from flow_manager.cli.run import REFUSED, with_client, worded
from flow_manager.cli.wake_steps import at_terminal, show_step, steps_shown

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient

Grace = Annotated[
    float | None,
    typer.Option("--timeout", "-t", min=0, max=600, metavar="SECONDS", help="Time to end by itself before the kill."),
]
Signal = Annotated[str | None, typer.Option("--signal", "-s", metavar="SIGNAL", help="For example SIGINT.")]

# What these verbs are about is not the container's state: a paused flow that sleeps is napping.
_BY_FLOW_STATE = ("wake_container", "sleep_container")


def register(app: typer.Typer) -> None:
    for verb in (start, stop, restart, pause, unpause, kill):
        app.command()(verb)
    app.command("rm")(remove)


def start(
    context: typer.Context,
    flows: FlowIds,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is ready, not only started.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Start flows."""
    request = {"wait": "ready"} if wait else {}
    each(target(context, url, token, as_json), flows, "start_container", request)


def stop(
    context: typer.Context,
    flows: FlowIds,
    signal: Signal = None,
    timeout: Grace = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Stop flows; they stay stopped."""
    each(target(context, url, token, as_json), flows, "stop_container", {"signal": signal, "timeout": timeout})


def restart(
    context: typer.Context,
    flows: FlowIds,
    timeout: Grace = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Stop flows and start them again."""
    each(target(context, url, token, as_json), flows, "restart_container", {"timeout": timeout})


def pause(context: typer.Context, flows: FlowIds, url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """Freeze running flows."""
    each(target(context, url, token, as_json), flows, "pause_container", {})


def unpause(
    context: typer.Context, flows: FlowIds, url: Url = None, token: Token = None, as_json: Json = False
) -> None:
    """Let paused flows go on."""
    each(target(context, url, token, as_json), flows, "unpause_container", {})


def kill(
    context: typer.Context,
    flows: FlowIds,
    signal: Signal = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Send flows a signal now (SIGKILL unless another is given)."""
    each(target(context, url, token, as_json), flows, "kill_container", {"signal": signal})


def remove(
    context: typer.Context,
    flows: FlowIds,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also while it runs.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Delete flows and all that they left.

    One that others made is only let go of, and its container goes on, unless --force.
    """
    each(target(context, url, token, as_json), flows, "delete_container", {"force": force})


def each(goal: Target, flows: list[str], event: str, request: dict[str, Any]) -> None:
    """One that is refused doesn't keep the others from their turn; the exit status tells of it."""
    from flow_manager.client import ServiceRefused
    from flow_manager.client.inside import WAKE_TIMEOUT
    from flow_manager.client.life import OPERATION_TIMEOUT

    # Both wait for readiness: theirs, and that of what they need.
    waits = request.get("wait", event == "wake_container") in (True, "ready")
    shown = waits and not goal.as_json and at_terminal()
    ready = event == "wake_container" or request.get("wait") == "ready"
    timeout = WAKE_TIMEOUT if ready else OPERATION_TIMEOUT + (request.get("timeout") or 0)

    async def work(client: FlowManagerClient) -> int:
        refusals = 0
        for flow in flows:
            try:
                goes_on = await _goes_on(client, event, flow, request)
                async with steps_shown(client, flow, shown=shown):
                    data = await client.call(event, {"container_id": flow, **request}, timeout=timeout)
            except ServiceRefused as refused:
                refusals += 1
                complain(worded(refused))
                continue
            if goal.as_json:
                print_json(data)
            elif event == "delete_container":
                say(f"{flow} let go of; its container goes on as it is" if goes_on else f"{flow} deleted")
            else:
                say(f"{data['name']} {data['flow_state'] if event in _BY_FLOW_STATE else data['state']}")
        return refusals

    if with_client(goal, work, on_wake=show_step):
        raise typer.Exit(REFUSED)


async def _goes_on(client: FlowManagerClient, event: str, flow: str, request: dict[str, Any]) -> bool:
    """Whether a delete only lets go of it: others made it. The reply doesn't tell, and afterwards nobody knows it."""
    if event != "delete_container" or request["force"]:
        return False
    return bool((await client.call("get_container", {"container_id": flow}))["adopted"])
