"""A FlowSpec as what the engine's `create` takes. Pure, and built from nothing: no field of a client passes through.

Field names are those of the Docker Engine API 1.41, `ContainerCreate`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from flow_manager.contract.principal import DEFAULT_TENANT
from flow_manager.runtimes.base import (
    CHANNEL_FOLDER_IN_CONTAINER,
    CODE_FOLDER_IN_CONTAINER,
    LABEL_ID,
    LABEL_INSTANCE,
    LABEL_NAME,
    LABEL_TENANT,
    FlowSpec,
)

# Which attempt made the container: what an aborted create left is found by it, and nothing else is.
LABEL_ATTEMPT = "flow-manager.attempt"
# The engine's logs of one flow take 30 MB at most; without a limit a chatty flow fills the engine's disk.
LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
NANO = 1_000_000_000


def network_name(instance: str, tenant: str) -> str:
    """The network on which the flows of one tenant find each other."""
    return f"flow-manager-{instance}" if tenant == DEFAULT_TENANT else f"flow-manager-{instance}-{tenant}"


def labels(spec: FlowSpec) -> dict[str, str]:
    """The container's own truth; the manager's labels win over the client's."""
    return {
        **spec.labels,
        LABEL_ID: spec.id,
        LABEL_NAME: spec.name,
        LABEL_INSTANCE: spec.instance,
        LABEL_TENANT: spec.tenant,
    }


def environment(spec: FlowSpec, *, elsewhere: bool = False) -> list[str]:
    """`NAME=value`, the manager's own variables last, so that they win."""
    own = {"FLOW_ID": spec.id}
    if elsewhere:
        own |= spec.channel_variables
    else:
        own["FLOW_SOCKET"] = f"{CHANNEL_FOLDER_IN_CONTAINER}/{spec.id}.sock"
    if spec.code_folder is not None:
        own["FLOW_CODE"] = CODE_FOLDER_IN_CONTAINER
    return [f"{name}={value}" for name, value in {**spec.environment, **own}.items()]


def on_engines_host(path: Path, inside: Path, outside: Path | None) -> str:
    """`path` below `inside`, as the engine's host sees it: the same path below `outside` where that is set.

    A path elsewhere is the host's already (volumes are judged as host paths).
    """
    if outside is None or not path.is_relative_to(inside):
        return str(path)
    return str(outside / path.relative_to(inside))


def container_body(
    spec: FlowSpec,
    *,
    network: str | None,
    attempt: str,
    sockets_dir: Path,
    state_dir: Path,
    sockets_host_dir: Path | None = None,
    state_host_dir: Path | None = None,
    elsewhere: bool = False,
) -> dict[str, Any]:
    """The body of `POST /containers/create`. `network` None: the engine's default bridge. `elsewhere`: the engine is on
    another machine, where nothing of this one can be mounted."""
    host: dict[str, Any] = {
        "Init": True,  # a program that is PID 1 ignores TERM unless it handles it, and reaps nobody
        "Mounts": [] if elsewhere else _mounts(spec, sockets_dir, state_dir, sockets_host_dir, state_host_dir),
        "PortBindings": _port_bindings(spec),
        "RestartPolicy": {"Name": "no"},  # the manager decides what runs
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": {"Type": "json-file", "Config": dict(LOG_OPTIONS)},
    }
    if spec.memory is not None:
        # Equal: no swap beside it. Left out, the engine would add as much swap again.
        host |= {"Memory": spec.memory, "MemorySwap": spec.memory}
    if spec.cpus is not None:
        host["NanoCpus"] = round(spec.cpus * NANO)
    if spec.pids is not None:
        host["PidsLimit"] = spec.pids
    body: dict[str, Any] = {
        "Image": spec.image,
        "Env": environment(spec, elsewhere=elsewhere),
        "Labels": {**labels(spec), LABEL_ATTEMPT: attempt},
        "Tty": spec.tty,
        "OpenStdin": spec.tty,
        "StopTimeout": math.ceil(spec.stop_timeout),
        "ExposedPorts": {f"{port.container_port}/{port.protocol}": {} for port in spec.ports},
        "HostConfig": host,
    }
    if spec.command is not None:
        body["Cmd"] = list(spec.command)
    if spec.working_dir is not None:
        body["WorkingDir"] = spec.working_dir
    if spec.stop_signal is not None:
        body["StopSignal"] = spec.stop_signal
    if network is not None:
        host["NetworkMode"] = network
        body["NetworkingConfig"] = {"EndpointsConfig": {network: endpoint(spec)}}
    return body


def endpoint(spec: FlowSpec) -> dict[str, Any]:
    return {"Aliases": [spec.name]}


def _mounts(
    spec: FlowSpec, sockets_dir: Path, state_dir: Path, sockets_host_dir: Path | None, state_host_dir: Path | None
) -> list[dict[str, Any]]:
    """`Mounts` fails for a source that is missing; `Binds` would make it, as root, on the host."""
    mounts = [_bind(str(mount.source), mount.target, mount.read_only) for mount in spec.mounts]
    if spec.channel_folder is not None:
        # The folder, not the socket: the manager makes the socket anew when it restarts, and a mounted file would be dead.
        # Read-only keeps a flow from putting its own file in the socket's place; connecting needs no more.
        source = on_engines_host(spec.channel_folder, sockets_dir, sockets_host_dir)
        mounts.append(_bind(source, CHANNEL_FOLDER_IN_CONTAINER, True))
    if spec.code_folder is not None:
        mounts.append(
            _bind(on_engines_host(spec.code_folder, state_dir, state_host_dir), CODE_FOLDER_IN_CONTAINER, False)
        )
    return mounts


def _bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _port_bindings(spec: FlowSpec) -> dict[str, list[dict[str, str]]]:
    """An empty HostPort is the engine's choice."""
    return {
        f"{port.container_port}/{port.protocol}": [
            {"HostIp": port.host_ip, "HostPort": str(port.host_port) if port.host_port else ""}
        ]
        for port in spec.ports
    }
