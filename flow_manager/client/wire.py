"""Requests out and answers in, judged by the contract's models. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from flow_manager.client.errors import ServiceRefused
from flow_manager.contract.events import CLIENT_EVENTS
from flow_manager.contract.replies import failure, invalid_request
from flow_manager.util import strict_json
from flow_manager.util.ids import new_short_id

T = TypeVar("T")


def checked_url(url: str) -> str:
    """The URL without a trailing slash.

    :raises ValueError: for anything but http(s)://host[:port][/path], and for one that holds a secret.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a service's URL looks like http://127.0.0.1:8080")
    if parts.username or parts.password or parts.query:
        raise ValueError("a token is given apart (--token, FLOW_MANAGER_TOKEN), never in the URL")
    _ = parts.port  # raises ValueError for one that is no port
    return url.rstrip("/")


def outgoing(event: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as plain JSON data; fields that are None are left out.

    A mutation gets a `request_id`, so that it can be repeated after a lost connection.

    :raises ServiceRefused: in the words in which the service would refuse it.
    """
    catalogued = CLIENT_EVENTS[event]
    given = {key: value for key, value in request.items() if value is not None}
    if catalogued.mutating:
        given.setdefault("request_id", new_short_id("cli"))
    try:
        model = catalogued.request.model_validate(given)
        # Bytes travel beside the JSON, as a binary attachment.
        binary = {key for key, value in given.items() if isinstance(value, bytes)}
        wire: dict[str, Any] = strict_json.loads(
            strict_json.dumps_bytes(model.model_dump(mode="json", exclude_unset=True, exclude=binary))
        )
        wire |= {key: given[key] for key in binary}
    except ValidationError as exc:
        raise ServiceRefused(failure(invalid_request(exc))) from None
    except strict_json.JsonRefused as exc:
        refused = {"code": "invalid_request", "error_type": "validation_error", "message": str(exc)}
        raise ServiceRefused(refused) from None
    return wire


def reply_data(event: str, reply: Any) -> Any:
    """The `data` of a reply. :raises ServiceRefused: the error object, or an answer that is none of this contract's."""
    if not isinstance(reply, dict) or "error" not in reply:
        raise ServiceRefused({"code": "internal", "message": f"the answer to {event} is not one of this contract"})
    if reply["error"]:
        raise ServiceRefused(reply)
    return reply.get("data")


def incoming(kind: type[T], data: Any) -> T:
    """Wire data as a contract model. Fields that a newer service adds are left out, not refused.

    :raises ServiceRefused: when the data is not what the contract promises.
    """
    try:
        return TypeAdapter(kind).validate_python(data, strict=False, extra="ignore")
    except ValidationError as exc:
        reason = invalid_request(exc).message
        raise ServiceRefused({"code": "internal", "message": f"the service's answer can't be read: {reason}"}) from None
