"""The labels of containers that others made, `flow-manager.*` (wire contract, section 6). Pure: labels → what they ask for.

A label that can't be read is told of and left out; the rest still applies. Only `.tenant` is different: a container whose
tenant can't be told must not be shown to another one, so it is left alone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flow_manager.contract.fields import HOST_PATTERN, NAME_PATTERN, RESERVED_LABEL_PREFIX
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.principal import DEFAULT_TENANT

TENANT_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_METHOD = re.compile(r"[A-Z]{2,16}\Z")
_READY_HTTP = re.compile(r"([0-9]{1,5})(/.*)?\Z")
# A label may be as long as its maker likes; what is told of it may not.
MAX_TOLD = 80


@dataclass(frozen=True, slots=True)
class Unreadable:
    """`label` without its prefix, `value` cut short, `reason` for people."""

    label: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{RESERVED_LABEL_PREFIX}{self.label}={self.value}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the labels ask for. `tenant` None: it can't be told. `name` None: the container's own."""

    name: str | None
    hosts: list[str]
    port: int | None
    tenant: str | None
    idle: IdlePolicy
    unreadable: tuple[Unreadable, ...]


def read_labels(labels: Mapping[str, str]) -> Wishes:
    """Read all labels below `flow-manager.`; never raises."""
    reading = _Reading()
    for key, value in labels.items():
        if key.startswith(RESERVED_LABEL_PREFIX):
            reading.read(key.removeprefix(RESERVED_LABEL_PREFIX), value.strip())
    return reading.wishes()


