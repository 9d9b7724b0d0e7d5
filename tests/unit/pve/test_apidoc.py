"""The emulator's own tables of parameters, and what was asked and answered, against a genuine server's schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.pve import apidoc
from tests.pve.calls import Recorded
from tests.pve.emulator import Emulator
from tests.pve.routes import ROUTES
from tests.pve.schema import Param

CONFIG = "GET /nodes/{node}/lxc/{vmid}/config"
PLACE = {"node": "pve1", "vmid": "100"}


@pytest.fixture
def paths() -> Mapping[str, Mapping[str, Any]]:
    if (file := apidoc.find()) is None:
        pytest.skip(f"no schema of a genuine server beside the checkout, and {apidoc.VARIABLE} names none")
    return apidoc.load(file)


def ours(param: Param) -> dict[str, Any]:
    told: dict[str, Any] = {"type": param.type, "required": param.required}
    for name, value in (
        ("minimum", param.minimum),
        ("maximum", param.maximum),
        ("maxLength", param.longest),
        ("minLength", param.shortest),
        ("enum", sorted(param.enum) or None),
        ("pattern", param.pattern),
        ("requires", param.requires),
        ("default_key", param.default_key or None),
        ("format", param.format),
    ):
        if value is not None:
            told[name] = value
    if isinstance(param.format, Mapping):
        told["format"] = {name: ours(part) for name, part in param.format.items()}
    return told


def theirs(schema: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"type": schema["type"], "required": not schema.get("optional")}
    for name in ("minimum", "maximum"):
        if name in schema:
            told[name] = float(schema[name])
    for name in ("maxLength", "minLength", "requires", "format"):
        if name in schema:
            told[name] = schema[name]
    if schema.get("enum"):
        told["enum"] = sorted(schema["enum"])
    if "pattern" in schema:
        told["pattern"] = apidoc.expression(schema["pattern"]).replace("(?:^", "(?:").replace("$)", ")")
    if schema.get("default_key"):
        told["default_key"] = True
    if isinstance(schema.get("format"), dict):
        told["format"] = {name: theirs(part) for name, part in schema["format"].items()}
    return told


def same(left: Any, right: Any) -> bool:
    """Equal, where two ways to write the same regular expression count as equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            bare(left[key]) == bare(right[key]) if key == "pattern" else same(left[key], right[key]) for key in left
        )
    return bool(left == right)


def bare(pattern: Any) -> Any:
    return pattern.replace("(?:", "(").replace("(", "").replace(")", "").lstrip("^").rstrip("$")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_each_method_has_the_parameters_of_a_genuine_one(route: Any, paths: Mapping[str, Mapping[str, Any]]) -> None:
    info = paths[route.template][route.method]
    wanted = {name: theirs(schema) for name, schema in info["parameters"].get("properties", {}).items()}
    table = {name: ours(param) for name, param in route.params.items()}
    different = {
        name: (table.get(name), wanted.get(name))
        for name in table.keys() | wanted.keys()
        if not same(table.get(name), wanted.get(name))
    }
    assert different == {}
    assert route.tokens == bool(info["allowtoken"])
    check = info.get("permissions", {}).get("check", [])
    if route.need is not None:
        named = check[1] if check[0] == "and" else check
        assert named[:2] == ["perm", route.need.path]
        assert set(named[2]) == set(route.need.privileges)
        assert route.need.any == ("any" in named)


def recorded(params: Mapping[str, Any], data: Any, endpoint: str = CONFIG, status: int = 200) -> Recorded:
    return Recorded("GET", "/x", params, status, "OK", {"data": data}, endpoint, "", PLACE)


@pytest.mark.parametrize(
    ("given", "data", "complaint"),
    [
        ({}, {"digest": "x", "memory": 512, "net0": "name=eth0,ip=dhcp"}, None),
        ({"current": "1"}, {"digest": "x"}, None),
        ({"current": "maybe"}, {"digest": "x"}, "current is no boolean"),
        ({"colour": "red"}, {"digest": "x"}, "parameter colour is unknown"),
        ({}, {"memory": 512}, "answer.digest is missing"),
        ({}, {"digest": "x", "memory": "much"}, "answer.memory is no integer"),
        ({}, {"digest": "x", "memory": 1}, "answer.memory is below 16"),
        ({}, {"digest": "x", "cmode": "none"}, "answer.cmode is none of"),
        ({}, [], "answer is no object"),
        ({}, None, "answer is no object"),
    ],
)
def test_a_request_or_an_answer_that_a_genuine_server_does_not_know_is_complained_of(
    given: dict[str, str], data: Any, complaint: str | None, paths: Mapping[str, Mapping[str, Any]]
) -> None:
    found = apidoc.complaints(paths, [recorded(given, data)])
    assert (found == []) if complaint is None else (len(found) == 1 and complaint in found[0]), found


async def test_an_emulator_that_answered_what_no_genuine_one_does_fails_the_test_that_used_it(
    paths: Mapping[str, Mapping[str, Any]],
) -> None:
    with pytest.raises(AssertionError, match=r"answer\.digest is missing"):
        async with Emulator() as pve:
            pve.requests.append(recorded({}, {"memory": 512}))
