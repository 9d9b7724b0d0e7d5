"""What single fields can't show: settings that contradict each other, or that their runtime's kind doesn't have."""

from __future__ import annotations

import ipaddress
from collections import Counter
from urllib.parse import urlsplit

from flow_manager.settings import declared
from flow_manager.settings.models import ChannelSettings, Settings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.hosts import parse_authority

BUILT_IN_RUNTIMES = ("docker", "process", "memory")
PROXMOX_ONLY = (
    "token_id", "secret", "user", "password", "realm", "verify_tls", "ca_file", "timeout", "interval", "pause",
    "nodes", "storage", "disk", "bridge", "pool", "emulated",
)  # fmt: skip
# Which settings of a runtime belong to which kinds.
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "url": ("docker", "proxmox"),
    "network": ("docker",),
    "remote": ("docker",),
    "adopt": ("docker", "proxmox"),
    "sockets_host_dir": ("docker",),
    "state_host_dir": ("docker",),
    "cgroup": ("process",),
    **dict.fromkeys(PROXMOX_ONLY, ("proxmox",)),
}


def contradictions(settings: Settings) -> list[str]:
    """One line a problem, each with the setting's name and the remedy; empty when all is well."""
    return [
        *_open_service(settings),
        *_tokens(settings),
        *_publish_address(settings),
        *_channel_tls(settings.channel),
        *channel_address(settings.channel),
        *_default_runtime(settings),
        *(line for name, runtime in settings.runtimes.items() for line in _runtime(name, runtime)),
        *declared.contradictions(settings),
    ]


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def kind_of(name: str, runtime: RuntimeSettings) -> str | None:
    return runtime.kind or (name if name in BUILT_IN_RUNTIMES else None)


def _open_service(settings: Settings) -> list[str]:
    if settings.auth.tokens or settings.auth.token_file or is_loopback(settings.host):
        return []
    return [
        f"host: {settings.host} is not a loopback address and there are no tokens, so anyone could run containers here: "
        "make one with `flow-manager token create` and put its lines into the settings file, or use 127.0.0.1"
    ]


def _tokens(settings: Settings) -> list[str]:
    names = Counter(token.name for token in settings.auth.tokens)
    hashes = Counter(token.hash for token in settings.auth.tokens)
    lines = [
        f"auth.tokens: the name '{name}' is used {count} times: give each its own"
        for name, count in names.items()
        if count > 1
    ]
    if any(count > 1 for count in hashes.values()):
        lines.append("auth.tokens: two entries have the same hash: who is meant could not be told")
    return lines


def _channel_tls(channel: ChannelSettings) -> list[str]:
    lines = []
    if channel.tls_listen is None:
        given = [n for n in ("tls_address", "tls_cert", "tls_key", "tls_ca") if getattr(channel, n) is not None]
        lines += [
            f"channel.{name}: means nothing without channel.tls_listen: give that, or leave this out" for name in given
        ]
    elif (channel.tls_cert is None) != (channel.tls_key is None):
        there, missing = ("tls_cert", "tls_key") if channel.tls_key is None else ("tls_key", "tls_cert")
        lines.append(f"channel.{missing}: is needed with channel.{there}; with neither, a certificate is made")
    elif channel.tls_ca is not None and channel.tls_cert is None:
        lines.append("channel.tls_ca: is who signed channel.tls_cert: give that too, or leave this out")
    return lines


def channel_address(channel: ChannelSettings) -> list[str]:
    """What flows would be told to connect to must be an address that is somewhere."""
    if channel.tls_listen is None:
        return []
    told, name = (channel.tls_address, "tls_address") if channel.tls_address else (channel.tls_listen, "tls_listen")
    address = parse_authority(told)
    if address is None:
        return [f"channel.{name}: {told!r} is no host:port"]
    if _is_wildcard(address.name):
        return [
            f"channel.{name}: no flow can connect to {address.name}; give in channel.tls_address the name or address by "
            "which other machines reach this one"
        ]
    return []


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _publish_address(settings: Settings) -> list[str]:
    try:
        ipaddress.ip_address(settings.policy.publish_address)
    except ValueError:
        return ["policy.publish_address: not an IP address: '127.0.0.1', or '0.0.0.0' for all"]
    return []


def _default_runtime(settings: Settings) -> list[str]:
    known = [*BUILT_IN_RUNTIMES, *(name for name in settings.runtimes if name not in BUILT_IN_RUNTIMES)]
    if settings.runtime is None or settings.runtime in known:
        return []
    return [
        f"runtime: no runtime '{settings.runtime}': there are {', '.join(known)}, or add [runtimes.{settings.runtime}]"
    ]


def _runtime(name: str, runtime: RuntimeSettings) -> list[str]:
    kind = kind_of(name, runtime)
    if kind is None:
        return [f"runtimes.{name}.kind: missing: docker, process, memory or proxmox"]
    return [
        *(
            f"runtimes.{name}.{setting}: a runtime of kind {kind} has no such setting ({' and '.join(wanted)} {'has' if len(wanted) == 1 else 'have'})"
            for setting, wanted in _ONLY_FOR.items()
            if setting in runtime.model_fields_set and kind not in wanted
        ),
        *(_proxmox(f"runtimes.{name}", runtime) if kind == "proxmox" else ()),
    ]


def _proxmox(where: str, runtime: RuntimeSettings) -> list[str]:
    lines = []
    if not is_server_url(runtime.url):
        lines.append(f"{where}.url: the server's address is needed: https://HOST:8006")
    by_token, by_password = (runtime.token_id, runtime.secret), (runtime.user, runtime.password)
    if any(by_token) and any(by_password):
        lines.append(f"{where}: token_id with secret, or user with password, not both")
    elif not all(by_token) and not all(by_password):
        lines.append(f"{where}: how to log in is missing: token_id and secret (or user and password)")
    if runtime.ca_file is not None and not runtime.verify_tls:
        lines.append(f"{where}.ca_file: has no meaning with verify_tls = false")
    if runtime.ca_file is not None and not runtime.ca_file.is_file():
        lines.append(f"{where}.ca_file: there is no file {runtime.ca_file}")
    return lines


def is_server_url(url: str | None) -> bool:
    try:
        parts = urlsplit(url or "")
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        return False
