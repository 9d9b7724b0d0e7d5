"""serve: run the service until it is told to end."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flow_manager.cli.output import complain
from flow_manager.cli.run import WRONG_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from flow_manager.settings.models import Settings


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings as TOML (FLOW_MANAGER_CONFIG).")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address of the control port. Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="The control port, 0 for any free one. Default: 8080.")
    ] = None,
    proxy_host: Annotated[
        str | None, typer.Option("--proxy-host", help="Address of the proxy port. Default: 127.0.0.1.")
    ] = None,
    proxy_port: Annotated[
        int | None,
        typer.Option("--proxy-port", help="The port that serves and wakes flows, 0 for any free one. Default: 8081."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="FILE", help="A token is kept there, made at the first start: clients must give it."
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help="The default runtime. Default: docker when an engine answers, else process."),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir", metavar="FOLDER", help="Store, code and logs. Default: $XDG_STATE_HOME/flow-manager."
        ),
    ] = None,
    sockets_dir: Annotated[
        Path | None,
        typer.Option(
            "--sockets-dir",
            metavar="FOLDER",
            help="The flows' sockets, at most 76 bytes. Default: ./sockets in a checkout, else /run/flow-manager or the user's.",
        ),
    ] = None,
) -> None:
    """Run the service. SIGTERM or Ctrl-C ends it in order, a second one at once."""
    from flow_manager.errors import SettingsRefused
    from flow_manager.settings.load import load_with_notes

    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "proxy_host": proxy_host,
        "proxy_port": proxy_port,
        "auth.token_file": token_file,
        "runtime": runtime,
        "state_dir": state_dir,
        "sockets_dir": sockets_dir,
    }
    # What ends the process from below Python (a library's segmentation fault) shows where each thread was. Not where the
    # caller has turned it on, nor without a standard error.
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
    try:
        loaded = load_with_notes(flags, os.environ, config)
        for note in loaded.notes:
            complain(f"note: {note}")
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            runner.run(run_service(loaded.settings))
    except SettingsRefused as refused:
        complain(str(refused))
        raise typer.Exit(WRONG_USAGE) from None


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (the extra `fast`), else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


async def run_service(settings: Settings) -> None:
    """Start, say so, wait for a signal, stop, say what goes on. :raises SettingsRefused:"""
    from flow_manager.app import Service

    loop = asyncio.get_running_loop()
    ending = asyncio.Event()

    def signalled(number: int) -> None:
        if ending.is_set():
            # Whoever asks twice doesn't want to wait; 128 + signal is what a shell shows for it.
            complain("ending at once")
            os._exit(128 + number)
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    service = Service(settings)
    starting = asyncio.ensure_future(service.start())
    told_to_end = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait({starting, told_to_end}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # a signal while it was starting: undo what was begun
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        await starting
        _tell(service.summary)
        await told_to_end
        await service.stop()
        _tell(service.farewell)
    finally:
        told_to_end.cancel()


def _tell(lines: list[str]) -> None:
    try:
        for line in lines:
            print(line, flush=True)
    except OSError:  # standard output is gone (a closed pipe): the service goes on
        sys.stdout = None
