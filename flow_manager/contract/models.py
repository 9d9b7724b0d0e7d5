"""The models of the wire contract, section 6. Field names are wire names; unknown fields are refused."""

from __future__ import annotations

import re
import signal
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from flow_manager.contract.proxmox import ProxmoxOptions
from flow_manager.contract.units import parse_bytes, parse_seconds

NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
HOST_PATTERN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_REAL_TIME_SIGNAL = re.compile(r"RT(MIN(\+[0-9]{1,2})?|MAX(-[0-9]{1,2})?)\Z")
_PORT_KEY = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?\Z")
# What Docker takes: registry host and port, path, tag, digest. Nothing else ever reaches an engine.
_IMAGE = re.compile(
    r"(?=.{1,512}\Z)[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[a-z0-9]+:[a-f0-9]{32,128})?\Z"
)
# In a container: the channel, the code, and what the kernel shows.
MANAGERS_OWN_PLACES = ("/run/flow", "/flow", "/proc", "/sys", "/dev")
RESERVED_LABEL_PREFIX = "flow-manager."
# How a flow finds its channel (wire contract, section 7), and the mark by which all that a command started is found.
MANAGERS_OWN_VARIABLES = frozenset({"FLOW_ID", "FLOW_SOCKET", "FLOW_URL", "FLOW_TOKEN", "FLOW_CA", "FLOW_EXEC_ID"})

ContainerState = Literal["created", "running", "stopped", "paused", "restarting", "removing", "exited", "dead"]
ContainerHealth = Literal["healthy", "unhealthy", "starting", "none"]
FlowState = Literal["napping", "starting", "ready", "stopping", "error"]
DesiredState = Literal["running", "stopped"]

Timestamp = Annotated[
    datetime, PlainSerializer(lambda at: at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), when_used="json")
]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0, le=366 * 86400)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0, le=2**50)]


