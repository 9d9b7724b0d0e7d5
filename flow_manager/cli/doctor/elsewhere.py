"""Docker engines of other machines: what their flows need of this service's settings."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from flow_manager.cli.doctor.finding import Finding, ok, warning
from flow_manager.cli.engine import Engine, candidates

if TYPE_CHECKING:
    from flow_manager.settings.models import Settings

GUIDE = "docs/how-to/flows-on-other-machines.md"


def elsewhere(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Of each runtime whose engine is reached over the network. Asks none of them."""
    from flow_manager.runtimes.choose import with_host_dirs
    from flow_manager.runtimes.docker.whereabouts import is_elsewhere
    from flow_manager.settings.checks import kind_of
    from flow_manager.settings.runtime import RuntimeSettings

    found: list[Finding] = []
    for name, runtime in {"docker": RuntimeSettings(), **settings.runtimes}.items():
        if kind_of(name, runtime) != "docker":
            continue
        about, address = f"runtime {name}", candidates(environ, runtime.url)[0]
        if is_elsewhere(address, with_host_dirs(runtime, settings)):
            found += _needs(about, address, settings)
        elif not Engine(address).local and runtime.remote is None:
            text = f"{address} is taken for this machine's engine: folders are mounted into flows"
            found.append(
                warning(about, text, f"if it is another machine's: remote = true in [runtimes.{name}]; else false")
            )
    return found


def _needs(about: str, address: str, settings: Settings) -> list[Finding]:
    from flow_manager.runtimes.docker.whereabouts import host_of
    from flow_manager.util.hosts import is_loopback

    channel, published = settings.channel, settings.policy.publish_address
    told = (channel.tls_address or channel.tls_listen or "").rpartition(":")[0].strip("[]")
    found = []
    if channel.tls_listen is None:
        mend = f"open the TLS port: tls_listen and tls_address in [channel] ({GUIDE})"
        found.append(warning(about, f"flows on {address} have no channel to this service", mend))
    elif is_loopback(told):
        mend = f"give [channel] tls_address as that machine reaches this one ({GUIDE})"
        found.append(warning(about, f"flows on {address} are told a channel on their own loopback: {told}", mend))
    if is_loopback(published):
        mend = "set policy.publish_address to 0.0.0.0 or an address of that machine"
        found.append(warning(about, f"no port of a flow on {address} can be reached: published on {published}", mend))
    elif is_loopback(host_of(address) or "") and ip_address(published).is_unspecified:
        text = f"{address} is a tunnel's end: ports of its flows would be looked for on this machine"
        found.append(warning(about, text, "set policy.publish_address to an address of the engine's machine"))
    return found or [ok(about, f"its engine is on another machine: {address}; channel and published ports lead there")]
