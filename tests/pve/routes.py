"""Every method that the emulator knows: its parameters, what it takes to call it, and what answers."""

from __future__ import annotations

from tests.pve import configure, console, create, listing, power, rights, storing
from tests.pve.calls import Need, Route
from tests.pve.options import CLONE, CREATE, FLAG, NODE, STORAGE, TEXT, UPDATE, WHERE
from tests.pve.schema import Param

N = "/nodes/{node}"
C = "/nodes/{node}/lxc/{vmid}"
S = "/nodes/{node}/storage/{storage}"
ANY_VMID = Param("integer", minimum=100, maximum=999999999, format="pve-vmid")
AT_NODE = {"node": NODE}
AT_STORAGE = {"node": NODE, "storage": STORAGE}
AT_TASK = {"node": NODE, "upid": Param(required=True)}
PAGE = {"start": Param("integer", minimum=0), "limit": Param("integer", minimum=0)}
CONTENT = Param(required=True, enum=("iso", "vztmpl", "import"), format="pve-storage-content")
ALGORITHM = Param(enum=("md5", "sha1", "sha224", "sha256", "sha384", "sha512"), requires="checksum")
USER = Param(required=True, longest=64, format="pve-userid")
TOKEN_NAME = Param(required=True, pattern=r"[A-Za-z][A-Za-z0-9\.\-_]+")
USERID = r"[^\s:/]+\@[A-Za-z][A-Za-z0-9\.\-_]+(?:![A-Za-z][A-Za-z0-9\.\-_]+)?"
REFERENCE = (
    r"(?:(?:[a-zA-Z\d]|[a-zA-Z\d][a-zA-Z\d-]*[a-zA-Z\d])(?:\.(?:[a-zA-Z\d]|[a-zA-Z\d][a-zA-Z\d-]*[a-zA-Z\d]))*(?::\d+)?/)?"
    r"[a-z\d]+(?:(?:[._]|__|[-]*)[a-z\d]+)*(?:/[a-z\d]+(?:(?:[._]|__|[-]*)[a-z\d]+)*)*:\w[\w.-]{0,127}"
)
AUDIT = Need("/vms/{vmid}", ("VM.Audit",))
POWER = Need("/vms/{vmid}", ("VM.PowerMgmt",))
CONSOLE = Need("/vms/{vmid}", ("VM.Console",))
ALLOCATE = Need("/vms/{vmid}", ("VM.Allocate",))
CLONES = Need("/vms/{vmid}", ("VM.Clone",))
CONFIGURES = Need(
    "/vms/{vmid}",
    ("VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"),
    any=True,
)
STORES = Need("/storage/{storage}", ("Datastore.Audit", "Datastore.AllocateSpace"), any=True)
UPLOADS = Need("/storage/{storage}", ("Datastore.AllocateTemplate",))

