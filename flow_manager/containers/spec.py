"""What a runtime gets for a flow: its config, judged by the policy, with what is the manager's own."""

from __future__ import annotations

from flow_manager.containers.channels import channel_folder, remote_variables
from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.runtimes.base import FlowSpec


def spec_of(core: Core, entry: FlowEntry, *, code: bool) -> FlowSpec:
    """`code`: its code's folder is mounted.

    :raises PathNotAllowed, ImageNotAllowed, NotAllowed, Unsupported, InvalidRequest: settings don't allow it (any more).
    """
    return core.policy.spec(
        entry.config,
        flow_id=entry.id,
        name=entry.record.name,
        tenant=entry.record.tenant,
        runtime=entry.runtime,
        channel_folder=channel_folder(core.channel, entry),
        channel_variables=remote_variables(core.channel, entry),
        code_folder=core.code.folder(entry.id) if code else None,
    )
