"""The options of a container's configuration, and what else the methods with many parameters take."""

from __future__ import annotations

from collections.abc import Mapping

from tests.pve.schema import Param

TEXT = Param()
FLAG = Param("boolean")
VMID = Param("integer", True, 100, 999999999, format="pve-vmid")
NODE = Param(required=True, format="pve-node")
STORAGE = Param(required=True, format="pve-storage-id")
WHERE: Mapping[str, Param] = {"node": NODE, "vmid": VMID}
IDMAP = r"(?:passthrough|[ug]:[0-9]+:[0-9]+:[1-9][0-9]*(?:;[ug]:[0-9]+:[0-9]+:[1-9][0-9]*)*)"
MOUNT = r"(discard|lazytime|noatime|nodev|noexec|nosuid)"
PRINTABLE = r"[^\x00-\x08\x0a-\x1F\x7F]"
ARCHES = ("amd64", "i386", "arm64", "armhf", "riscv32", "riscv64")
SYSTEMS = (
    *("debian", "devuan", "ubuntu", "centos", "fedora", "opensuse"),
    *("archlinux", "alpine", "gentoo", "nixos", "unmanaged"),
)
LOCKS = (
    *("backup", "create", "destroyed", "disk", "fstrim", "migrate"),
    *("mounted", "rollback", "snapshot", "snapshot-delete"),
)
NET: Mapping[str, Param] = {
    "name": Param(required=True, pattern=r"[-_.\w\d]+"),
    "bridge": Param(pattern=r"[-_.\w\d]+"),
    "firewall": FLAG,
    "gw": Param(format="ipv4"),
    "gw6": Param(format="ipv6"),
    "host-managed": FLAG,
    "hwaddr": Param(format="mac-addr"),
    "ip": Param(format="pve-ipv4-config"),
    "ip6": Param(format="pve-ipv6-config"),
    "link_down": FLAG,
    "mtu": Param("integer", minimum=64, maximum=65535),
    "rate": Param("number"),
    "tag": Param("integer", minimum=1, maximum=4094),
    "trunks": Param(pattern=r"\d+(?:;\d+)*"),
    "type": Param(enum=("veth",)),
}
ROOTFS: Mapping[str, Param] = {
    "volume": Param(required=True, format="pve-lxc-mp-string", default_key=True),
    "acl": FLAG,
    "idmap": Param(pattern=IDMAP),
    "mountoptions": Param(pattern=rf"{MOUNT}(;{MOUNT})*"),
    "quota": FLAG,
    "replicate": FLAG,
    "ro": FLAG,
    "shared": FLAG,
    "size": Param(format="disk-size"),
}
MOUNT_POINT: Mapping[str, Param] = {
    **ROOTFS,
    "mp": Param(required=True, format="pve-lxc-mp-string"),
    "backup": FLAG,
    "keepattrs": FLAG,
}
DEVICE: Mapping[str, Param] = {
    "path": Param(format="pve-lxc-dev-string", default_key=True),
    "deny-write": FLAG,
    "gid": Param("integer", minimum=0),
    "mode": Param(pattern="0[0-7]{3}"),
    "uid": Param("integer", minimum=0),
}
FEATURES: Mapping[str, Param] = {
    "nesting": FLAG,
    "keyctl": FLAG,
    "fuse": FLAG,
    "mknod": FLAG,
    "force_rw_sys": FLAG,
    "mount": Param(pattern="[a-zA-Z0-9_; ]+"),
}
CONFIG: Mapping[str, Param] = {
    "arch": Param(enum=ARCHES),
    "cmode": Param(enum=("shell", "console", "tty")),
    "console": FLAG,
    "cores": Param("integer", minimum=1, maximum=8192),
    "cpulimit": Param("number", minimum=0, maximum=8192),
    "cpuunits": Param("integer", minimum=0, maximum=500000),
    "debug": FLAG,
    "description": Param(longest=8192),
    "dev[n]": Param(format=DEVICE),
    "entrypoint": Param(pattern=rf"{PRINTABLE}+"),
    "env": Param(pattern=rf"(?:\w+={PRINTABLE}*)(?:\0\w+={PRINTABLE}*)*"),
    "features": Param(format=FEATURES),
    "hookscript": Param(format="pve-volume-id"),
    "hostname": Param(longest=255, format="dns-name"),
    "lock": Param(enum=LOCKS),
    "memory": Param("integer", minimum=16),
    "mp[n]": Param(format=MOUNT_POINT),
    "nameserver": Param(format="lxc-ip-with-ll-iface-list"),
    "net[n]": Param(format=NET),
    "onboot": FLAG,
    "ostype": Param(enum=SYSTEMS),
    "protection": FLAG,
    "rootfs": Param(format=ROOTFS),
    "searchdomain": Param(format="dns-name-list"),
    "startup": Param(format="pve-startup-order"),
    "swap": Param("integer", minimum=0),
    "tags": Param(format="pve-tag-list"),
    "template": FLAG,
    "timezone": Param(format="pve-ct-timezone"),
    "tty": Param("integer", minimum=0, maximum=6),
    "unprivileged": FLAG,
    "unused[n]": Param(format={"volume": Param(required=True, format="pve-volume-id", default_key=True)}),
}
UPDATE: Mapping[str, Param] = {
    **WHERE,
    **CONFIG,
    "delete": Param(format="pve-configid-list"),
    "digest": Param(longest=40),
    "revert": Param(format="pve-configid-list"),
}
CREATE: Mapping[str, Param] = {
    **WHERE,
    **CONFIG,
    "bwlimit": Param("number", minimum=0),
    "force": FLAG,
    "ha-managed": FLAG,
    "ignore-unpack-errors": FLAG,
    "ostemplate": Param(required=True, longest=255),
    "password": Param(shortest=5),
    "pool": Param(format="pve-poolid"),
    "restore": FLAG,
    "ssh-public-keys": TEXT,
    "start": FLAG,
    "storage": Param(format="pve-storage-id"),
    "unique": Param("boolean", requires="restore"),
}
CLONE: Mapping[str, Param] = {
    **WHERE,
    "newid": VMID,
    "bwlimit": Param("number", minimum=0),
    "description": TEXT,
    "full": FLAG,
    "hostname": Param(format="dns-name"),
    "pool": Param(format="pve-poolid"),
    "snapname": Param(longest=40, format="pve-configid"),
    "storage": Param(format="pve-storage-id"),
    "target": Param(format="pve-node"),
}
# Since 9.1: an image of the Open Container Initiative, with its environment and what it starts.
SINCE_9_1 = ("env", "entrypoint")
# Only at create, never kept in the configuration.
NOT_KEPT = frozenset(
    [
        *("node", "vmid", "bwlimit", "force", "ha-managed", "ignore-unpack-errors", "ostemplate", "password", "pool"),
        *("restore", "ssh-public-keys", "start", "storage", "unique", "delete", "digest", "revert"),
    ]
)


def plain(name: str) -> str:
    """`net0` is one of `net`."""
    return name.rstrip("0123456789")


def privilege(name: str) -> str:
    """What it takes to change an option."""
    match plain(name):
        case "cores" | "cpulimit" | "cpuunits":
            return "VM.Config.CPU"
        case "rootfs" | "mp" | "unused":
            return "VM.Config.Disk"
        case "memory" | "swap":
            return "VM.Config.Memory"
        case "net" | "nameserver" | "searchdomain" | "hostname":
            return "VM.Config.Network"
        case _:
            return "VM.Config.Options"


# Taken over by a running container at once; all else waits for its next start.
LIVE = frozenset(
    [
        *("cores", "cpulimit", "cpuunits", "description", "hostname", "lock", "memory", "mp", "nameserver", "net"),
        *("onboot", "protection", "searchdomain", "startup", "swap", "tags", "unused", "hookscript"),
    ]
)
