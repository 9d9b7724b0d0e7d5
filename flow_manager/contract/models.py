"""The models of the wire contract, section 6. Field names are wire names; unknown fields are refused."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from flow_manager.contract.fields import (
    MANAGERS_OWN_PLACES,
    RESERVED_LABEL_PREFIX,
    Argument,
    Bytes,
    CleanText,
    GivenName,
    Seconds,
    SignalName,
    Timestamp,
    absolute_folder,
    checked_environment,
    host_names,
    no_control_characters,
    no_nul,
    parse_port_key,
    parse_volume_target,
)
from flow_manager.contract.proxmox import ProxmoxOptions

# What Docker takes: registry host and port, path, tag, digest. Nothing else ever reaches an engine.
_IMAGE = re.compile(
    r"(?=.{1,512}\Z)[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[a-z0-9]+:[a-f0-9]{32,128})?\Z"
)

ContainerState = Literal["created", "running", "stopped", "paused", "restarting", "removing", "exited", "dead"]
ContainerHealth = Literal["healthy", "unhealthy", "starting", "none"]
FlowState = Literal["napping", "starting", "ready", "stopping", "error"]
DesiredState = Literal["running", "stopped"]


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
    name: GivenName = None
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
    hosts: Annotated[list[str], AfterValidator(host_names)] = []
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

    @model_validator(mode="after")
    def _left_as_it_is(self) -> ContainerConfig:
        if self.existing:
            given = [name for name in _ONLY_FOR_NEW if getattr(self, name) not in (None, False, {}, [], Resources())]
            if given:
                raise ValueError(f"{', '.join(given)}: an existing container is left as it is")
        return self


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

    @model_serializer(mode="wrap")
    def _no_reply_is_no_field(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A flow may reply null: whoever asked for no reply must be able to tell the two apart."""
        fields: dict[str, Any] = handler(self)
        if "reply" not in self.model_fields_set:
            fields.pop("reply", None)
        return fields


class Deleted(WireModel):
    """Reply of `delete_container`; also where others made it, so that it was only let go of."""

    container_id: str
    deleted: Literal[True] = True
