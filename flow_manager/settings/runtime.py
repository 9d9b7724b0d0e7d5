"""What can be set of one runtime, of whichever kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flow_manager.contract.fields import Seconds
from flow_manager.contract.proxmox import BridgeName, NodeName, PoolName, StorageName
from flow_manager.settings.base import SettingsModel


class RuntimeSettings(SettingsModel):
    """One runtime. What does not fit its kind is refused at start."""

    kind: Literal["docker", "process", "memory", "proxmox"] | None = Field(
        default=None, description="What it is; default: its name."
    )
    url: str | None = Field(
        default=None,
        description="docker: the engine's address; default DOCKER_HOST, else the usual socket. "
        "proxmox: https://HOST:8006 of any node of the cluster.",
    )
    remote: bool | None = Field(
        default=None,
        description="docker: the engine is on another machine: code is copied into flows, their channel is the TLS port, and "
        "their published ports are reached at the host of `url`. Default: when that is no loopback address, and neither "
        "sockets_host_dir nor state_host_dir is set. A proxy of this machine's socket: false.",
    )
    network: bool = Field(default=True, description="docker: join every flow to the network flow-manager-<instance>.")
    adopt: bool | None = Field(
        default=None,
        description="docker, proxmox: as the setting `adopt`, for this runtime alone; default: as that one.",
    )
    sockets_host_dir: Path | None = Field(default=None, description="docker: sockets_dir as the engine's host sees it.")
    state_host_dir: Path | None = Field(default=None, description="docker: state_dir as the engine's host sees it.")
    cgroup: Path | None = Field(
        default=None, description="process: a delegated cgroup v2 folder for limits; default: found when there is one."
    )
    token_id: Annotated[str, Field(pattern=r"^[^\s:/]+@[A-Za-z][A-Za-z0-9._-]*![A-Za-z][A-Za-z0-9._-]*$")] | None = (
        Field(default=None, description="proxmox: the API token's id, `flow@pve!manager`.")
    )
    secret: str | None = Field(default=None, repr=False, description="proxmox: the API token's secret.")
    user: str | None = Field(default=None, description="proxmox: a user's name, where there is no API token.")
    password: str | None = Field(default=None, repr=False, description="proxmox: that user's password.")
    realm: str = Field(default="pam", description="proxmox: that user's realm.")
    verify_tls: bool = Field(
        default=True, description="proxmox: whether the server's certificate is checked. Only off for a try-out."
    )
    ca_file: Path | None = Field(
        default=None, description="proxmox: the CA of the server's certificate (a copy of /etc/pve/pve-root-ca.pem)."
    )
    timeout: Seconds = Field(default=3, gt=0, description="proxmox: seconds in which a connection must come about.")
    interval: Seconds = Field(
        default=5, ge=1, description="proxmox: seconds between looks at all containers, one call for all of them."
    )
    pause: bool = Field(
        default=False,
        description="proxmox: allow `pause` by the server's experimental checkpoint (CRIU); it may lose a container's state.",
    )
    nodes: tuple[NodeName, ...] = Field(
        default=(), description="proxmox: nodes on which flows may be made; default: all that are online."
    )
    storage: StorageName = Field(default="local-lvm", description="proxmox: storage of the disks of new containers.")
    disk: int = Field(default=4, ge=1, description="proxmox: GiB of a new container's disk.")
    bridge: BridgeName = Field(default="vmbr0", description="proxmox: bridge of new containers.")
    pool: PoolName | None = Field(default=None, description="proxmox: resource pool of new containers.")
    emulated: bool = Field(
        default=False,
        description="proxmox: the server is an emulated one on this machine, whose containers have addresses of the loopback. "
        "Never for a genuine one: a container could send requests to this machine's own services.",
    )