class _Reading:
    """One container's labels on their way to being wishes."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {"hosts": []}
        self._policy: dict[str, Any] = {}
        self._ready: dict[str, Any] = {}
        self._unreadable: list[Unreadable] = []

    def read(self, label: str, value: str) -> None:
        reader = _READERS.get(label)
        if reader is None:
            self.complain(label, value, _unknown(label))
            return
        try:
            reader(self, label, value)
        except ValidationError as error:
            self.complain(label, value, str(error.errors()[0]["msg"]).removeprefix("Value error, "))
        except ValueError as error:
            self.complain(label, value, str(error))

    def complain(self, label: str, value: str, reason: str) -> None:
        told = value if len(value) <= MAX_TOLD else f"{value[:MAX_TOLD]}…"
        self._unreadable.append(Unreadable(label[:MAX_TOLD], told, reason))

    def wishes(self) -> Wishes:
        if self._ready:
            self._policy["ready"] = self._ready
        return Wishes(
            name=self._found.get("name"),
            hosts=self._found["hosts"],
            port=self._found.get("port"),
            tenant=self._found.get("tenant", DEFAULT_TENANT),
            idle=IdlePolicy.model_validate(self._policy),
            unreadable=tuple(self._unreadable),
        )

    # --- one label each -----------------------------------------------------------------------------------------------

    def enable(self, label: str, value: str) -> None:
        """Read by the runtime already: this container is here because of it."""

    def name(self, label: str, value: str) -> None:
        if not NAME_PATTERN.match(value):
            raise ValueError("a name is a DNS label: a-z, 0-9 and '-', at most 63 characters, no '-' at either end")
        self._found["name"] = value

    def tenant(self, label: str, value: str) -> None:
        self._found["tenant"] = None
        if not TENANT_PATTERN.match(value):
            raise ValueError("not a tenant's name; the container is left alone until it is mended")
        self._found["tenant"] = value

    def hosts(self, label: str, value: str) -> None:
        for host in _items(value):
            plain = host.lower().removesuffix(".")
            if HOST_PATTERN.match(plain):
                self._found["hosts"].append(plain)
            else:
                self.complain(label, host, "not a host name")

    def port(self, label: str, value: str) -> None:
        self._found["port"] = _port(value)

    def policy(self, label: str, value: str) -> None:
        """A field of IdlePolicy whose text is its value."""
        self._set(label.replace("-", "_"), value)

    def stop_signal(self, label: str, value: str) -> None:
        self._set("stop_signal", value.upper())

    def no_loading_page(self, label: str, value: str) -> None:
        self._set("no_loading_page", _truth(value))

    def depends_on(self, label: str, value: str) -> None:
        found = []
        for item in _items(value):
            container, _, condition = item.partition(":")
            found.append({"container": container, "condition": condition or "started"})
        self._set("depends_on", found)

    def probes(self, label: str, value: str) -> None:
        self._set("probes", [_probe(item) for item in _items(value)])

    def idle(self, label: str, value: str) -> None:
        raise ValueError("written by the manager on its own containers; here each field has a label of its own")

    def ready_http(self, label: str, value: str) -> None:
        match = _READY_HTTP.match(value)
        if match is None:
            raise ValueError("a port and a path: 80/healthz")
        self._want_ready("http", {"port": _port(match[1]), "path": match[2] or "/"})

    def ready_tcp(self, label: str, value: str) -> None:
        self._want_ready("tcp", _port(value))

    def ready_channel(self, label: str, value: str) -> None:
        if _truth(value):
            raise ValueError("a container that others made has no channel")

    def ready_delay(self, label: str, value: str) -> None:
        self._want_ready("delay", value)

    def _set(self, field: str, value: Any) -> None:
        """Judged alone, so that one bad field does not take the others with it."""
        IdlePolicy.model_validate({field: value})
        self._policy[field] = value

    def _want_ready(self, field: str, value: Any) -> None:
        IdlePolicy.model_validate({"ready": {field: value}})
        self._ready[field] = value


_READERS: dict[str, Callable[[_Reading, str, str], None]] = {
    "enable": _Reading.enable,
    # Which manager it is for: read by the runtime already.
    "instance": _Reading.enable,
    "name": _Reading.name,
    "tenant": _Reading.tenant,
    "hosts": _Reading.hosts,
    "port": _Reading.port,
    "idle": _Reading.idle,
    "idle-timeout": _Reading.policy,
    "stop-method": _Reading.policy,
    "stop-signal": _Reading.stop_signal,
    "stop-timeout": _Reading.policy,
    "wake-timeout": _Reading.policy,
    "depends-on": _Reading.depends_on,
    "start-endpoint": _Reading.policy,
    "no-loading-page": _Reading.no_loading_page,
    "probes": _Reading.probes,
    "ready-http": _Reading.ready_http,
    "ready-tcp": _Reading.ready_tcp,
    "ready-channel": _Reading.ready_channel,
    "ready-delay": _Reading.ready_delay,
}


def _unknown(label: str) -> str:
    near = difflib.get_close_matches(label, _READERS, n=1)
    return f"there is no such label; did you mean {RESERVED_LABEL_PREFIX}{near[0]}?" if near else "no such label"


def _items(value: str) -> Iterator[str]:
    return (item.strip() for item in value.split(",") if item.strip())


def _port(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:6]) <= 65535):
        raise ValueError("a port is a number from 1 to 65535")
    return int(value)


def _truth(value: str) -> bool:
    word = value.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("true or false")


def _probe(item: str) -> dict[str, str]:
    """`GET /healthz`, `/healthz`, `HEAD`, `source=10.0.0.0/8`, `GET / user-agent=kube-probe`: the agent takes the rest."""
    found: dict[str, str] = {}
    words = item.split(" ")
    while words:
        word = words.pop(0)
        if word.startswith("user-agent="):
            found["user_agent"] = " ".join([word.removeprefix("user-agent="), *words]).strip()
            break
        if word.startswith("source="):
            found["source"] = word.removeprefix("source=")
        elif word.startswith("/"):
            found["path"] = word
        elif _METHOD.match(word):
            found["method"] = word
        elif word:
            raise ValueError(f"'{word[:MAX_TOLD]}': a probe is a method, a path, source=… or user-agent=…")
    if not any(found.values()):
        raise ValueError("a probe that says nothing would be every request")
    return found
