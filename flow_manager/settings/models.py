"""One frozen model a concern. Every field's description is its reference entry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from flow_manager.contract.fields import GivenName, Seconds, host_names
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.principal import DEFAULT_TENANT
from flow_manager.settings.base import SettingsModel
from flow_manager.settings.runtime import RuntimeSettings

Port = Annotated[int, Field(ge=0, le=65535)]
# sizeof(sun_path) is 108 on Linux; `<dir>/<12>/<12>.sock` and the ending NUL take 32 of them (wire contract, section 7).
MAX_SOCKETS_DIR_BYTES = 76
HASH_FORM = r"^sha256:[0-9a-f]{64}$"
HOST_PORT_FORM = r"^.+:[0-9]{1,5}$"


class TokenSettings(SettingsModel):
    """One static token. `hash` is what `flow-manager token create` prints, never the token itself."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.@-]+$")]
    hash: Annotated[str, Field(pattern=HASH_FORM)]
    tenant: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")] = (
        DEFAULT_TENANT
    )
    scopes: frozenset[Literal["read", "write"]] = frozenset({"read", "write"})


class AuthSettings(SettingsModel):
    tokens: tuple[TokenSettings, ...] = Field(
        default=(), description="Static tokens. None, and no token_file: loopback only, one principal `local`."
    )
    token_file: Path | None = Field(
        default=None,
        description="A file with one more token, of the principal `admin`; made at the first start, for its owner's eyes alone.",
    )
    hosts: tuple[str, ...] = Field(
        default=(), description="Names in the Host header, beside loopback names, that the control port answers to."
    )
    origins: tuple[str, ...] = Field(
        default=(), description="Origins of web pages, beside this service's own, that may connect."
    )


class PolicySettings(SettingsModel):
    """What a client may ask for."""

    volume_roots: tuple[Path, ...] = Field(
        default=(), description="Host folders below which `volumes` may be. None by default."
    )
    orphans: Literal["adopt", "remove"] = Field(
        default="adopt",
        description="What becomes of this instance's own containers of which the store knows nothing (it was lost): "
        "they are flows again, or they are removed.",
    )
    code_roots: tuple[Path, ...] = Field(
        default=(), description="Host folders below which `code_path` may be. None by default."
    )
    networks: tuple[str, ...] = Field(
        default=(), description="Networks of the engine that a flow may join beside its own."
    )
    images: tuple[str, ...] = Field(
        default=("*",), description="Image references (shell patterns) that may be used; an empty list allows none."
    )
    publish_address: str = Field(default="127.0.0.1", description="The address that published ports listen on.")
    max_flows: int | None = Field(default=None, ge=1, description="Flows a tenant may have; none: no limit.")


class LimitSettings(SettingsModel):
    max_clients: int = Field(default=5000, ge=1, description="Connected clients.")
    max_unauthenticated: int = Field(default=256, ge=1, description="Connections that have not sent CONNECT yet.")
    connect_deadline: Seconds = Field(default=10, description="Seconds in which a connection must authenticate.")
    events_in_flight: int = Field(
        default=64,
        ge=1,
        description="Events of one client handled at the same time; further ones wait. Looks, and what ends an operation, have as many for themselves.",
    )
    client_buffer: int = Field(
        default=4 * 1024 * 1024, ge=65536, description="Bytes that may wait for one slow client before it is cut off."
    )
    log_followers: int = Field(default=256, ge=1, description="Logs that one connection may follow at the same time.")
    log_followers_of_one: int = Field(
        default=1024, ge=1, description="Logs that one principal may follow at the same time, on all its connections."
    )
    payload: int = Field(default=256 * 1024, ge=1024, description="Bytes of one event's payload.")
    operation_timeout: Seconds = Field(
        default=120, description="Seconds after which an engine call inside an operation is given up."
    )
    pull_stall: Seconds = Field(default=15, description="Seconds without progress after which a pull has failed.")


