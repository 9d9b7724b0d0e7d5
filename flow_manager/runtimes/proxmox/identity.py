"""Which container is whose: ours by its lines, adopted by its tag or because a client named it, or nothing to us. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from flow_manager.runtimes.base import LABEL_ENABLE, LABEL_ID, LABEL_INSTANCE
from flow_manager.runtimes.proxmox.description import TAG
from flow_manager.util.ids import lxc_flow_id

# The number that the container had when it was made: a clone or a restored backup has the lines of the original, and
# another number. It must not pass for it.
LABEL_VMID = "flow-manager.vmid"
_NO = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Identity:
    flow_id: str
    adopted: bool


@dataclass(frozen=True, slots=True)
class Judge:
    """`runtime` is this runtime's configured name, `adopts` whether tagged containers of others are looked at."""

    runtime: str
    instance: str
    adopts: bool

    def identity(
        self, vmid: int, tags: Collection[str], labels: Mapping[str, str], *, claimed: bool
    ) -> Identity | None:
        """Of a container with these tags and lines; None: not to be touched. `claimed`: a client named it."""
        owner = labels.get(LABEL_INSTANCE, "")
        made_here = labels.get(LABEL_VMID) == str(vmid)
        if owner == self.instance and made_here and (own := labels.get(LABEL_ID)):
            return Identity(own, False)
        if owner not in ("", self.instance):
            return None
        if claimed:
            return Identity(self.derived(vmid), True)
        if not self.adopts or TAG not in tags or LABEL_ID in labels or labels.get(LABEL_ENABLE, "").lower() in _NO:
            return None
        return Identity(self.derived(vmid), True)

    def derived(self, vmid: int) -> str:
        """The flow's id of an adopted container: a vmid is its own for life, also on another node."""
        return lxc_flow_id(self.runtime, vmid)
