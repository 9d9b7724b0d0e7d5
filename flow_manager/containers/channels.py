"""How a flow and the manager reach each other: a socket of its own here, or the TLS port for flows on other machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.containers.entry import FlowEntry

if TYPE_CHECKING:
    from flow_manager.containers.core import Core


async def open_channel(core: Core, entry: FlowEntry) -> None:
    """Be there for the flow before it runs. What others made has no channel.

    :raises SystemFailure: its socket can't be made. DiskFull where that is why.
    """
    if entry.record.adopted:
        return
    if entry.runtime.capabilities.local_socket:
        # In a container a program may be any user, on the host's side also one that the host does not know. Without one it
        # is this service's own.
        await core.channel.setup_socket(entry.id, own_user_only=not entry.runtime.capabilities.isolation)
    else:
        core.channel.expect_remote(entry.id)


def channel_folder(channel: SocketCommunicationHandler, entry: FlowEntry) -> Path | None:
    """The folder that is mounted into the flow; None for one on another machine."""
    return channel.folder(entry.id) if entry.runtime.capabilities.local_socket else None


def socket_path(channel: SocketCommunicationHandler, entry: FlowEntry) -> str | None:
    """None where it has none."""
    if entry.record.adopted or not entry.runtime.capabilities.local_socket:
        return None
    return str(channel.socket_path(entry.id))


def remote_variables(channel: SocketCommunicationHandler, entry: FlowEntry) -> Mapping[str, str]:
    """What it is told of its channel where that is on another machine; empty elsewhere."""
    if entry.record.adopted or entry.runtime.capabilities.local_socket:
        return {}
    return channel.remote_variables(entry.id)
