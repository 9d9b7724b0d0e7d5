"""The schema of a genuine server, where it lies beside the checkout: what the emulator takes and gives is held against it.

The file is no part of the project. It is looked for at `../shared/facts/pve-apidoc.json`, seen from the root of the
repository, or where FLOW_MANAGER_PVE_APIDOC says. Written apart from `schema`, which is the emulator's own idea of it.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.pve.calls import Recorded

VARIABLE = "FLOW_MANAGER_PVE_APIDOC"
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "facts" / "pve-apidoc.json"
Schema = Mapping[str, Any]


def find() -> Path | None:
    path = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else BESIDE
    return path if path.is_file() else None


@functools.cache
def load(path: Path) -> Mapping[str, Mapping[str, Schema]]:
    """Method information by path and method."""
    found: dict[str, dict[str, Schema]] = json.loads(path.read_text(encoding="utf-8"))["paths"]
    return found


def expression(pattern: str) -> str:
    """A pattern of Perl's as Python has it, without anchors."""
    return pattern.replace("(?^:", "(?:").removeprefix("^").removesuffix("$")


def complaints(paths: Mapping[str, Mapping[str, Schema]], recorded: Iterable[Recorded]) -> list[str]:
    """What a genuine server would not have taken although the emulator did, and what it would not have answered."""
    found: list[str] = []
    for each in recorded:
        method, _, template = each.endpoint.partition(" ")
        if not template or each.status not in (101, 200):
            continue
        if (info := paths.get(template, {}).get(method)) is None:
            found.append(f"{each.endpoint}: there is no such method")
            continue
        given = {**each.params, **each.path_params}
        wrong = list(_parameters(info.get("parameters", {}), given))
        if each.status == 200:
            data = each.body["data"]
            if not (data is None and _may_be_null(each.endpoint)):
                wrong += _value(info["returns"], data, "answer")
        found += [f"{each.endpoint}: {text}" for text in wrong]
    return list(dict.fromkeys(found))


def _may_be_null(endpoint: str) -> bool:
    """Seen on a genuine server, against its schema: a stopped container has no interfaces, in this form."""
    return endpoint.endswith("/interfaces")


def _parameters(schema: Schema, given: Mapping[str, Any]) -> Iterable[str]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    for name, value in given.items():
        param = properties.get(name) or properties.get(re.sub(r"\d+$", "[n]", name))
        if param is None:
            yield f"parameter {name} is unknown"
        elif value != "***":  # a secret, which is not kept
            yield from _value(param, value, name)
    for name, param in properties.items():
        if not param.get("optional") and name not in given:
            yield f"parameter {name} is missing"


def _value(schema: Schema, value: Any, where: str) -> Iterable[str]:
    match schema.get("type"):
        case "array":
            if not isinstance(value, list):
                yield f"{where} is no array: {value!r:.80}"
                return
            for index, item in enumerate(value):
                yield from _value(schema.get("items", {}), item, f"{where}[{index}]")
        case "object" | None:
            yield from _object(schema, value, where)
        case "null":
            if value is not None:
                yield f"{where} is not null: {value!r:.80}"
        case type:
            yield from _scalar(schema, str(type), value, where)


def _object(schema: Schema, value: Any, where: str) -> Iterable[str]:
    if schema.get("type") is None and "properties" not in schema:
        return
    if not isinstance(value, dict):
        yield f"{where} is no object: {value!r:.80}"
        return
    for name, param in schema.get("properties", {}).items():
        if name in value:
            yield from _value(param, value[name], f"{where}.{name}")
        elif not param.get("optional") and not name.endswith("[n]"):
            yield f"{where}.{name} is missing"


def _scalar(schema: Schema, type: str, value: Any, where: str) -> Iterable[str]:
    if isinstance(value, list | dict) or value is None:
        yield f"{where} is no {type}: {value!r:.80}"
        return
    text = str(int(value)) if isinstance(value, bool) else str(value)
    forms = {
        "integer": r"[+-]?\d+",
        "number": r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
        "boolean": r"(?i)[01]|yes|no|on|off|true|false",
    }
    if type in forms and not re.fullmatch(forms[type], text):
        yield f"{where} is no {type}: {text!r:.80}"
        return
    if type in ("integer", "number"):
        if "minimum" in schema and float(text) < float(schema["minimum"]):
            yield f"{where} is below {schema['minimum']}: {text}"
        if "maximum" in schema and float(text) > float(schema["maximum"]):
            yield f"{where} is above {schema['maximum']}: {text}"
    if "maxLength" in schema and len(text) > schema["maxLength"]:
        yield f"{where} is too long: {text!r:.80}"
    if "minLength" in schema and len(text) < schema["minLength"]:
        yield f"{where} is too short: {text!r:.80}"
    if schema.get("enum") and text not in schema["enum"]:
        yield f"{where} is none of {schema['enum']}: {text!r:.80}"
    if "pattern" in schema and not re.fullmatch(expression(schema["pattern"]), text):
        yield f"{where} does not match: {text!r:.80}"
    if isinstance(schema.get("format"), dict):
        yield from _parts(schema["format"], text, where)


def _parts(format: Mapping[str, Schema], text: str, where: str) -> Iterable[str]:
    default = next((name for name, part in format.items() if isinstance(part, dict) and part.get("default_key")), "")
    seen = set()
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        if not equals:
            name, value = default, piece
        if name not in format:
            yield f"{where}: {name!r} is no part of it"
            continue
        seen.add(name)
        yield from _value(format[name], value, f"{where}.{name}")
    for name, part in format.items():
        if not part.get("optional") and name not in seen:
            yield f"{where}.{name} is missing"


# Of reads that are all alike, so many are looked at: an answer with a thousand containers takes long.
READS_LOOKED_AT = 10


def must_be_genuine(recorded: Iterable[Recorded]) -> None:
    """Hold what a test has asked, and been answered, against a genuine server's schema, where that is at hand."""
    if (file := find()) is None:
        return
    looked: Counter[str] = Counter()
    chosen = []
    for each in recorded:
        endpoint = each.endpoint or each.path
        looked[endpoint] += 1
        if each.method != "GET" or looked[endpoint] <= READS_LOOKED_AT:
            chosen.append(each)
    assert complaints(load(file), chosen) == []
