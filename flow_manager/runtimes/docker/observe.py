"""What the engine's `inspect` says, as an Observation. Pure, and never surprised: engines leave fields out or make them null."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from flow_manager.contract.models import ContainerHealth, ContainerState
from flow_manager.runtimes.base import LABEL_ID, LABEL_NAME, Observation
from flow_manager.runtimes.docker.identity import Identity

STATES: frozenset[str] = frozenset(get_args(ContainerState))
HEALTHS: frozenset[str] = frozenset(get_args(ContainerHealth))
OWN_NETWORK_PREFIX = "flow-manager-"


def observe(data: Any, identity: Identity | None = None) -> Observation:
    """`GET /containers/{id}/json` → Observation. `identity`: whose it was judged to be; None: ours, by its own label.

    :raises ValueError: when it is not a container of a flow (no `flow-manager.id` label).
    """
    labels = labels_of(data)
    whose = identity or Identity(labels.get(LABEL_ID, ""), False)
    if not whose.flow_id:
        raise ValueError("a container without the label of a flow")
    own_name = name_of(data)
    state = state_of(data)
    ended = state in ("exited", "dead")
    return Observation(
        id=whose.flow_id,
        runtime_id=text(dig(data, "Id")) or None,
        name=own_name if whose.adopted else labels.get(LABEL_NAME) or own_name,
        state=state,
        health=health_of(data),
        exit_code=whole(dig(data, "State", "ExitCode")) if ended else None,
        error=text(dig(data, "State", "Error")) or None,
        started_at=parse_time(dig(data, "State", "StartedAt")),
        created_at=parse_time(dig(data, "Created")),
        image=text(dig(data, "Config", "Image")),
        ports=ports_of(data),
        addresses=addresses_of(data),
        labels=labels,
        oom_killed=dig(data, "State", "OOMKilled") is True,
        adopted=whose.adopted,
        published=published_of(data) if whose.adopted else {},
        environment=environment_of(data) if whose.adopted else {},
        exposed=exposed_of(data),
    )


def dig(data: Any, *path: str) -> Any:
    """The value at `path`, None where anything on the way is missing or no object."""
    for key in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(key)
    return data


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def labels_of(data: Any) -> dict[str, str]:
    found = dig(data, "Config", "Labels")
    if not isinstance(found, Mapping):
        return {}
    return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}


def name_of(data: Any) -> str:
    """The container's own name, as an inspect tells it."""
    return text(dig(data, "Name")).lstrip("/")


def environment_of(data: Any) -> dict[str, str]:
    """What it was made with, the image's own variables included."""
    found = dig(data, "Config", "Env")
    pairs = (item.partition("=") for item in (found if isinstance(found, list) else ()) if isinstance(item, str))
    return {name: value for name, equals, value in pairs if name and equals}


def published_of(data: Any) -> dict[str, int]:
    """`80/tcp` → the host port that was asked for, 0 for any: known also while the container does not run."""
    found = dig(data, "HostConfig", "PortBindings")
    ports: dict[str, int] = {}
    for key, bindings in found.items() if isinstance(found, Mapping) else ():
        for binding in bindings if isinstance(bindings, list) else ():
            number = text(dig(binding, "HostPort"))
            port = int(number) if number.isascii() and number.isdigit() else 0
            ports.setdefault(str(key), port if port <= 65535 else 0)
    return ports


def state_of(data: Any) -> ContainerState:
    status = text(dig(data, "State", "Status"))
    if status in STATES:
        return status  # type: ignore[return-value]
    # A word that is not known yet: what it holds says whether it runs.
    return "running" if dig(data, "State", "Running") is True else "exited"


def health_of(data: Any) -> ContainerHealth:
    status = text(dig(data, "State", "Health", "Status"))
    return status if status in HEALTHS else "none"  # type: ignore[return-value]


def ports_of(data: Any) -> dict[str, int]:
    """`80/tcp` → the host's port. With one binding for IPv4 and one for IPv6 the first counts; unpublished ones are left out."""
    found = dig(data, "NetworkSettings", "Ports")
    ports: dict[str, int] = {}
    if not isinstance(found, Mapping):
        return ports
    for key, bindings in found.items():
        for binding in bindings if isinstance(bindings, list) else ():
            number = text(dig(binding, "HostPort"))
            if isinstance(key, str) and number.isascii() and number.isdigit() and 1 <= int(number) <= 65535:
                ports.setdefault(key, int(number))
    return ports


def exposed_of(data: Any) -> tuple[int, ...]:
    """The TCP ports of `Config.ExposedPorts`, lowest first: `{"80/tcp": {}}`."""
    found = dig(data, "Config", "ExposedPorts")
    if not isinstance(found, Mapping):
        return ()
    numbers = [key.removesuffix("/tcp") for key in found if isinstance(key, str) and key.endswith("/tcp")]
    return tuple(sorted({int(n) for n in numbers if n.isascii() and n.isdigit() and 1 <= int(n) <= 65535}))


def addresses_of(data: Any) -> tuple[str, ...]:
    """All addresses on all networks, those on the flows' own network first: that one the manager can reach."""
    networks = dig(data, "NetworkSettings", "Networks")
    if not isinstance(networks, Mapping):
        return ()
    ordered = sorted(networks.items(), key=lambda item: not str(item[0]).startswith(OWN_NETWORK_PREFIX))
    found = [text(dig(network, key)) for _, network in ordered for key in ("IPAddress", "GlobalIPv6Address")]
    return tuple(dict.fromkeys(address for address in found if address))


def parse_time(value: Any) -> datetime | None:
    """RFC 3339 with up to nine digits → aware UTC; None for Go's zero time (year 1) and for what is no time."""
    if not isinstance(value, str) or value.startswith("0001-"):
        return None
    head, dot, rest = value.partition(".")
    if dot:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        value = f"{head}.{digits[:6].ljust(6, '0')}{rest[len(digits) :]}"
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return None
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
