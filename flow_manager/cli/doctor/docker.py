"""The Docker engine: reachable, new enough, and set up so that flows survive its restart."""

from __future__ import annotations

import grp
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_manager.cli.doctor.finding import Finding, ok, problem, warning
from flow_manager.cli.doctor.flows import declared
from flow_manager.cli.doctor.labels import labels
from flow_manager.cli.engine import OLDEST_API, Engine, EngineSaid, api_version, candidates

if TYPE_CHECKING:
    from flow_manager.settings.models import FlowSettings

ABOUT = "Docker"


def docker(
    environ: Mapping[str, str], *, configured: str | None, needed: bool, flows: Sequence[FlowSettings] = ()
) -> list[Finding]:
    """`needed`: docker is the runtime that was asked for, so its absence is a problem and not only a remark. `flows`: the
    containers that it should have."""
    return [
        finding
        for address in candidates(environ, configured)
        for finding in _engine(Engine(address), environ, needed, flows)
    ]


def _engine(engine: Engine, environ: Mapping[str, str], needed: bool, flows: Sequence[FlowSettings]) -> list[Finding]:
    absent = problem if needed else warning
    try:
        version = engine.get("/version")
        info = engine.get("/info", timeout=10.0)
    except PermissionError:
        return [absent(ABOUT, f"{engine.address} may not be used by this user", _permission(engine.address))]
    except FileNotFoundError:
        return [absent(ABOUT, f"there is no {engine.address}", _absence(environ))]
    except ConnectionRefusedError:
        return [absent(ABOUT, f"nothing listens at {engine.address}", "start it: systemctl start docker")]
    except TimeoutError:
        return [absent(ABOUT, f"{engine.address} hangs", "systemctl restart docker; see its log: journalctl -u docker")]
    except (OSError, ValueError, EngineSaid) as exc:
        return [absent(ABOUT, f"{engine.address} gives no proper answer: {exc}", "is DOCKER_HOST right?")]
    if not isinstance(version, dict) or not isinstance(info, dict):
        return [absent(ABOUT, f"what answers at {engine.address} is no Docker engine", "is DOCKER_HOST right?")]
    return [*judged(engine, version, info), *labels(engine), *declared(engine, flows)]


def judged(engine: Engine, version: Mapping[str, Any], info: Mapping[str, Any]) -> list[Finding]:
    """What the engine says of itself. Pure."""
    api = str(version.get("ApiVersion", "0"))
    name = f"engine {version.get('Version', '?')}, API {api}"
    if api_version(api) < OLDEST_API:
        wanted = ".".join(map(str, OLDEST_API))
        return [problem(ABOUT, f"{name} is too old", f"API {wanted} (engine 20.10) or newer is needed")]
    found = [ok(ABOUT, f"{name} answers at {engine.address}, storage {info.get('Driver', '?')}")]
    if not info.get("LiveRestoreEnabled"):
        found.append(
            warning(
                ABOUT,
                "live-restore is off: a restart of the engine ends every flow",
                'put {"live-restore": true} into /etc/docker/daemon.json and reload it: systemctl reload docker',
            )
        )
    if info.get("Driver") == "vfs":
        found.append(warning(ABOUT, "storage driver vfs copies whole images", "use overlay2"))
    options = [str(item) for item in info.get("SecurityOptions") or []]
    if any("rootless" in item for item in options):
        found.append(ok(ABOUT, "rootless: memory, cpu and pids limits need cgroup v2 with delegation"))
    if any("userns" in item for item in options):
        found.append(
            warning(ABOUT, "user namespaces are remapped", "volumes and code must be readable for the mapped user")
        )
    found += [warning(ABOUT, f"the engine warns: {line}", "see the engine's documentation") for line in _limits(info)]
    count = info.get("Images")
    if count == 0:
        found.append(
            warning(
                ABOUT, "the engine has no image", "docker pull python:3-alpine, or let the first create pull its own"
            )
        )
    return found


def _limits(info: Mapping[str, Any]) -> list[str]:
    wanted = ("memory limit", "pids limit", "cpu cfs")
    return [str(line) for line in info.get("Warnings") or [] if any(word in str(line).lower() for word in wanted)]


def _permission(address: str) -> str:
    path = Path(address.removeprefix("unix://"))
    try:
        group = grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        group = "docker"
    return f"join its group and log in again: sudo usermod -aG {group} $USER (its members are root in effect)"


def _absence(environ: Mapping[str, str]) -> str:
    rootless = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "docker.sock"
    if rootless.exists():
        return f"a rootless engine is there: export DOCKER_HOST=unix://{rootless}"
    return "install Docker, or set DOCKER_HOST; without it flows run as local processes (--runtime process)"
