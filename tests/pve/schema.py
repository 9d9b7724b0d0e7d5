"""Parameters of a method, and the check of what a caller gave: what is unknown, missing or ill-typed is a 400 by field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.pve.errors import refused
from tests.pve.formats import FORMATS

TRUE = re.compile(r"(1|on|yes|true)", re.IGNORECASE)
FALSE = re.compile(r"(0|off|no|false)", re.IGNORECASE)
INTEGER = re.compile(r"[+-]?\d+")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
MISSING = "property is missing and it is not optional"
# How many of `net[n]`, `mp[n]` ... there may be.
MOST = {"net": 10, "mp": 256, "dev": 256, "unused": 256}


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. `format` names a rule of `formats`, or describes the parts of a `key=value,...` string."""

    type: str = "string"
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    longest: int | None = None
    shortest: int | None = None
    enum: tuple[str, ...] = ()
    pattern: str | None = None
    format: str | Mapping[str, Param] | None = None
    requires: str | None = None
    default_key: bool = False


class Wrong(Exception):
    """Why one value is refused."""


def text_of(value: Any) -> str:
    """What a form would have carried: JSON bodies may bring numbers and booleans."""
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)


def truth(value: Any) -> bool:
    return bool(TRUE.fullmatch(text_of(value)))


def typed(param: Param, value: Any) -> Any:
    """The value as its type. :raises Wrong: when it isn't one."""
    if isinstance(value, list | dict) or value is None:
        raise Wrong(f"type check ('{param.type}') failed")
    text = text_of(value)
    if param.type == "boolean":
        if TRUE.fullmatch(text):
            return 1
        if FALSE.fullmatch(text):
            return 0
        raise Wrong(f"type check ('boolean') failed - got '{text}'")
    if param.type in ("integer", "number"):
        number = _number(param, text)
        if param.minimum is not None and number < param.minimum:
            raise Wrong(f"value must have a minimum value of {param.minimum:g}")
        if param.maximum is not None and number > param.maximum:
            raise Wrong(f"value must have a maximum value of {param.maximum:g}")
        return number
    _check_text(param, text)
    return text


def _number(param: Param, text: str) -> int | float:
    if param.type == "integer":
        if not INTEGER.fullmatch(text):
            raise Wrong(f"type check ('integer') failed - got '{text}'")
        return int(text)
    if not NUMBER.fullmatch(text):
        raise Wrong(f"type check ('number') failed - got '{text}'")
    return float(text)


def _check_text(param: Param, text: str) -> None:
    if param.longest is not None and len(text) > param.longest:
        raise Wrong(f"value may only be {param.longest} characters long")
    if param.shortest is not None and len(text) < param.shortest:
        raise Wrong(f"value must be at least {param.shortest} characters long")
    if param.enum and text not in param.enum:
        raise Wrong(f"value '{text}' does not have a value in the enumeration '{', '.join(param.enum)}'")
    if param.pattern is not None and not re.fullmatch(param.pattern, text):
        raise Wrong("value does not match the regex pattern")
    if isinstance(param.format, str):
        if (rule := FORMATS.get(param.format)) and (why := rule(text)):
            raise Wrong(f"invalid format - {why}")
    elif param.format is not None:
        parts(param.format, text)


def parts(format: Mapping[str, Param], text: str) -> dict[str, Any]:
    """A string of `key=value` pairs, taken apart; the default key may stand without its name. :raises Wrong:"""
    default = next((name for name, param in format.items() if param.default_key), None)
    found: dict[str, Any] = {}
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        if not equals:
            if default is None or default in found:
                raise Wrong(f"invalid format - value without key, but schema does not define a default key: '{piece}'")
            name, value = default, piece
        if name in found:
            raise Wrong(f"invalid format - duplicate key in comma-separated list property: {name}")
        if name not in format:
            raise Wrong(f"invalid format - format error\n{name}: {UNKNOWN}")
        try:
            found[name] = typed(format[name], value)
        except Wrong as wrong:
            raise Wrong(f"invalid format - format error\n{name}: {wrong}") from None
    for name, param in format.items():
        if param.required and name not in found:
            raise Wrong(f"invalid format - format error\n{name}: {MISSING}")
    return found


def find(params: Mapping[str, Param], name: str) -> Param | None:
    """The parameter of that name: `net0` is one of `net[n]`."""
    if name in params:
        return None if name.endswith("[n]") else params[name]
    if (match := re.fullmatch(r"([a-z]+)(0|[1-9]\d*)", name)) and int(match[2]) < MOST.get(match[1], 0):
        return params.get(f"{match[1]}[n]")
    return None


def verify(params: Mapping[str, Param], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, as its types. :raises ApiError: 400, with every field that is wrong."""
    errors: dict[str, str] = {}
    taken: dict[str, Any] = {}
    for name, value in given.items():
        if (param := find(params, name)) is None:
            errors[name] = UNKNOWN
            continue
        try:
            taken[name] = typed(param, value)
        except Wrong as wrong:
            errors[name] = str(wrong)
        if param.requires and param.requires not in given:
            errors[name] = f"missing property - '{name}' requires this property"
    for name, param in params.items():
        if param.required and name not in given:
            errors[name] = MISSING
    if errors:
        raise refused(errors)
    return taken
