"""Where and of what a flow on Proxmox VE is made (wire contract, section 6: `proxmox` of a ContainerConfig)."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Proxmox VE's own formats: pve-node, pve-storage-id, pve-poolid, a bridge as the kernel takes it. Names go into paths of
# its API, so nothing else may ever be in one.
NodeName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$")]
StorageName = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_.-]{0,98}[a-zA-Z0-9]$")]
PoolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){0,2}$")]
BridgeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
# `local:vztmpl/debian-12.tar.zst`, or the file's name alone. The API takes 255 characters.
TemplateName = Annotated[
    str, Field(pattern=r"^([a-zA-Z][a-zA-Z0-9_.-]*:vztmpl/)?[A-Za-z0-9][A-Za-z0-9_.+~-]*$", max_length=255)
]
Vmid = Annotated[int, Field(ge=100, le=999_999_999)]


class ProxmoxOptions(BaseModel):
    """`vmid` manages an existing container as it is; `template` and `clone` say what a new one is made of.

    `disk` in GiB. `ip` is an address with its prefix length, or `dhcp`. What is left out comes from the runtime's settings.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    node: NodeName | None = None
    vmid: Vmid | None = None
    template: TemplateName | None = None
    clone: Vmid | None = None
    storage: StorageName | None = None
    disk: Annotated[int, Field(ge=1, le=65536)] | None = None
    bridge: BridgeName | None = None
    ip: str | None = None
    gateway: str | None = None
    vlan: Annotated[int, Field(ge=1, le=4094)] | None = None
    pool: PoolName | None = None
    full: bool | None = None
    nesting: bool | None = None

    @field_validator("ip")
    @classmethod
    def _ip(cls, ip: str | None) -> str | None:
        if ip is not None and ip != "dhcp":
            if "/" not in ip:
                raise ValueError("an address with its prefix length (10.0.0.5/24), or 'dhcp'")
            ipaddress.IPv4Interface(ip)
        return ip

    @field_validator("gateway")
    @classmethod
    def _gateway(cls, gateway: str | None) -> str | None:
        if gateway is not None:
            ipaddress.IPv4Address(gateway)
        return gateway

    @model_validator(mode="after")
    def _one_origin(self) -> ProxmoxOptions:
        named = [name for name in ("vmid", "template", "clone") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)}: only one of them")
        if self.vmid is not None:
            others = self.model_fields_set - {"vmid", "node"}
            if rest := sorted(name for name in others if getattr(self, name) is not None):
                raise ValueError(f"{', '.join(rest)}: an existing container is left as it is")
        if self.gateway is not None and self.ip in (None, "dhcp"):
            raise ValueError("gateway: only with an ip of its own")
        return self
