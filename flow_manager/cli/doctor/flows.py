"""Containers that settings name (`[[flows]]`): is each of them there?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from flow_manager.cli.doctor.finding import Finding, ok, warning
from flow_manager.cli.engine import Engine, EngineSaid

if TYPE_CHECKING:
    from flow_manager.settings.models import FlowSettings, Settings

ABOUT = "flows"
MEND = "it is managed as soon as there is one; else mend `container` in [[flows]]"
ANOTHERS = "its label flow-manager.instance decides; take it out of [[flows]]"


def on_docker(settings: Settings) -> list[FlowSettings]:
    """Those that a Docker engine should have."""
    from flow_manager.settings.checks import kind_of
    from flow_manager.settings.runtime import RuntimeSettings

    def kind(name: str) -> str | None:
        return kind_of(name, settings.runtimes.get(name, RuntimeSettings()))

    default = settings.runtime or "docker"
    return [flow for flow in settings.flows if flow.container is not None and kind(flow.runtime or default) == "docker"]


def declared(engine: Engine, flows: Sequence[FlowSettings]) -> list[Finding]:
    found: list[Finding] = []
    for flow in flows:
        try:
            seen = engine.get(f"/containers/{quote(flow.place, safe='')}/json")
        except EngineSaid as exc:
            text = f"there is no container {flow.place}" if exc.status == 404 else f"{flow.place}: {exc}"
            found.append(warning(ABOUT, text, MEND))
        except (OSError, ValueError) as exc:
            found.append(warning(ABOUT, f"{flow.place} can't be looked at: {exc}", "see the findings on Docker"))
        else:
            labels = (seen.get("Config") or {}).get("Labels") or {} if isinstance(seen, dict) else {}
            if "flow-manager.id" in labels:
                found.append(warning(ABOUT, f"{flow.place} is a flow that a manager made", ANOTHERS))
    if flows and not found:
        found.append(ok(ABOUT, f"the {len(flows)} container(s) that settings name are there"))
    return found
