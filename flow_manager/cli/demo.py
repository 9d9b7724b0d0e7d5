"""demo: the main job before the user's eyes, with a service of its own and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from flow_manager.cli.output import clean, complain, console
from flow_manager.cli.run import INTERRUPTED, REFUSED

if TYPE_CHECKING:
    from flow_manager.cli.demo_place import Place
    from flow_manager.contract.activity import Activity
    from flow_manager.contract.wake import ContainerWakeEvent


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", metavar="docker|process", help="Default: docker where it can be had, else process."),
    ] = None,
) -> None:
    """Show the main job, from create to delete; needs no service.

    Exit status 0 only if each step was seen to happen. FLOW_MANAGER_DEMO_IMAGE names another image with python3.
    """
    from flow_manager.cli.demo_place import choose

    if runtime not in (None, "docker", "process"):
        raise typer.BadParameter("docker or process", param_hint="--runtime")
    out = Screen()
    out.line("flow-manager demo", "bold")
    try:
        place = choose(runtime, os.environ, lambda words: out.line(f"  {words}", "dim"))
    except LookupError as exc:
        complain(f"the demo can't run on docker: {exc}")
        raise typer.Exit(REFUSED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    out.line(f"runtime {place.runtime}: {place.reason}")
    raise typer.Exit(run(place, out))


def run(place: Place, out: Screen) -> int:
    """The exit status."""
    from flow_manager.cli.demo_steps import Demo
    from flow_manager.cli.serve import fast_loop
    from flow_manager.errors import SettingsRefused

    began = time.monotonic()

    async def work() -> tuple[str, str] | None:
        running = asyncio.current_task()
        assert running is not None
        # SIGTERM ends it as Ctrl-C does: the flow is deleted first.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        show = Demo(place, show_step=out.step, show_entry=out.entry, show_wake=out.wake)
        try:
            await show.run()
        except (Exception, SettingsRefused) as exc:
            reason = "the demo took too long" if isinstance(exc, TimeoutError) and not str(exc) else str(exc)
            return show.step, reason or type(exc).__name__
        return None

    try:
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            failed = runner.run(work())
    except (KeyboardInterrupt, asyncio.CancelledError):
        complain("ended early; what it had made was removed")
        return INTERRUPTED
    if failed is not None:
        out.failed(*failed)
        return REFUSED
    out.line(f"every step was seen, {time.monotonic() - began:.1f} s", "bold green")
    return 0


class Screen:
    """Rich where somebody looks, plain text elsewhere."""

    def __init__(self) -> None:
        self._console = console() if sys.stdout.isatty() else None

    def line(self, text: str, style: str = "") -> None:
        if self._console is None:
            print(clean(text).rstrip() if not text.startswith(" ") else "  " + clean(text).strip(), flush=True)
        else:
            from rich.text import Text

            self._console.print(Text(clean(text), style=style))

    def step(self, words: str, seconds: float) -> None:
        self.line(f"✓ {words}  ({_duration(seconds)})", "green")

    def failed(self, step: str, reason: str) -> None:
        self.line(f"✗ not seen: {step}", "bold red")
        self.line(f"  {reason}")

    def entry(self, entry: Activity) -> None:
        moment = entry.timestamp.astimezone().strftime("%H:%M:%S")
        self.line(f"    {moment}  {entry.type:<20} {entry.message}", "cyan")

    def wake(self, step: ContainerWakeEvent) -> None:
        moment = step.timestamp.astimezone().strftime("%H:%M:%S")
        self.line(f"    {moment}  {'wake: ' + step.type:<20} {step.message}", "yellow")


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
