"""Which runtimes a service has: those that settings name, and a default that answers on this machine.

`process` isolates nothing, so whoever may create a flow on it may do whatever the manager's user can. It is therefore
there only when settings name it or when it is the default.
"""

from __future__ import annotations

from flow_manager.errors import FlowManagerError, SettingsRefused
from flow_manager.runtimes.base import Runtime
from flow_manager.settings.declared import flows_of, misplaced
from flow_manager.settings.models import FlowSettings, Settings
from flow_manager.settings.runtime import RuntimeSettings

# Long enough for a busy engine, short enough for a service that starts without one.
PROBE_TIMEOUT = 3.0


async def choose_runtimes(settings: Settings, *, instance: str) -> tuple[dict[str, Runtime], str]:
    """The runtimes by name (not opened), and the default's name.

    :raises SettingsRefused: for a kind that doesn't exist, and for a flow of the settings whose runtime can't find it.
    """
    wanted = dict(settings.runtimes)
    default = settings.runtime
    if default is not None and default not in wanted:
        wanted[default] = RuntimeSettings()
    if "docker" not in wanted:
        probe = make_runtime("docker", RuntimeSettings(), settings, instance=instance)
        if await _answers(probe):
            wanted["docker"] = RuntimeSettings()
    if default is None:
        default = "docker" if "docker" in wanted else "process"
        wanted.setdefault(default, RuntimeSettings())
    kinds = {name: chosen.kind or name for name, chosen in wanted.items()}
    if lines := misplaced(settings.flows, kinds, default):
        if settings.runtime is None and default == "process":
            lines = [
                *lines,
                "no Docker engine answers, so the default runtime is process; `flow-manager doctor` says why",
            ]
        raise SettingsRefused("\n".join(lines))
    made = {
        name: make_runtime(name, chosen, settings, instance=instance, flows=flows_of(settings, name, default))
        for name, chosen in wanted.items()
    }
    return made, default


def make_runtime(
    name: str,
    chosen: RuntimeSettings,
    settings: Settings,
    *,
    instance: str,
    flows: tuple[FlowSettings, ...] = (),
) -> Runtime:
    """One runtime by its settings; `flows` are the containers of others that it has to find. Imports are here: a service without Docker never loads its client."""
    kind = chosen.kind or name
    common = {
        "instance": instance,
        "limits": settings.limits,
        "sockets_dir": settings.sockets_dir.absolute(),
        "state_dir": settings.state_dir.absolute(),
    }
    chosen = with_host_dirs(chosen, settings).model_copy(
        update={"adopt": settings.adopt if chosen.adopt is None else chosen.adopt}
    )
    if kind == "docker":
        from flow_manager.runtimes.docker.provider import DockerProvider

        return DockerProvider(name, chosen, flows=flows, **common)  # type: ignore[arg-type]
    if kind == "process":
        from flow_manager.runtimes.process.provider import ProcessProvider

        return ProcessProvider(name, chosen, **common)  # type: ignore[arg-type]
    if kind == "memory":
        from flow_manager.runtimes.memory import MemoryRuntime

        return MemoryRuntime(name, instance=instance, flows=flows)
    if kind == "proxmox":
        from flow_manager.runtimes.proxmox.provider import ProxmoxProvider

        return ProxmoxProvider(name, chosen, flows=flows, **common)  # type: ignore[arg-type]
    raise SettingsRefused(f"runtimes.{name}: kind must be docker, process, memory or proxmox")


def with_host_dirs(chosen: RuntimeSettings, settings: Settings) -> RuntimeSettings:
    """With those of the whole service where a runtime has none of its own."""
    return chosen.model_copy(
        update={
            "sockets_host_dir": chosen.sockets_host_dir or settings.sockets_host_dir,
            "state_host_dir": chosen.state_host_dir or settings.state_host_dir,
        }
    )


async def _answers(runtime: Runtime) -> bool:
    await runtime.open()
    try:
        await runtime.ping(PROBE_TIMEOUT)
    except FlowManagerError:
        return False
    else:
        return True
    finally:
        await runtime.close()
