"""Python, open files, cgroups, the port, and the service that may be running."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

from flow_manager.cli.doctor.finding import Finding, ok, problem, warning
from flow_manager.settings.models import Settings
from flow_manager.util.hosts import parse_authority

OLDEST_PYTHON = (3, 11)
# Each client and each flow takes a descriptor; below this a few hundred of them are too many.
FEW_FILES = 4096
CGROUPS = Path("/sys/fs/cgroup")
NEEDED_CONTROLLERS = {"memory", "cpu", "pids"}
SERVICE_TIMEOUT = 5.0


def python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return [problem("Python", f"{version} is too old", "3.11 or newer is needed")]
    found = [ok("Python", f"{version} at {sys.executable}")]
    try:
        import uvloop  # noqa: F401
    except ImportError:
        found.append(
            warning(
                "Python",
                "uvloop is not installed: events cost about a quarter more",
                "pip install 'flow-manager[fast]'",
            )
        )
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES:
        found.append(warning("open files", f"at most {soft}", "ulimit -n 65536, or LimitNOFILE= in the systemd unit"))
    return found


def cgroups(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> list[Finding]:
    """Limits of process flows need a cgroup v2 of this user's own."""
    about = "process runtime"
    refused = "flows run, but memory, cpu and pids limits are answered with `unsupported`"
    if not (root / "cgroup.controllers").exists():
        return [
            warning(
                about,
                f"no cgroup v2 at {root}: {refused}",
                "boot with systemd.unified_cgroup_hierarchy=1, or use docker",
            )
        ]
    try:
        here = next(line for line in own.read_text().splitlines() if line.startswith("0::")).removeprefix("0::")
        folder = root / here.lstrip("/")
        controllers = set((folder / "cgroup.controllers").read_text().split())
    except (OSError, StopIteration) as exc:
        return [
            warning(
                about, f"the own cgroup can't be read ({type(exc).__name__}): {refused}", "set runtimes.process.cgroup"
            )
        ]
    if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.subtree_control", os.W_OK):
        return [
            warning(
                about,
                f"{folder} is not delegated to this user: {refused}",
                "systemd-run --user --scope -p Delegate=yes flow-manager serve",
            )
        ]
    if missing := NEEDED_CONTROLLERS - controllers:
        return [
            warning(
                about, f"cgroup v2 without {', '.join(sorted(missing))}: {refused}", "Delegate=yes in the systemd unit"
            )
        ]
    return [ok(about, "limits are possible: a delegated cgroup v2 is here")]


def ports(settings: Settings) -> list[Finding]:
    """All that `serve` would listen on, each by its setting."""
    wanted = [("port", settings.host, settings.port)]
    if settings.proxy.enabled:
        wanted.append(("proxy_port", settings.proxy_host, settings.proxy_port))
    named = [("tcp_routes", route.listen) for route in settings.tcp_routes]
    if settings.channel.tls_listen is not None:
        named.append(("channel.tls_listen", settings.channel.tls_listen))
    for about, where in named:
        if (address := parse_authority(where)) is not None:
            wanted.append((about, address.name, address.port or 0))
    return [finding for about, host, number in wanted for finding in port(host, number, about=about)]


def port(host: str, number: int, *, about: str = "port") -> list[Finding]:
    if number == 0:
        return []
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as exc:
        return [
            problem(
                about,
                f"{host}:{number} can't be listened on ({exc.strerror or exc})",
                f"stop what uses it, or give another {about}",
            )
        ]
    return [ok(about, f"{host}:{number} is free")]


def service(url: str) -> list[Finding]:
    """The running service, where there is one, and what it says of its own readiness."""
    about = "service"
    # No proxy: a service on loopback is not reached through one, and http_proxy would send the request away.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=SERVICE_TIMEOUT) as answer:  # the URL was judged: http or https
            answer.read(65536)
    except urllib.error.HTTPError as exc:
        with exc:
            return [
                problem(
                    about,
                    f"{url} is not ready: {_detail(exc.read(65536), exc.code)}",
                    "see its log, and the findings above",
                )
            ]
    except (OSError, ValueError):
        return [ok(about, f"none is running at {url}")]
    return [ok(about, f"{url} is ready")]


def _detail(body: bytes, status: int) -> str:
    try:
        said = json.loads(body)
        return str(said.get("detail") or said.get("message") or f"HTTP {status}")
    except (ValueError, AttributeError):
        return f"HTTP {status}"