CLUSTER: tuple[Route, ...] = (
    Route("GET", "/version", {}, listing.version, proxied=False),
    Route("GET", "/cluster/status", {}, listing.cluster_status, Need("/", ("Sys.Audit",))),
    Route("GET", "/cluster/resources", {"type": Param(enum=("vm", "storage", "node", "sdn"))}, listing.resources),
    Route("GET", "/cluster/nextid", {"vmid": ANY_VMID}, listing.next_id),
    Route("GET", "/cluster/tasks", {}, listing.cluster_tasks),
    Route("GET", "/nodes", {}, listing.nodes),
)
NODES: tuple[Route, ...] = (
    Route("GET", f"{N}/status", AT_NODE, listing.node_status, Need("/nodes/{node}", ("Sys.Audit",))),
    Route("GET", f"{N}/version", AT_NODE, listing.node_version),
    Route(
        "GET",
        f"{N}/tasks",
        {
            **AT_NODE,
            **PAGE,
            "errors": FLAG,
            "since": Param("integer"),
            "source": Param(enum=("archive", "active", "all")),
            "statusfilter": Param(format="pve-task-status-type-list"),
            "typefilter": TEXT,
            "until": Param("integer"),
            "userfilter": TEXT,
            "vmid": ANY_VMID,
        },
        listing.tasks,
    ),
    Route("GET", f"{N}/tasks/{{upid}}", AT_TASK, listing.task_index, proxied=False),
    Route("GET", f"{N}/tasks/{{upid}}/status", AT_TASK, listing.task_status),
    Route("GET", f"{N}/tasks/{{upid}}/log", {**AT_TASK, **PAGE, "download": FLAG}, listing.task_log),
    Route("DELETE", f"{N}/tasks/{{upid}}", AT_TASK, listing.task_kill),
)
CONTAINERS: tuple[Route, ...] = (
    Route("GET", f"{N}/lxc", AT_NODE, listing.containers),
    Route("POST", f"{N}/lxc", CREATE, create.create),
    Route("GET", C, WHERE, listing.container_index),
    Route(
        "DELETE",
        C,
        {**WHERE, "force": FLAG, "purge": FLAG, "destroy-unreferenced-disks": FLAG},
        create.destroy,
        ALLOCATE,
    ),
    Route(
        "GET",
        f"{C}/config",
        {**WHERE, "current": FLAG, "snapshot": Param(longest=40, format="pve-configid")},
        configure.get,
        AUDIT,
    ),
    Route("PUT", f"{C}/config", UPDATE, configure.put, CONFIGURES),
    Route("GET", f"{C}/pending", WHERE, configure.pending, AUDIT),
    Route("GET", f"{C}/interfaces", WHERE, listing.interfaces, AUDIT),
    Route("GET", f"{C}/status", WHERE, listing.status_index),
    Route("GET", f"{C}/status/current", WHERE, listing.current, AUDIT),
    Route("POST", f"{C}/status/start", {**WHERE, "debug": FLAG, "skiplock": FLAG}, power.start, POWER),
    Route("POST", f"{C}/status/stop", {**WHERE, "overrule-shutdown": FLAG, "skiplock": FLAG}, power.stop, POWER),
    Route(
        "POST",
        f"{C}/status/shutdown",
        {**WHERE, "timeout": Param("integer", minimum=0), "forceStop": FLAG},
        power.shutdown,
        POWER,
    ),
    Route("POST", f"{C}/status/reboot", {**WHERE, "timeout": Param("integer", minimum=0)}, power.reboot, POWER),
    Route("POST", f"{C}/status/suspend", WHERE, power.suspend, POWER),
    Route("POST", f"{C}/status/resume", WHERE, power.resume, POWER),
    Route("POST", f"{C}/clone", CLONE, create.clone, CLONES),
    Route("POST", f"{C}/template", WHERE, create.template, ALLOCATE),
    Route("POST", f"{C}/termproxy", WHERE, console.term_proxy, CONSOLE),
    Route(
        "GET",
        f"{C}/vncwebsocket",
        {
            **WHERE,
            "port": Param("integer", True, 5900, 5999),
            "vncticket": Param(required=True, longest=512),
        },
        console.websocket,
        CONSOLE,
    ),
)
STORAGES: tuple[Route, ...] = (
    Route(
        "GET",
        f"{N}/storage",
        {
            **AT_NODE,
            "content": Param(format="pve-storage-content-list"),
            "enabled": FLAG,
            "format": FLAG,
            "storage": Param(format="pve-storage-id"),
            "target": Param(format="pve-node"),
        },
        storing.storages,
    ),
    Route("GET", S, AT_STORAGE, storing.index, STORES, proxied=False),
    Route("GET", f"{S}/status", AT_STORAGE, storing.status, STORES),
    Route(
        "GET",
        f"{S}/content",
        {**AT_STORAGE, "content": Param(format="pve-storage-content"), "vmid": ANY_VMID},
        storing.content,
        STORES,
    ),
    Route(
        "DELETE",
        f"{S}/content/{{volume}}",
        {
            "node": NODE,
            "storage": Param(format="pve-storage-id"),
            "volume": Param(required=True),
            "delay": Param("integer", minimum=1, maximum=30),
        },
        storing.remove,
    ),
    Route(
        "POST",
        f"{S}/upload",
        {
            **AT_STORAGE,
            "content": CONTENT,
            "filename": Param(required=True, longest=255),
            "checksum": Param(requires="checksum-algorithm"),
            "checksum-algorithm": ALGORITHM,
            "tmpfilename": Param(pattern="/var/tmp/pveupload-[0-9a-f]+"),
        },
        storing.upload,
        UPLOADS,
    ),
    Route(
        "POST",
        f"{S}/download-url",
        {
            **AT_STORAGE,
            "content": CONTENT,
            "filename": Param(required=True, longest=255),
            "url": Param(required=True, pattern="https?://.*"),
            "checksum": Param(requires="checksum-algorithm"),
            "checksum-algorithm": ALGORITHM,
            "compression": TEXT,
            "verify-certificates": FLAG,
        },
        storing.download,
        UPLOADS,
    ),
    Route(
        "POST",
        f"{S}/oci-registry-pull",
        {
            **AT_STORAGE,
            "reference": Param(required=True, pattern=REFERENCE),
            "filename": Param(longest=255, shortest=1),
        },
        storing.pull,
        UPLOADS,
        since=(9, 1),
    ),
)
ACCESS: tuple[Route, ...] = (
    Route("GET", "/access/ticket", {}, rights.no_ticket, world=True),
    Route(
        "POST",
        "/access/ticket",
        {
            "username": Param(required=True, longest=64),
            "password": Param(required=True),
            "otp": TEXT,
            "realm": Param(longest=32, format="pve-realm"),
            "new-format": FLAG,
            "tfa-challenge": TEXT,
            "path": Param(longest=64, requires="privs"),
            "privs": Param(longest=64, format="pve-priv-list", requires="path"),
        },
        rights.ticket,
        world=True,
        tokens=False,
    ),
    Route("GET", "/access/permissions", {"path": TEXT, "userid": Param(pattern=USERID)}, rights.permissions),
    Route("GET", "/access/users", {"enabled": FLAG, "full": FLAG}, rights.users),
    Route(
        "POST",
        "/access/users",
        {
            "userid": USER,
            "password": Param(longest=64, shortest=8),
            "comment": Param(longest=2048),
            "email": Param(longest=254, format="email-opt"),
            "enable": FLAG,
            "expire": Param("integer", minimum=0),
            "firstname": Param(longest=1024),
            "groups": Param(format="pve-groupid-list"),
            "keys": Param(pattern="[0-9a-zA-Z!=]{0,4096}"),
            "lastname": Param(longest=1024),
        },
        rights.add_user,
    ),
    Route(
        "POST",
        "/access/users/{userid}/token/{tokenid}",
        {
            "userid": USER,
            "tokenid": TOKEN_NAME,
            "comment": TEXT,
            "expire": Param("integer", minimum=0),
            "privsep": FLAG,
        },
        rights.add_token,
    ),
    Route(
        "DELETE", "/access/users/{userid}/token/{tokenid}", {"userid": USER, "tokenid": TOKEN_NAME}, rights.remove_token
    ),
    Route("GET", "/access/acl", {}, rights.lists),
    Route(
        "PUT",
        "/access/acl",
        {
            "path": Param(required=True),
            "roles": Param(required=True, format="pve-roleid-list"),
            "delete": FLAG,
            "groups": Param(format="pve-groupid-list"),
            "propagate": FLAG,
            "tokens": Param(format="pve-tokenid-list"),
            "users": Param(format="pve-userid-list"),
        },
        rights.change_list,
    ),
    Route("GET", "/access/roles", {}, rights.roles),
    Route(
        "POST",
        "/access/roles",
        {"roleid": Param(required=True, format="pve-roleid"), "privs": Param(format="pve-priv-list")},
        rights.add_role,
    ),
)
ROUTES: tuple[Route, ...] = (*CLUSTER, *NODES, *CONTAINERS, *STORAGES, *ACCESS)


def find(method: str, segments: list[str]) -> tuple[Route, dict[str, str]] | None:
    """The route of a path, and what stands in its places."""
    for route in ROUTES:
        if route.method != method:
            continue
        wanted = route.template.strip("/").split("/")
        # A volume's name has slashes of its own.
        given = segments
        if wanted[-1] == "{volume}" and len(given) > len(wanted):
            given = [*given[: len(wanted) - 1], "/".join(given[len(wanted) - 1 :])]
        if len(wanted) != len(given):
            continue
        places = {want[1:-1]: part for want, part in zip(wanted, given, strict=True) if want.startswith("{")}
        if all(want.startswith("{") or want == part for want, part in zip(wanted, given, strict=True)):
            return route, places
    return None
