"""The catalogue as an AsyncAPI 3.0 document (https://www.asyncapi.com/docs/reference/specification/v3.0.0). Pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter

from flow_manager.contract import CONTRACT_VERSION
from flow_manager.contract.events import CLIENT_EVENTS, SERVER_EVENTS
from flow_manager.contract.requests import Mutation

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error", "error_type", "code", "message", "details", "timestamp"],
    "properties": {
        "error": {"const": True},
        "error_type": {"type": "string"},
        "code": {"type": "string"},
        "message": {"type": "string"},
        "details": {"type": "object"},
        "timestamp": {"type": "string", "format": "date-time"},
    },
}
_DESCRIPTION = (
    "Socket.IO v4 (Engine.IO 4), namespace /, path /socket.io. Every client event is acknowledged with "
    '{"error": false, "data": ...} or with an error object, which is also emitted as `error`.'
)


def build(version: str) -> dict[str, Any]:
    """The whole document; the same catalogue gives the same bytes."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    messages: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for event in CLIENT_EVENTS.values():
        messages[event.name] = {
            "name": event.name,
            "summary": event.summary,
            "payload": _schema(event.request, schemas),
            "x-scope": event.scope,
            "x-repeatable": issubclass(event.request, Mutation),
        }
        messages[f"{event.name}_reply"] = {
            "name": f"{event.name} (acknowledgement)",
            "payload": {"oneOf": [_success(_schema(event.reply, schemas)), _ref("Error")]},
        }
        operations[event.name] = {
            "action": "receive",
            "channel": {"$ref": "#/channels/root"},
            "summary": event.summary,
            "messages": [{"$ref": f"#/channels/root/messages/{event.name}"}],
            "reply": {"messages": [{"$ref": f"#/channels/root/messages/{event.name}_reply"}]},
        }
    for sent in SERVER_EVENTS.values():
        payload = _ref("Error") if sent.name == "error" else _schema(sent.data, schemas)
        messages[sent.name] = {"name": sent.name, "summary": sent.summary, "payload": payload}
        operations[sent.name] = {
            "action": "send",
            "channel": {"$ref": "#/channels/root"},
            "summary": sent.summary,
            "messages": [{"$ref": f"#/channels/root/messages/{sent.name}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "flow-manager",
            "version": version,
            "description": _DESCRIPTION,
            "x-contract": CONTRACT_VERSION,
        },
        "defaultContentType": "application/json",
        "channels": {"root": {"address": "/", "messages": {name: _message(name) for name in messages}}},
        "operations": operations,
        "components": {"messages": messages, "schemas": dict(sorted(schemas.items()))},
    }


def _message(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/messages/{name}"}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _success(data: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": ["error", "data"], "properties": {"error": {"const": False}, "data": data}}


def _schema(model: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the model's schema, which is put among `schemas` with all that it needs.

    One mode for requests and replies: a model that is in both (IdlePolicy) must not say that defaults are required.
    """
    if model is None:
        return {"type": "object", "maxProperties": 0}
    schema = TypeAdapter(model).json_schema(ref_template=_REF)
    schemas.update(schema.pop("$defs", {}))
    if isinstance(model, type) and issubclass(model, BaseModel):
        schemas[model.__name__] = schema
        return _ref(model.__name__)
    return schema
