"""Choosing and checking ports of this host."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable

from flow_manager.errors import PortInUse, StartFailed
from flow_manager.runtimes.base import PortBinding

# The system hands out free ports at random: one that a flow of ours has been promised, and has not taken yet, comes up
# again with a chance of one in thousands.
ATTEMPTS = 20
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def choose_ports(bindings: Iterable[PortBinding], *, promised: Collection[int], kind: str) -> dict[str, int]:
    """`container_port/protocol` → host port: the asked-for one if it is free, any free one for 0.

    `promised`: ports of flows that run, whether they listen yet or not. A port is only looked at, not held: another
    program may take it before the flow does, which then is for the flow to say.

    :raises PortInUse: a host port is taken.
    :raises StartFailed: it cannot be had for another reason (a privileged port, an address that is not this host's).
    """
    chosen: dict[str, int] = {}
    for binding in bindings:
        taken = {*promised, *chosen.values()}
        chosen[f"{binding.container_port}/{binding.protocol}"] = _choose(binding, taken, kind)
    return chosen


def _choose(binding: PortBinding, taken: Collection[int], kind: str) -> int:
    if binding.host_port in taken:
        raise _in_use(binding.host_port, kind)
    for _ in range(ATTEMPTS):
        port = _probe(binding, kind)
        if port not in taken:
            return port
    raise StartFailed("no free port was found", reason="no free port was found")


def _probe(binding: PortBinding, kind: str) -> int:
    family = socket.AF_INET6 if ":" in binding.host_ip else socket.AF_INET
    try:
        with socket.socket(family, _KINDS[binding.protocol]) as probe:
            if binding.protocol == "tcp":
                # Connections of an earlier run in TIME_WAIT do not make a port taken.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((binding.host_ip, binding.host_port))
            port: int = probe.getsockname()[1]
            return port
    except KeyError:
        reason = f"{binding.protocol} ports are not known here"
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE and binding.host_port:
            raise _in_use(binding.host_port, kind) from None
        reason = f"port {binding.host_port} on {binding.host_ip}: {exc.strerror or exc}"
    raise StartFailed(reason, reason=reason)


def _in_use(port: int, kind: str) -> PortInUse:
    return PortInUse(f"host port {port} is in use", kind=kind, port=port)
