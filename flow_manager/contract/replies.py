"""The two shapes of a reply (wire contract, section 3), and the one place where an error becomes its wire form."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from flow_manager.errors import FlowManagerError, InvalidRequest

MAX_FIELDS_TOLD = 20
MAX_REASON = 200
# Of more than these not even the first are looked up: pydantic makes a description of each for that, a tenth of a second for
# all that fit into a request.
MAX_FIELDS_LOOKED_AT = 2000


def success(data: Any) -> dict[str, Any]:
    """`{"error": false, "data": …}`; models become plain JSON data, None becomes `{}`."""
    return {"error": False, "data": to_wire(data)}


def to_wire(data: Any) -> Any:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    if isinstance(data, list):
        return [to_wire(item) for item in data]
    return {} if data is None else data


def failure(error: FlowManagerError, *, at: datetime | None = None) -> dict[str, Any]:
    """The error object. `timestamp` is UTC to the second."""
    moment = (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "error": True,
        "error_type": error.error_type,
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "timestamp": moment,
    }


def invalid_request(error: ValidationError) -> InvalidRequest:
    """Each field's path and reason; never the value itself, which may be a secret."""
    if (wrong := error.error_count()) > MAX_FIELDS_LOOKED_AT:
        reason = f"{wrong} of its values are refused"
        return InvalidRequest(f"(request): {reason}", fields=[{"path": "(request)", "reason": reason}])
    fields = [
        {
            "path": ".".join(str(part) for part in item["loc"]) or "(request)",
            "reason": _reason(item["type"], item["msg"]),
        }
        for item in error.errors(include_url=False, include_input=False, include_context=False)[:MAX_FIELDS_TOLD]
    ]
    first = fields[0]
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    return InvalidRequest(f"{first['path']}: {first['reason']}{more}", fields=fields)


def _reason(kind: str, message: str) -> str:
    """Pydantic's words, without its own class names and prefixes."""
    if kind in ("model_type", "model_attributes_type", "dataclass_type"):
        return "Input should be an object"
    return message.removeprefix("Value error, ")[:MAX_REASON]
