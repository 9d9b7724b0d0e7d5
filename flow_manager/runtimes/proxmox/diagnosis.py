"""What is wrong with a runtime's server, login and rights, for people: nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.proxmox.client import PveClient
from flow_manager.runtimes.proxmox.consoles import TOKENS_SINCE
from flow_manager.runtimes.proxmox.description import TAG, read_description
from flow_manager.runtimes.proxmox.diagnosis_storages import storages
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.login import client_of, client_user
from flow_manager.runtimes.proxmox.nodes import OCI_SINCE, Nodes
from flow_manager.runtimes.proxmox.remark import Remark
from flow_manager.runtimes.proxmox.resources import Row, row, text
from flow_manager.settings.runtime import RuntimeSettings

# To manage what is there. Names and paths are those of Proxmox VE's user management.
NEEDED = ("VM.Audit", "VM.PowerMgmt")
FOR_NEW = (
    "VM.Allocate",
    "VM.Config.Options",
    "VM.Config.Network",
    "VM.Config.Memory",
    "VM.Config.CPU",
    "VM.Config.Disk",
)
CONSOLE = "VM.Console"
# Enough to see what is wrong with them; a thousand would take a quarter of a minute.
MAX_NOTES = 50


MAY_MAKE = Remark("ok", "the login may make new containers")


@dataclass(slots=True)
class Diagnosis:
    """`notes`: by container, its name and the labels in its description."""

    remarks: list[Remark] = field(default_factory=list)
    nodes: tuple[str, ...] = ()
    notes: dict[int, tuple[str, dict[str, str]]] = field(default_factory=dict)


async def diagnose(settings: RuntimeSettings) -> Diagnosis:
    """Never raises for what the server does or does not."""
    found = Diagnosis()
    client = client_of(settings)
    await client.open()
    try:
        await _look(client, settings, found)
    except CallFailed as failed:
        found.remarks.append(unreachable(failed, settings))
    except FlowManagerError as error:
        found.remarks.append(Remark("problem", error.message, "see the server's log: journalctl -u pveproxy"))
    finally:
        await client.close()
    return found


async def _look(client: PveClient, settings: RuntimeSettings, found: Diagnosis) -> None:
    told = await client.get("version")
    if not isinstance(told, Mapping) or "version" not in told:
        found.remarks.append(Remark("problem", f"what answers at {settings.url} is no Proxmox VE", "is url right?"))
        return
    nodes = Nodes(client, settings.nodes)
    await nodes.begin()
    found.nodes = nodes.names
    whole = f"cluster {nodes.cluster_name}, " if nodes.cluster_name else ""
    found.remarks.append(Remark("ok", f"Proxmox VE {nodes.release} answers, {whole}nodes: {', '.join(nodes.names)}"))
    if not settings.verify_tls:
        found.remarks.append(
            Remark("warning", "the server's certificate is not checked", "ca_file = a copy of /etc/pve/pve-root-ca.pem")
        )
    if nodes.version < OCI_SINCE:
        found.remarks.append(
            Remark("warning", "no OCI images, and no environment for flows, before 9.1", "upgrade the nodes")
        )
    if unknown := [name for name in settings.nodes if name not in nodes.names]:
        found.remarks.append(Remark("problem", f"there is no node {', '.join(unknown)}", "mend the setting `nodes`"))
    offline = [node.name for node in await nodes.look() if not node.online]
    if offline:
        found.remarks.append(Remark("warning", f"offline: {', '.join(offline)}", "see the node itself"))
    rights = await _rights(client, settings, nodes.version)
    found.remarks += rights
    if MAY_MAKE in rights:
        usable = [
            name for name in nodes.names if name not in offline and (not settings.nodes or name in settings.nodes)
        ]
        found.remarks += await storages(client, settings, usable)
    await _notes(client, found)


async def _rights(client: PveClient, settings: RuntimeSettings, version: tuple[int, ...]) -> list[Remark]:
    everywhere = await client.get("access/permissions")
    table = everywhere if isinstance(everywhere, Mapping) else {}
    here = await _on(client, "/vms")
    some = [path for path in table if path.startswith(("/vms/", "/pool/")) and _gives(table[path], path, NEEDED)]
    if not _gives(here, "/vms", NEEDED) and not some:
        lacking = [privilege for privilege in NEEDED if not _gives(here, "/vms", [privilege])]
        return [Remark("problem", _lacks(lacking, "/vms"), _grant(lacking, "/vms", settings))]
    remarks = [
        Remark(
            "ok",
            "the login may see, start and stop containers"
            + ("" if _gives(here, "/vms", NEEDED) else f" on {', '.join(sorted(some))}"),
        )
    ]
    bridge, storage = f"/sdn/zones/localnetwork/{settings.bridge}", f"/storage/{settings.storage}"
    wanted: dict[str, Sequence[str]] = {"/vms": FOR_NEW, storage: ("Datastore.AllocateSpace",), bridge: ("SDN.Use",)}
    if settings.pool is not None:
        wanted["/vms"], wanted[f"/pool/{settings.pool}"] = (), FOR_NEW
    missing = {
        path: [one for one in privileges if not _gives(await _on(client, path), path, [one])]
        for path, privileges in wanted.items()
    }
    if any(_is_of_a_zone(path, settings.bridge) and "SDN.Use" in given for path, given in table.items()):
        missing[bridge] = []  # a virtual network of a zone of its own, under which it has its path
    missing = {path: privileges for path, privileges in missing.items() if privileges}
    if not missing:
        remarks.append(MAY_MAKE)
    elif "VM.Allocate" in missing.get("/vms", ()):
        remarks.append(
            Remark("ok", "the login may make no new containers (VM.Allocate): enough for those that are there")
        )
    else:
        remarks += [
            Remark(
                "warning",
                f"new containers can't be made: {_lacks(privileges, path)}",
                _grant(privileges, path, settings),
            )
            for path, privileges in missing.items()
        ]
    if not client.by_token or version >= TOKENS_SINCE:
        if not _gives(here, "/vms", [CONSOLE]):
            remarks.append(
                Remark("ok", f"without {CONSOLE} on /vms there are no commands and no terminals in containers")
            )
    else:
        remarks.append(
            Remark("ok", "before 9.1 a token gets no commands and no terminals in containers: `user` and `password` do")
        )
    if "Sys.Audit" not in await _on(client, "/"):
        remarks.append(
            Remark("ok", "without Sys.Audit on / a person's stop of a container can't be told from an end by itself")
        )
    return remarks


async def _on(client: PveClient, path: str) -> Mapping[str, Any]:
    told = await client.get("access/permissions", path=path)
    given = told.get(path) if isinstance(told, Mapping) else None
    return given if isinstance(given, Mapping) else {}


def _is_of_a_zone(path: str, bridge: str) -> bool:
    parts = path.strip("/").split("/")
    return parts[:2] == ["sdn", "zones"] and len(parts) == 4 and parts[3] == bridge


def _gives(given: object, path: str, privileges: Sequence[str]) -> bool:
    """The value says whether a privilege holds for what is below the path, too: 0 on one container is enough for that one."""
    if not isinstance(given, Mapping):
        return False
    below = path == "/vms" or path.startswith("/pool/")
    return all((given.get(privilege) if below else privilege in given) for privilege in privileges)


def _lacks(privileges: Sequence[str], path: str) -> str:
    return f"the login lacks {', '.join(privileges)} on {path}"


def _grant(privileges: Sequence[str], path: str, settings: RuntimeSettings) -> str:
    user, _, token = (settings.token_id or "").partition("!")
    # A token has no more than both have: its own list, and its user's.
    whom = f"--users {user} --tokens '{user}!{token}'" if token else f"--users {client_user(settings)}"
    # A role of its own for each: one of that name may be there already, with other privileges.
    role = "FlowManager" if privileges[0] in NEEDED else f"FlowManager-{privileges[0].replace('.', '-')}"
    return f"on a node: pveum role add {role} --privs '{' '.join(privileges)}'; pveum acl modify {path} {whom} --roles {role}"


def unreachable(failed: CallFailed, settings: RuntimeSettings) -> Remark:
    """Why nothing could be asked at all. Pure."""
    if failed.status == 401:
        mend = "token_id is USER@REALM!NAME, secret its UUID; a removed or expired token is made anew: pveum user token add"
        return Remark("problem", f"{settings.url} does not accept the login: {failed.words}", mend)
    if failed.tls and "certificate" in failed.words:
        mend = "ca_file = a copy of /etc/pve/pve-root-ca.pem, and url with a name that the certificate has"
        return Remark("problem", f"{settings.url}: {failed.words}", mend)
    if failed.status == 0:
        mend = "is url right (https://HOST:8006), and is there a route? curl -k it from this machine"
        return Remark("problem", f"{settings.url} is not reached: {failed.words}", mend)
    return Remark(
        "problem", f"{settings.url} answers {failed.status}: {failed.words}", "see journalctl -u pveproxy there"
    )


async def _notes(client: PveClient, found: Diagnosis) -> None:
    """What owners wrote into the descriptions of tagged containers."""
    data = await client.get("cluster/resources", type="vm")
    rows: list[Row] = [one for item in data if (one := row(item)) is not None] if isinstance(data, list) else []
    if not rows:
        found.remarks.append(Remark("warning", "the login sees no container", "give it VM.Audit on /vms"))
    tagged = [one for one in rows if TAG in one.tags and not one.template]
    for one in tagged[:MAX_NOTES]:
        try:
            config = await client.get(f"nodes/{one.node}/lxc/{one.vmid}/config", current=1)
        except CallFailed as failed:
            found.remarks.append(Remark("warning", f"container {one.vmid} can't be read: {failed.words}", "VM.Audit"))
            continue
        found.notes[one.vmid] = (text(config.get("hostname")), read_description(text(config.get("description"))))
