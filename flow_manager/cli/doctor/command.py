"""doctor: every check in turn. It works without a service, and says more where one runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flow_manager.cli.doctor.finding import Finding, ok, problem, warning, worst
from flow_manager.cli.options import Json, Token, Url, target
from flow_manager.cli.output import STATE_STYLE, clean, console, print_json


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings as `serve` gets them.")
    ] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Settings as `serve` gets them.")] = None,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", metavar="FOLDER", help="Likewise.")] = None,
    sockets_dir: Annotated[Path | None, typer.Option("--sockets-dir", metavar="FOLDER", help="Likewise.")] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong here, and how to mend it.

    Looks at Docker, Proxmox VE, sockets, store, labels and settings, with or without a running service. Exit status 1 for a problem.
    """
    goal = target(context, url, token, as_json)
    findings = examine(goal.url, config, {"runtime": runtime, "state_dir": state_dir, "sockets_dir": sockets_dir})
    if goal.as_json:
        print_json({"result": worst(findings), "findings": [finding.as_dict() for finding in findings]})
    else:
        show(findings)
    raise typer.Exit(1 if worst(findings) == "problem" else 0)


def examine(url: str, config: Path | None, flags: dict[str, object]) -> list[Finding]:
    from flow_manager.cli.doctor import folders, machine
    from flow_manager.cli.doctor.channel import channel
    from flow_manager.cli.doctor.docker import docker
    from flow_manager.cli.doctor.elsewhere import elsewhere
    from flow_manager.cli.doctor.flows import on_docker
    from flow_manager.cli.doctor.proxmox import proxmox
    from flow_manager.client.wire import checked_url
    from flow_manager.errors import SettingsRefused
    from flow_manager.settings.load import load_with_notes

    found = machine.python()
    try:
        url = checked_url(url)
    except ValueError as exc:
        return [*found, problem("service", str(exc), "give another --url")]
    try:
        loaded = load_with_notes(flags, os.environ, config)
    except SettingsRefused as refused:
        mend = "mend them; the other checks need them: docs/reference/settings.md"
        return [*found, problem("settings", str(refused), mend), *machine.service(url)]
    settings = loaded.settings
    found.append(
        ok("settings", f"read from {loaded.config_file}" if loaded.config_file else "defaults and environment")
    )
    found += [warning("settings", note, "give --sockets-dir") for note in loaded.notes]
    running = folders.lock_holder(settings.state_dir) is not None
    found += folders.state(settings.state_dir)
    found += folders.sockets(settings.sockets_dir, running=running)
    configured = settings.runtimes["docker"].url if "docker" in settings.runtimes else None
    wanted = on_docker(settings)
    needed = "docker" in (settings.runtime, *settings.runtimes) or bool(wanted)
    found += docker(os.environ, configured=configured, needed=needed, flows=wanted)
    found += elsewhere(settings, os.environ)
    found += proxmox(settings)
    found += channel(settings)
    found += machine.cgroups()
    if not running:  # it holds them itself
        found += machine.ports(settings)
    return [*found, *machine.service(url)]


def show(findings: list[Finding]) -> None:
    out = console() if sys.stdout.isatty() else None
    for finding in findings:
        lines = [clean(line) for line in finding.text.splitlines()]
        rest = [f"             {line}" for line in lines[1:]]
        if finding.mend:
            rest.append(f"             → {clean(finding.mend)}")
        if out is None:
            print("\n".join([f"{finding.level:<8} {finding.about}: {lines[0]}", *rest]), flush=True)
            continue
        from rich.text import Text

        out.print(Text.assemble((f"{finding.level:<8}", STATE_STYLE[finding.level]), f" {finding.about}: {lines[0]}"))
        for line in rest:
            out.print(Text(line, style="dim"))
