"""attach: a terminal in a flow, as if it were here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flow_manager.cli.options import FlowId, Token, Url, target
from flow_manager.cli.output import complain
from flow_manager.cli.run import DONE, REFUSED, WRONG_USAGE, with_client

if TYPE_CHECKING:
    from flow_manager.cli.attached import End
    from flow_manager.client import FlowManagerClient

# A lost connection is waited for this long, in seconds: the terminal stays open for five minutes.
RECONNECT_FOR = 60.0
DETACH_KEYS = "ctrl-p,ctrl-q"


def register(app: typer.Typer) -> None:
    # What follows the flow belongs to the command, also when it looks like an option.
    app.command(context_settings={"allow_interspersed_args": False})(attach)


def attach(
    context: typer.Context,
    flow: FlowId,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[--] [COMMAND...]", help="Instead of the best shell that is there.")
    ] = None,
    main: Annotated[bool, typer.Option("--main", help="The flow's own terminal (made with `tty`).")] = False,
    terminal_id: Annotated[
        str | None, typer.Option("--terminal-id", metavar="ID", help="Join this one, which you left open.")
    ] = None,
    detach_keys: Annotated[
        str, typer.Option("--detach-keys", metavar="KEYS", help="Leave the terminal open; `none`: no keys do.")
    ] = DETACH_KEYS,
    url: Url = None,
    token: Token = None,
) -> None:
    """Open a terminal in a flow, and wake it for that where it sleeps.

    Without a terminal here, what is piped in is typed, and then its end. A lost connection is made again. Exit status: the
    program's own; 0 when you leave it with the detach keys.
    """
    goal = target(context, url, token, False)
    argv = (command or [])[1:] if (command or [])[:1] == ["--"] else command or []
    if main and argv:
        complain("wrong usage: with --main there is a program already")
        raise typer.Exit(WRONG_USAGE)
    try:
        keys = parse_keys(detach_keys)
    except ValueError as wrong:
        complain(f"wrong usage: --detach-keys: {wrong}")
        raise typer.Exit(WRONG_USAGE) from None

    async def work(client: FlowManagerClient) -> End:
        from flow_manager.cli.attached import attached

        return await attached(
            client, flow, target="main" if main else "shell", command=argv or None, terminal_id=terminal_id, keys=keys
        )

    end = with_client(goal, work, reconnect_for=RECONNECT_FOR, on_connection=_tell)
    if end.skipped:
        complain(f"{end.skipped} bytes of output were not shown: more came than could be kept")
    if end.detached:
        complain(
            f"left open for five minutes; to join it again: flow-manager attach --terminal-id={end.terminal_id} {flow}"
        )
        raise typer.Exit(DONE)
    if end.signal:
        raise typer.Exit(128 + end.signal)
    if end.exit_code is None:
        complain("the terminal ended; how its program ended is not known")
        raise typer.Exit(REFUSED)
    raise typer.Exit(end.exit_code)


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or `~,.`: what to look for in what is typed. `none`: nothing.

    :raises ValueError: a key that is none.
    """
    if text == "none":
        return b""
    found = bytearray()
    for key in text.split(","):
        control = key.lower().removeprefix("ctrl-")
        if len(key) == 1 and key.isascii():
            found += key.encode()
        elif key.lower().startswith("ctrl-") and len(control) == 1 and control in "abcdefghijklmnopqrstuvwxyz@[\\]^_":
            found.append(ord(control.upper()) & 0x1F)
        else:
            raise ValueError(f"'{key}' is no key: one character, or ctrl- and a letter")
    return bytes(found)


def _tell(connected: bool) -> None:
    complain("\r[connected again]\r" if connected else "\r[the connection is lost; trying again]\r")
