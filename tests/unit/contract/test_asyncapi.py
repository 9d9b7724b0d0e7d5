from __future__ import annotations

import json
from typing import Any

from flow_manager.contract.asyncapi import build
from flow_manager.contract.events import CLIENT_EVENTS, SERVER_EVENTS


def references(node: Any):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_event_of_the_catalogue_is_an_operation_in_its_direction():
    operations = build("1.0")["operations"]
    assert {name for name, item in operations.items() if item["action"] == "receive"} == set(CLIENT_EVENTS)
    assert {name for name, item in operations.items() if item["action"] == "send"} == set(SERVER_EVENTS)


def test_every_reference_leads_somewhere():
    document = build("1.0")
    for reference in references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in node, reference
            node = node[part]


def test_it_is_plain_json_and_the_same_each_time():
    assert json.dumps(build("1.0")) == json.dumps(build("1.0"))


def test_a_request_requires_only_what_has_no_default():
    schemas = build("1.0")["components"]["schemas"]
    assert schemas["StartContainer"]["required"] == ["container_id"]
    assert schemas["CreateContainer"]["additionalProperties"] is False
    assert "required" not in schemas["IdlePolicy"]