def no_control_characters(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("control characters are not allowed")
    return text


def no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL character is not allowed")
    return text


def checked_environment(environment: dict[str, str]) -> dict[str, str]:
    """Variables that a flow, or a command in it, may be given.

    :raises ValueError: for a name that is none, one that the manager sets, or a NUL.
    """
    for key, value in environment.items():
        if not _ENVIRONMENT_NAME.match(key):
            raise ValueError(f"{key[:64]!r} is not a variable's name")
        if key in MANAGERS_OWN_VARIABLES:
            raise ValueError(f"{key} is set by the manager")
        no_nul(value)
    return environment


def absolute_folder(path: str) -> str:
    """:raises ValueError: for a relative path, or one with control characters."""
    if not no_control_characters(path).startswith("/"):
        raise ValueError("a working directory is absolute")
    return path


# Lengths before validators: pydantic counts what follows a function in "items".
CleanText = Annotated[str, Field(max_length=4096), AfterValidator(no_control_characters)]
Argument = Annotated[str, Field(max_length=131072), AfterValidator(no_nul)]


def known_signal(name: str) -> str:
    """A flow whose stop signal nobody knows could never be stopped: refused before anything is made."""
    short = name.removeprefix("SIG")
    if f"SIG{short}" not in signal.Signals.__members__ and not _REAL_TIME_SIGNAL.match(short):
        raise ValueError(f"{name[:32]!r} is not a signal's name")
    return name


SignalName = Annotated[str, Field(pattern=r"^(SIG)?[A-Z0-9+-]{1,12}$"), AfterValidator(known_signal)]


class WireModel(BaseModel):
    """Strict both ways: wrong types are refused, not converted, and unknown fields too."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Resources(WireModel):
    """Limits. `memory` in bytes (or text: "256m"), `cpus` in cores, `pids` a count of processes and threads."""

    memory: Bytes | None = None
    cpus: Annotated[float, Field(gt=0, le=4096)] | None = None
    pids: Annotated[int, Field(gt=0, le=4194304)] | None = None


class Dependency(WireModel):
    container: CleanText
    condition: Literal["started", "healthy", "completed"] = "started"


class Probe(WireModel):
    method: str | None = None
    path: str | None = None
    user_agent: str | None = None
    source: str | None = None


class HttpReadiness(WireModel):
    port: Annotated[int, Field(ge=1, le=65535)]
    path: Annotated[str, Field(pattern=r"^/")] = "/"


class Readiness(WireModel):
    http: HttpReadiness | None = None
    tcp: Annotated[int, Field(ge=1, le=65535)] | None = None
    channel: bool | None = None
    delay: Seconds | None = None


class IdlePolicy(WireModel):
    """When a flow may be put to sleep and what wakes it. Times in seconds; absent policy: never slept, never woken by traffic."""

    idle_timeout: Seconds = 0
    stop_method: Literal["pause", "stop", "kill"] = "stop"
    stop_signal: SignalName | None = None
    stop_timeout: Seconds = 10
    wake_timeout: Annotated[Seconds, Field(gt=0)] = 180
    depends_on: list[Dependency] = []
    start_endpoint: Annotated[str, Field(pattern=r"^/")] | None = None
    no_loading_page: bool = False
    probes: list[Probe] = []
    ready: Readiness | None = None


# What only a container that is yet to be made can be given.
_ONLY_FOR_NEW = (
    "environment", "volumes", "ports", "command", "working_dir", "tty", "networks", "resources", "code_path",
)  # fmt: skip


class ContainerConfig(WireModel):
    """What a client asks for. Everything an engine gets is built from this; there is no pass-through."""

    # Before `image`, which may be left out where this says what it is made of.
    proxmox: ProxmoxOptions | None = None
    image: Annotated[str, Field(max_length=512, validate_default=True)] = ""
    name: str | None = None
    environment: dict[str, str] = {}
    volumes: dict[str, str] = {}
    ports: dict[str, Annotated[int, Field(ge=0, le=65535)]] = {}
    command: list[Argument] | None = None
    working_dir: str | None = None
    tty: bool = False
    runtime: str | None = None
    labels: dict[str, str] = {}
    networks: list[CleanText] = []
    resources: Resources = Resources()
    hosts: list[str] = []
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    idle: IdlePolicy | None = None
    code_path: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(no_nul)] | None = None

    @property
    def existing(self) -> bool:
        """It is no order to make something, but names a container that is there already."""
        return self.proxmox is not None and self.proxmox.vmid is not None

    @field_validator("image")
    @classmethod
    def _image_reference(cls, image: str, info: ValidationInfo) -> str:
        if image and not _IMAGE.match(image):
            raise ValueError("not an image reference")
        if "proxmox" in info.data:  # else that one is wrong itself, and is told of
            origin = info.data["proxmox"]
            named = origin is not None and (origin.vmid, origin.template, origin.clone) != (None, None, None)
            if not image and not named:
                raise ValueError("missing")
            if image and named:
                raise ValueError("proxmox says already what it is made of")
        return image

    @field_validator("name")
    @classmethod
    def _dns_label(cls, name: str | None) -> str | None:
        if name is not None and not NAME_PATTERN.match(name):
            raise ValueError("a name is a DNS label: a-z, 0-9 and '-', at most 63 characters, no '-' at either end")
        return name

    @field_validator("environment")
    @classmethod
    def _environment(cls, environment: dict[str, str]) -> dict[str, str]:
        return checked_environment(environment)

    @field_validator("volumes")
    @classmethod
    def _volumes(cls, volumes: dict[str, str]) -> dict[str, str]:
        for source, target in volumes.items():
            no_control_characters(source)
            no_control_characters(target)
            if not source.startswith("/"):
                raise ValueError(f"{source[:64]!r}: a host path is absolute")
            parse_volume_target(target)
        targets = [parse_volume_target(target)[0].rstrip("/") for target in volumes.values()]
        if len(set(targets)) < len(targets):
            raise ValueError("two volumes have one place in the container")
        for path in targets:
            if any(path == taken or path.startswith(f"{taken}/") for taken in MANAGERS_OWN_PLACES):
                raise ValueError(f"{path[:64]!r} is a place of the manager's or the system's own in the container")
        return volumes

    @field_validator("ports")
    @classmethod
    def _ports(cls, ports: dict[str, int]) -> dict[str, int]:
        seen: set[tuple[int, str]] = set()
        for key, host_port in ports.items():
            _port, protocol = parse_port_key(key)
            if host_port and (host_port, protocol) in seen:
                raise ValueError(f"the host port {host_port} is asked for twice")
            seen.add((host_port, protocol))
        return ports

    @field_validator("working_dir")
    @classmethod
    def _working_dir(cls, path: str | None) -> str | None:
        return None if path is None else absolute_folder(path)

    @field_validator("labels")
    @classmethod
    def _labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            no_control_characters(key)
            no_nul(value)
            if not key or key.startswith(RESERVED_LABEL_PREFIX):
                raise ValueError(f"{key[:64]!r}: labels below '{RESERVED_LABEL_PREFIX}' are the manager's own")
        return labels

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not HOST_PATTERN.match(host):
                raise ValueError(f"{host[:64]!r} is not a lower-case host name")
        return hosts

    @model_validator(mode="after")
    def _left_as_it_is(self) -> ContainerConfig:
        if self.existing:
            given = [name for name in _ONLY_FOR_NEW if getattr(self, name) not in (None, False, {}, [], Resources())]
            if given:
                raise ValueError(f"{', '.join(given)}: an existing container is left as it is")
        return self


def parse_port_key(key: str) -> tuple[int, str]:
    """`"80"` or `"53/udp"` → (port, protocol).

    :raises ValueError: for anything else.
    """
    match = _PORT_KEY.match(key)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise ValueError(f"{key[:64]!r} is not a port: '80' or '53/udp'")
    return int(match[1]), match[2] or "tcp"


def parse_volume_target(target: str) -> tuple[str, bool]:
    """`/data[:ro|:rw]` → (path in the container, read only).

    :raises ValueError: for a path that is not absolute, has `..`, or an unknown mode.
    """
    path, read_only = target, False
    if target.endswith((":ro", ":rw")):
        path, read_only = target[:-3], target.endswith(":ro")
    if not path.startswith("/") or ":" in path or ".." in path.split("/") or path.strip("/") == "":
        raise ValueError(f"{target[:64]!r} is not /path[:ro|:rw]")
    return path, read_only


class ResourceUsage(WireModel):
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    pids: int | None = None


class ContainerInfo(WireModel):
    """What a flow is. `ports` maps `container_port/proto` to the host's port; `environment` has its secrets masked."""

    id: str
    name: str
    runtime: str
    runtime_id: str | None
    status: ContainerState
    image: str
    created: Timestamp
    socket_path: str | None
    ports: dict[str, int]
    addresses: list[str]
    hosts: list[str]
    environment: dict[str, str]
    labels: dict[str, str]
    adopted: bool
    desired: DesiredState
    idle: IdlePolicy | None


class ContainerStatus(WireModel):
    """How a flow is. `uptime` in seconds, null when it does not run; `stale`: last known, the runtime does not answer."""

    id: str
    name: str
    state: ContainerState
    health: ContainerHealth
    flow_state: FlowState
    desired: DesiredState
    uptime: float | None
    socket_connected: bool
    last_communication: Timestamp | None
    resource_usage: ResourceUsage
    exit_code: int | None = None
    error: str | None = None
    stale: bool = False


class ContainerMessage(WireModel):
    """What a flow sent on its own."""

    container_id: str
    message: Any
    timestamp: Timestamp


class MessageDelivery(WireModel):
    """Reply of `send_message`. `reply` is there only when one was asked for."""

    message_id: str
    delivered: bool
    queued: bool
    reply: Any = None


class Deleted(WireModel):
    container_id: str
    deleted: Literal[True] = True