class ActivitySettings(SettingsModel):
    keep: int = Field(default=100_000, ge=1, description="Entries kept.")
    keep_for: Seconds = Field(
        default=30 * 86400, description="Age up to which entries are kept, in seconds or as '30d'."
    )
    secrets: tuple[Annotated[str, Field(min_length=6)], ...] = Field(
        default=(),
        repr=False,
        description="Values to mask wherever they turn up, beside the secret-looking variables of flows.",
    )


class ChannelSettings(SettingsModel):
    max_line: int = Field(default=1024 * 1024, ge=1024, description="Bytes of one line.")
    write_timeout: Seconds = Field(
        default=5, description="Seconds that a flow may refuse to read before a write has failed."
    )
    ack_timeout: Seconds = Field(
        default=5, description="Seconds to wait for the acknowledgement of a flow that promised them."
    )
    partial_line_timeout: Seconds = Field(
        default=30, description="Seconds that half a line may stand before the connection is closed."
    )
    outbox: int = Field(default=4 * 1024 * 1024, ge=65536, description="Bytes that may wait for one flow.")
    messages_per_second: float = Field(
        default=1000, gt=0, description="Frames a second taken from one flow; beyond it is read more slowly."
    )
    max_busy: Seconds = Field(default=3600, description="Longest time that a flow may say busy for at once.")
    tls_listen: Annotated[str, Field(pattern=HOST_PORT_FORM)] | None = Field(
        default=None,
        description="Where flows on other machines connect, `0.0.0.0:8082` for instance; default: nowhere, and such flows "
        "have no channel.",
    )
    tls_address: str | None = Field(
        default=None,
        description="`host:port` that those flows are told; default: `tls_listen`. Needed where that is no single address.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="PEM file of the certificate for `tls_address`, and those between it and its authority; default: made at "
        "each start, signed by an authority of this manager's own that the flows are told.",
    )
    tls_key: Path | None = Field(default=None, description="PEM file of its key, without a password.")
    tls_ca: Path | None = Field(
        default=None,
        description="PEM file of the authority that signed `tls_cert`, for the flows; default: one that their system knows.",
    )


class LogSettings(SettingsModel):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
    file: Path | None = Field(
        default=None, description="A file beside standard error; rotated at 10 MB, five are kept."
    )


class ProxySettings(SettingsModel):
    enabled: bool = Field(default=True, description="Whether the proxy port is listened on.")
    domains: tuple[str, ...] = Field(
        default=("localhost",), description="Domains below which flows are served by name."
    )
    held_per_flow: int = Field(default=1000, ge=1, description="Requests that may wait for one flow's wake.")
    held: int = Field(default=10_000, ge=1, description="Requests that may wait for wakes in all.")
    max_connections: int = Field(default=20_000, ge=1, description="Connections of clients at a time.")
    trusted: tuple[str, ...] = Field(
        default=(), description="Addresses (or networks) of proxies in front, whose X-Forwarded-* are believed."
    )
    show_logs: bool | None = Field(
        default=None,
        description="Show a failed flow's last log lines on its page, and why it failed in the runtime's own words; default: in open mode alone.",
    )


class TcpRouteSettings(SettingsModel):
    """A port of this machine that wakes a flow and is joined to one of its ports."""

    listen: Annotated[str, Field(pattern=HOST_PORT_FORM)]
    container: str
    port: Annotated[int, Field(ge=1, le=65535)]


