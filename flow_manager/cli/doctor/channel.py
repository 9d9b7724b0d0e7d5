"""The channel of flows on other machines: whether those that will be made there can reach this manager at all."""

from __future__ import annotations

from flow_manager.cli.doctor.finding import Finding, ok, warning
from flow_manager.settings.models import Settings

# Kinds whose flows can't see this machine's sockets (their capability `local_socket` is false).
ELSEWHERE = frozenset({"proxmox"})


def channel(settings: Settings) -> list[Finding]:
    """Nothing, where all flows run on this machine."""
    names = [name for name, runtime in settings.runtimes.items() if (runtime.kind or name) in ELSEWHERE]
    if not names:
        return []
    if settings.channel.tls_listen is None:
        text = (
            f"flows that are made on {', '.join(names)} run on another machine and will have no channel: "
            "no messages, no status of their own (containers that are there already need none)"
        )
        return [
            warning(
                "channel", text, "set channel.tls_listen before they are made: docs/how-to/flows-on-other-machines.md"
            )
        ]
    told = settings.channel.tls_address or settings.channel.tls_listen
    if told.startswith(("127.", "localhost:", "[::1]")):
        text = f"flows on {', '.join(names)} are told to connect to {told}, which is their own machine"
        return [warning("channel", text, "set channel.tls_address to an address that they can reach")]
    return [ok("channel", f"flows on {', '.join(names)} are told to connect to {told}")]
