"""What fields of the wire hold: names, texts, times, sizes, signals, ports, places; and what each refuses."""

from __future__ import annotations

import re
import signal
from datetime import datetime
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from flow_manager.contract.units import parse_bytes, parse_seconds

H = TypeVar("H", list[str], tuple[str, ...])

NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
HOST_PATTERN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_REAL_TIME_SIGNAL = re.compile(r"RT(MIN(\+[0-9]{1,2})?|MAX(-[0-9]{1,2})?)\Z")
_PORT_KEY = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?\Z")
# In a container: the channel, the code, and what the kernel shows.
MANAGERS_OWN_PLACES = ("/run/flow", "/flow", "/proc", "/sys", "/dev")
RESERVED_LABEL_PREFIX = "flow-manager."
# How a flow finds its channel (wire contract, section 7), and the mark by which all that a command started is found.
MANAGERS_OWN_VARIABLES = frozenset(
    {"FLOW_ID", "FLOW_SOCKET", "FLOW_URL", "FLOW_TOKEN", "FLOW_CA", "FLOW_EXEC_ID", "FLOW_TERMINAL_OF"}
)

Timestamp = Annotated[
    datetime, PlainSerializer(lambda at: at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), when_used="json")
]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0, le=366 * 86400)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0, le=2**50)]


def no_control_characters(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("control characters are not allowed")
    return text


def dns_label(name: str | None) -> str | None:
    """:raises ValueError: for a name that could not be part of a host's."""
    if name is not None and not NAME_PATTERN.match(name):
        raise ValueError("a name is a DNS label: a-z, 0-9 and '-', at most 63 characters, no '-' at either end")
    return name


def host_names(hosts: H) -> H:
    """:raises ValueError: for what is no host name in lower case."""
    for host in hosts:
        if not HOST_PATTERN.match(host):
            raise ValueError(f"{host[:64]!r} is not a lower-case host name")
    return hosts


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


# What a flow is called; None: chosen for it.
GivenName = Annotated[str | None, AfterValidator(dns_label)]


def known_signal(name: str) -> str:
    """A flow whose stop signal nobody knows could never be stopped: refused before anything is made."""
    short = name.removeprefix("SIG")
    if f"SIG{short}" not in signal.Signals.__members__ and not _REAL_TIME_SIGNAL.match(short):
        raise ValueError(f"{name[:32]!r} is not a signal's name")
    return name


SignalName = Annotated[str, Field(pattern=r"^(SIG)?[A-Z0-9+-]{1,12}$"), AfterValidator(known_signal)]


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
