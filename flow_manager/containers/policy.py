"""What a client may ask for. One function judges every create, and a later update: nothing reaches a runtime unjudged.

The FlowSpec is built from nothing: a field that isn't named here can't reach an engine.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path

from flow_manager.contract.fields import parse_port_key, parse_volume_target
from flow_manager.contract.models import ContainerConfig
from flow_manager.contract.principal import DEFAULT_TENANT
from flow_manager.errors import ImageNotAllowed, InvalidRequest, NotAllowed, PathNotAllowed, Unsupported
from flow_manager.runtimes.base import Capabilities, FlowSpec, Mount, PortBinding, Runtime
from flow_manager.settings.models import PolicySettings

# Never mounted into a flow, whatever the roots say: each of them is a way to the host's root, or to every secret of it.
# Engines refuse a container's name of one character (Docker: "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"); a flow may have one.
SHORTEST_NAME = 2
_NEVER = tuple(Path(p) for p in ("/", "/proc", "/sys", "/dev", "/etc", "/run", "/var/run", "/boot", "/root/.docker"))
_NEVER_BELOW = tuple(
    Path(p) for p in ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker", "/var/lib/containerd")
)


class Policy:
    """Judges configurations. `private` are folders of the manager's own that no flow may ever see."""

    def __init__(self, settings: PolicySettings, *, instance: str, private: tuple[Path, ...]) -> None:
        self._settings = settings
        self._instance = instance
        self._private = tuple(path.resolve() for path in private)

    def spec(
        self,
        config: ContainerConfig,
        *,
        flow_id: str,
        name: str,
        tenant: str,
        runtime: Runtime,
        channel_folder: Path | None,
        channel_variables: Mapping[str, str] | None = None,
        code_folder: Path | None,
    ) -> FlowSpec:
        """Build what the runtime gets.

        :raises PathNotAllowed, ImageNotAllowed, NotAllowed, Unsupported, InvalidRequest:
        """
        if config.proxmox is not None and runtime.kind != "proxmox":
            reason = f"the runtime '{runtime.name}' is no Proxmox VE"
            raise InvalidRequest(f"proxmox: {reason}", fields=[{"path": "proxmox", "reason": reason}])
        self._check_capabilities(config, runtime)
        self._check_image(config, runtime)
        for network in config.networks:
            if network not in self._settings.networks:
                raise NotAllowed(
                    f"the network '{network}' is not among those that settings allow",
                    network=network,
                    setting="policy.networks",
                )
        idle = config.idle
        return FlowSpec(
            id=flow_id,
            name=name,
            container_name=name if tenant == DEFAULT_TENANT and len(name) >= SHORTEST_NAME else f"flow-{flow_id}",
            tenant=tenant,
            instance=self._instance,
            image=image_of(config),
            command=tuple(config.command) if config.command is not None else None,
            environment=dict(config.environment),
            mounts=tuple(self._mount(source, target) for source, target in config.volumes.items()),
            ports=tuple(self._port(key, host_port) for key, host_port in config.ports.items()),
            working_dir=config.working_dir,
            tty=config.tty,
            labels={**config.labels, **_policy_labels(config)},
            networks=tuple(config.networks),
            memory=config.resources.memory,
            cpus=config.resources.cpus,
            pids=config.resources.pids,
            stop_signal=idle.stop_signal if idle else None,
            stop_timeout=idle.stop_timeout if idle else 10.0,
            channel_folder=channel_folder,
            channel_variables=dict(channel_variables or {}),
            code_folder=code_folder,
            proxmox=config.proxmox,
        )

    def code_source(self, path: str) -> Path:
        """The real path of a `code_path`.

        :raises PathNotAllowed: outside the allowed roots, links followed.
        :raises InvalidRequest: when nothing is there.
        """
        source = self._below(path, self._settings.code_roots, "policy.code_roots")
        if not _exists(source):
            reason = "nothing is there"
            raise InvalidRequest(f"code_path: {reason}", fields=[{"path": "code_path", "reason": reason}])
        return source

    def _check_capabilities(self, config: ContainerConfig, runtime: Runtime) -> None:
        able: Capabilities = runtime.capabilities
        for wanted, capability in (
            (config.volumes, "volumes"),
            (config.networks, "networks"),
            (config.tty, "tty"),
        ):
            if wanted and not getattr(able, capability):
                raise Unsupported(
                    f"the runtime '{runtime.name}' has no {capability}", kind=runtime.kind, capability=capability
                )

    def _check_image(self, config: ContainerConfig, runtime: Runtime) -> None:
        if not runtime.capabilities.images:
            return
        image = image_of(config)
        if not any(fnmatch.fnmatchcase(image, pattern) for pattern in self._settings.images):
            raise ImageNotAllowed(f"settings don't allow the image '{image}'", image=image, setting="policy.images")

    def _port(self, key: str, host_port: int) -> PortBinding:
        port, protocol = parse_port_key(key)
        return PortBinding(port, protocol, host_port, self._settings.publish_address)

    def _mount(self, source: str, target: str) -> Mount:
        path, read_only = parse_volume_target(target)
        real = self._below(source, self._settings.volume_roots, "policy.volume_roots")
        if real in _NEVER or any(real.is_relative_to(folder) for folder in _NEVER_BELOW) or _is_socket(real):
            raise PathNotAllowed(f"'{source}' is never given to a flow", path=source)
        if not _exists(real):
            # The engine would otherwise fail later and less clearly; it must never make the folder as root.
            reason = f"'{source}' does not exist"
            raise InvalidRequest(f"volumes: {reason}", fields=[{"path": "volumes", "reason": reason}])
        return Mount(real, path, read_only)

    def _below(self, path: str, roots: tuple[Path, ...], setting: str) -> Path:
        """Links are followed first, so that neither `..` nor a link leads out of the roots."""
        if not path.startswith("/"):
            raise PathNotAllowed(f"'{path}' is not absolute", path=path, setting=setting)
        try:
            real = Path(path).resolve()
            allowed = [root.resolve() for root in roots]
        except (OSError, RuntimeError, ValueError):
            raise PathNotAllowed(f"'{path}' can't be resolved", path=path, setting=setting) from None
        if not any(real.is_relative_to(root) for root in allowed):
            allowed_by = f"the folders that {setting} allows" if allowed else f"{setting}, which allows no folder"
            raise PathNotAllowed(f"'{path}' is outside {allowed_by}", path=path, setting=setting)
        for private in self._private:
            if real.is_relative_to(private) or private.is_relative_to(real):
                raise PathNotAllowed(f"'{path}' holds the manager's own state", path=path, setting=setting)
        return real


def _exists(path: Path) -> bool:
    """No name may be longer than 255 bytes: `Path.exists` raises for one that is, instead of answering."""
    try:
        return path.exists()
    except OSError:
        return False


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:
        return False


def image_of(config: ContainerConfig) -> str:
    """What a flow is made of, in one word: the image, the template, or the container that is cloned or taken on.

    `policy.images` judges that word, so that a narrow list leaves the owner's other containers alone, too.
    """
    origin = config.proxmox
    if config.image or origin is None:
        return config.image
    return origin.template or (f"clone-of-{origin.clone}" if origin.clone else f"lxc-{origin.vmid}")


def _policy_labels(config: ContainerConfig) -> dict[str, str]:
    """The wishes that must survive a lost store: labels can't be added to a container later."""
    labels: dict[str, str] = {}
    if config.hosts:
        labels["flow-manager.hosts"] = ",".join(config.hosts)
    if config.port is not None:
        labels["flow-manager.port"] = str(config.port)
    if config.idle is not None:
        labels["flow-manager.idle"] = config.idle.model_dump_json(exclude_defaults=True)
    return labels
