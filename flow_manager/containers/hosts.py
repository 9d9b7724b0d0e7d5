"""Under which hosts a flow may be served: one host, one flow, and the first that asked for it keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_manager.containers.entry import FlowEntry

if TYPE_CHECKING:
    from flow_manager.containers.core import Core


def host_is_taken(core: Core, host: str, own_name: str | None, own: FlowEntry | None = None) -> bool:
    """Whether another flow, of whichever tenant, is served under it: as one of its hosts, or as `<name>.<domain>`."""
    holder = core.table.serving(host)
    if holder is not None:
        return holder is not own
    label, _, domain = host.partition(".")
    return domain in core.settings.proxy.domains and label != own_name and core.table.names(label)
