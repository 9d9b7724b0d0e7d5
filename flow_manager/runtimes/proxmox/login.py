"""A runtime's settings as a client for its server."""

from __future__ import annotations

from flow_manager.runtimes.proxmox.client import PveClient
from flow_manager.runtimes.proxmox.transport import Login, parse_url
from flow_manager.settings.runtime import RuntimeSettings


def client_of(settings: RuntimeSettings) -> PveClient:
    """Not opened yet. :raises ValueError: the address is none (settings were checked before)."""
    login = Login(settings.token_id, settings.secret, client_user(settings), settings.password)
    verify: bool | str = str(settings.ca_file) if settings.ca_file is not None else settings.verify_tls
    return PveClient(parse_url(settings.url or ""), login, verify=verify, connect=settings.timeout)


def client_user(settings: RuntimeSettings) -> str | None:
    """`flow@pve`, of `flow` and its realm too."""
    if settings.user is None or "@" in settings.user:
        return settings.user
    return f"{settings.user}@{settings.realm}"
