"""Errors over HTTP: `application/problem+json` (RFC 9457), never a trace."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from aiohttp import web

from flow_manager.util import strict_json

CONTENT_TYPE = "application/problem+json"


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **extra: Any) -> web.Response:
    """`title` is the status's own; `extra` are members of the problem object."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **extra}
    return web.Response(
        status=status, body=strict_json.dumps_bytes(body), content_type=CONTENT_TYPE, headers=headers or {}
    )