class FlowSettings(SettingsModel):
    """A container that is there already, made by others, to be managed as one with labels that say the same. What stands here
    counts anew at each start of the manager, and instead of the container's own labels."""

    runtime: str | None = Field(default=None, description="Which runtime has it; default: the default one.")
    container: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="docker: its name, or at least 12 digits of its id."
    )
    node: str | None = Field(default=None, description="proxmox: the node that it is on.")
    vmid: Annotated[int, Field(ge=100, le=999_999_999)] | None = Field(default=None, description="proxmox: its number.")
    name: GivenName = Field(default=None, description="The flow's name, a DNS label; default: the container's own.")
    tenant: Annotated[str, Field(max_length=32, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")] = Field(
        default=DEFAULT_TENANT, description="Whose it is."
    )
    hosts: Annotated[tuple[str, ...], AfterValidator(host_names)] = Field(
        default=(), description="Names under which the proxy serves it."
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Where it listens; default: the lowest port that is published, else exposed."
    )
    idle: IdlePolicy = Field(
        default=IdlePolicy(), description="When it sleeps; default: never by itself, but it wakes on demand."
    )

    @property
    def place(self) -> str:
        """What it is found by, in its runtime."""
        return self.container if self.container is not None else f"{self.node or ''}/{self.vmid}"

    @field_validator("idle")
    @classmethod
    def _no_channel(cls, idle: IdlePolicy) -> IdlePolicy:
        if idle.ready is not None and idle.ready.channel:
            raise ValueError("a container that others made has no channel")
        return idle

    @model_validator(mode="after")
    def _one_place(self) -> FlowSettings:
        if (self.container is None) == (self.vmid is None):
            raise ValueError("give either container (docker) or vmid (proxmox)")
        if self.node is not None and self.vmid is None:
            raise ValueError("node goes with vmid")
        return self


class IdleSettings(SettingsModel):
    """What holds for every watcher. A flow's own times are in its IdlePolicy."""

    linger: Seconds = Field(default=30, description="Seconds that a dependency stays awake after its last dependent.")
    resync: Seconds = Field(default=30, gt=0, description="Seconds between comparisons with the runtimes.")
    liveness_interval: Seconds = Field(default=15, gt=0, description="Seconds between liveness probes.")
    liveness_failures: int = Field(
        default=3, ge=1, description="Failed probes in a row after which a flow is in error."
    )
    outbox_messages: int = Field(default=1000, ge=1, description="Messages that may wait for one sleeping flow.")
    outbox_keep: Seconds = Field(default=86400, description="Age up to which they are kept.")


class Settings(SettingsModel):
    host: str = Field(default="127.0.0.1", description="Address of the control port.")
    port: Port = Field(default=8080, description="The control port; 0: any free one, printed at start.")
    proxy_host: str = Field(default="127.0.0.1", description="Address of the proxy port.")
    proxy_port: Port = Field(default=8081, description="The proxy port.")
    runtime: str | None = Field(
        default=None, description="The default runtime; default: docker when an engine answers, else process."
    )
    state_dir: Path = Field(description="Folder of the store, code and logs.")
    sockets_dir: Path = Field(description="Folder of the flows' sockets, at most 76 bytes long.")
    sockets_host_dir: Path | None = Field(
        default=None, description="sockets_dir as the host sees it, when the manager runs in a container."
    )
    state_host_dir: Path | None = Field(
        default=None, description="state_dir as the host sees it, when the manager runs in a container."
    )
    instance: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")] | None = Field(
        default=None, description="This manager's identity; default: made once in the state folder."
    )
    adopt: bool = Field(
        default=True, description="Manage containers that others made and labelled `flow-manager.enable=true`."
    )
    shutdown_timeout: Seconds = Field(default=8, description="Seconds that a shutdown may take.")
    auth: AuthSettings = AuthSettings()
    policy: PolicySettings = PolicySettings()
    limits: LimitSettings = LimitSettings()
    activity: ActivitySettings = ActivitySettings()
    channel: ChannelSettings = ChannelSettings()
    log: LogSettings = LogSettings()
    proxy: ProxySettings = ProxySettings()
    idle: IdleSettings = IdleSettings()
    tcp_routes: tuple[TcpRouteSettings, ...] = Field(default=(), description="Ports that wake a flow.")
    flows: tuple[FlowSettings, ...] = Field(
        default=(), description="Containers that others made, to be managed without a label of their own."
    )
    runtimes: dict[str, RuntimeSettings] = Field(
        default_factory=dict, description="Runtimes by name, beside `docker` and `process`."
    )

    @field_validator("sockets_dir")
    @classmethod
    def _short_enough(cls, path: Path) -> Path:
        size = len(str(path.absolute()).encode())
        if size > MAX_SOCKETS_DIR_BYTES:
            raise ValueError(
                f"{path} has {size} bytes; a socket's path allows {MAX_SOCKETS_DIR_BYTES}: choose a shorter folder"
            )
        return path
