"""What a service says of itself: to a client that connects, to whoever asks over HTTP, and to the operator at its start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flow_manager import __version__
from flow_manager.contract import CONTRACT_VERSION
from flow_manager.contract.principal import Principal
from flow_manager.runtimes.base import Runtime
from flow_manager.settings.models import Settings


def about(instance: str) -> dict[str, Any]:
    return {"name": "flow-manager", "version": __version__, "contract": CONTRACT_VERSION, "instance": instance}


def hello(principal: Principal, *, instance: str, stream: str, runtimes: Mapping[str, Runtime]) -> dict[str, Any]:
    """The server event `hello`. `stream`: of the activity log."""
    return {
        "version": __version__,
        "contract": CONTRACT_VERSION,
        "instance": instance,
        "stream": stream,
        "principal": principal.name,
        "tenant": principal.tenant,
        "scopes": sorted(principal.scopes),
        "runtimes": {
            name: {"kind": runtime.kind, "capabilities": runtime.capabilities.as_dict()}
            for name, runtime in runtimes.items()
        },
    }


def summary(
    settings: Settings, *, url: str, instance: str, runtime: str, kind: str, proxy_port: int, channel_url: str
) -> list[str]:
    """What an operator should know at once. `runtime`, `kind`: the default one's; `proxy_port`: 0 where it is switched off."""
    mode = "tokens" if settings.auth.tokens else "open mode (this machine only)"
    lines = [f"flow-manager {__version__} on {url} · runtime {runtime} · instance {instance} · {mode}"]
    if settings.auth.token_file is not None:
        lines.append(f"the token is in {settings.auth.token_file}")
    if proxy_port:
        domains = ", ".join(f"http://<name>.{domain}:{proxy_port}" for domain in settings.proxy.domains)
        lines.append(f"flows are served, and woken, at {domains}")
    if channel_url:
        lines.append(f"flows on other machines reach their channel at {channel_url}")
    if kind == "process" and settings.runtime is None:
        lines.append("no Docker engine answers, so flows are local processes; `flow-manager doctor` says why")
    if kind == "process":
        lines.append("the process runtime isolates nothing: its flows can do whatever this user can")
    return lines


def shown(host: str) -> str:
    """An address that a client on this machine can use."""
    return f"[{host}]" if ":" in host else {"0.0.0.0": "127.0.0.1"}.get(host, host)  # noqa: S104
