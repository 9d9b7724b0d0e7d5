"""wake, sleep and idle: whether flows are awake, and when they shall sleep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.explain import show
from flow_manager.cli.files import read_object
from flow_manager.cli.idle_options import takes_policy
from flow_manager.cli.lifecycle import each
from flow_manager.cli.options import FlowId, FlowIds, Json, Token, Url, target
from flow_manager.cli.output import print_json
from flow_manager.cli.run import with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient


def register(app: typer.Typer) -> None:
    for verb in (wake, sleep, idle):
        app.command()(verb)


def wake(
    context: typer.Context,
    flows: FlowIds,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the wake has begun.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Wake flows, what they need first, and wait until they are ready."""
    each(target(context, url, token, as_json), flows, "wake_container", {"wait": False} if no_wait else {})


def sleep(context: typer.Context, flows: FlowIds, url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """Let flows sleep now; traffic wakes them again."""
    each(target(context, url, token, as_json), flows, "sleep_container", {})


@takes_policy
def idle(
    context: typer.Context,
    flow: FlowId,
    idle_timeout: Annotated[
        str | None, typer.Option("--timeout", "--idle-timeout", metavar="TIME", help="Without use; 0: never sleeps.")
    ] = None,
    idle: dict[str, Any] = {},  # noqa: B006 - see takes_policy
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="FILE", help="A whole IdlePolicy as JSON, `-` for stdin; options win over it."),
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Change when a flow sleeps, at once and without making it anew. What isn't given stays as it is."""
    goal = target(context, url, token, as_json)
    whole = read_object(file, "--file") if file is not None else None
    given = {**({"idle_timeout": idle_timeout} if idle_timeout is not None else {}), **idle}
    if whole is None and not given:
        raise typer.BadParameter("nothing to change: --timeout, --method, … or --file", param_hint="FLOW")

    async def work(client: FlowManagerClient) -> dict[str, Any]:
        before = whole
        if before is None:
            explained = await client.call("explain_container", {"container_id": flow})
            before = explained["idle"] or {}
        request = {"container_id": flow, "idle": {**before, **given}}
        told: dict[str, Any] = await client.call("set_idle_policy", request)
        return told

    told = with_client(goal, work)
    if goal.as_json:
        print_json(told)
    else:
        show(told)
