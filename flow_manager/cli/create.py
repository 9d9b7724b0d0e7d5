"""create: a flow from options as `docker run` has them, or from a JSON file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.files import read_object
from flow_manager.cli.idle_options import takes_policy
from flow_manager.cli.options import Json, Token, Url, target
from flow_manager.cli.output import print_json, say
from flow_manager.cli.pairs import environment, place, published, split_pair, volumes
from flow_manager.cli.run import with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient


def register(app: typer.Typer) -> None:
    # As in docker: what follows the image belongs to the command, also when it looks like an option.
    app.command(context_settings={"allow_interspersed_args": False})(create)


@takes_policy
def create(
    context: typer.Context,
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="`local` on the process runtime.")] = None,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Instead of the image's own.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="A DNS label; default: flow-<id>.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="K=V", help="K alone takes the value from here; repeatable."),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "--volume", "-v", metavar="HOST:CONTAINER[:ro]", help="Below the roots that settings allow; repeatable."
        ),
    ] = None,
    publish: Annotated[
        list[str] | None,
        typer.Option(
            "--publish", "-p", metavar="HOST:CONTAINER[/PROTO]", help="HOST 0 or none: any free port; repeatable."
        ),
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="Repeatable.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", "-m", metavar="SIZE", help="For example 256m.")] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", help="Cores, for example 0.5.")] = None,
    pids: Annotated[int | None, typer.Option("--pids", help="Processes and threads.")] = None,
    network: Annotated[
        list[str] | None, typer.Option("--network", help="A further one that settings allow; repeatable.")
    ] = None,
    host: Annotated[list[str] | None, typer.Option("--host", help="A host name that leads to it; repeatable.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Where it listens; default: its lowest TCP port.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Another than the service's default.")] = None,
    proxmox: Annotated[
        list[str] | None,
        typer.Option(
            "--proxmox",
            metavar="K=V[,K=V]...",
            help="Where, and of what: node, vmid (an existing container), template, clone, storage, disk, ip, …; repeatable.",
        ),
    ] = None,
    code: Annotated[
        Path | None,
        typer.Option("--code", metavar="PATH", help="Mounted at /flow, as a copy; below policy.code_roots."),
    ] = None,
    workdir: Annotated[
        str | None, typer.Option("--workdir", "-w", metavar="PATH", help="Working folder in the flow.")
    ] = None,
    idle_timeout: Annotated[
        str | None,
        typer.Option("--idle-timeout", metavar="TIME", help="Sleeps after so long without use, for example 5m."),
    ] = None,
    idle: dict[str, Any] = {},  # noqa: B006 - see takes_policy
    tty: Annotated[bool, typer.Option("--tty", "-t", help="With a terminal.")] = False,
    start: Annotated[bool, typer.Option("--start", help="And start it.")] = False,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="FILE", help="A ContainerConfig as JSON, `-` for stdin; options win over it."),
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Make a flow. Options come before IMAGE; what follows it is the command."""
    goal = target(context, url, token, as_json)
    request: dict[str, Any] = read_object(file, "--file") if file is not None else {}
    resources = {"memory": memory, "cpus": cpus, "pids": pids}
    timeout = {"idle_timeout": idle_timeout} if idle_timeout is not None else {}
    argv = command or []
    given: dict[str, Any] = {
        "image": image,
        # As `exec` and `attach`: nobody means a program of that name.
        "command": (argv[1:] if argv[:1] == ["--"] else argv) or None,
        "name": name,
        "environment": environment(env or [], os.environ),
        "volumes": volumes(volume or []),
        "ports": published(publish or []),
        "labels": dict(split_pair(text, "--label") for text in label or []),
        "resources": {key: value for key, value in resources.items() if value is not None},
        "networks": network,
        "hosts": host,
        "port": port,
        "runtime": runtime,
        "proxmox": {**(request.get("proxmox") or {}), **place(proxmox)} if proxmox else None,
        "code_path": str(code.absolute()) if code is not None else None,
        "working_dir": workdir,
        "tty": tty or None,
        "start": start or None,
        "idle": {**(request.get("idle") or {}), **timeout, **idle} if timeout or idle else None,
    }
    request |= {key: value for key, value in given.items() if value not in (None, {}, [])}
    if "image" not in request and "proxmox" not in request:
        raise typer.BadParameter("an image is wanted, as an argument or in --file", param_hint="IMAGE")

    async def work(client: FlowManagerClient) -> dict[str, Any]:
        from flow_manager.client.life import CREATE_TIMEOUT

        info: dict[str, Any] = await client.call("create_container", request, timeout=CREATE_TIMEOUT)
        return info

    info = with_client(goal, work)
    if goal.as_json:
        print_json(info)
    else:
        # As docker does: the id alone, for `$(…)`.
        say(info["id"])
