"""The control port's HTTP application: health, metrics, the contract, and a page that says what this is."""

from __future__ import annotations

import asyncio
import html
import logging
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from flow_manager import __version__
from flow_manager.contract.asyncapi import build as build_asyncapi
from flow_manager.errors import FlowManagerError
from flow_manager.settings.models import Settings
from flow_manager.util import strict_json
from flow_manager.web.guard import Handler, guard
from flow_manager.web.problems import problem

# Seconds in which the store and the default runtime must answer.
READY_TIMEOUT = 5.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENDPOINTS = {
    "/socket.io": "the service itself, for Socket.IO clients",
    "/asyncapi.json": "every event and model, as AsyncAPI 3",
    "/healthz": "alive",
    "/readyz": "store and default runtime reachable",
    "/metrics": "Prometheus metrics",
}
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_log = logging.getLogger("flow_manager.web")


def build_app(
    settings: Settings,
    *,
    ready: Callable[[], Awaitable[None]],
    describe: Callable[[], dict[str, Any]],
    metrics: Callable[[], str],
) -> web.Application:
    """`ready` raises a FlowManagerError while something is missing; `describe` is what `/` says of the service; `metrics` is the
    Prometheus text. The Host and Origin guard stands before every route, also of what is attached later."""
    app = web.Application(middlewares=[guard(settings.auth), _problems()])

    async def front(request: web.Request) -> web.Response:
        facts = describe()
        if "text/html" in request.headers.get("Accept", ""):
            return web.Response(text=_page(facts), content_type="text/html", headers=_SECURITY_HEADERS)
        return _json(strict_json.dumps_bytes({**facts, "endpoints": ENDPOINTS}))

    async def healthz(_request: web.Request) -> web.Response:
        return _json(b'{"status":"alive"}')

    async def readyz(_request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                await ready()
        except TimeoutError:
            return problem(503, f"no answer within {READY_TIMEOUT:g} s", code="timeout")
        except FlowManagerError as error:
            return problem(503, error.message, code=error.code)
        return _json(b'{"status":"ready"}')

    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=metrics().encode(), headers={"Content-Type": METRICS_TYPE})

    async def show_asyncapi(_request: web.Request) -> web.Response:
        return _json(_asyncapi())

    app.router.add_get("/", front)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/asyncapi.json", show_asyncapi)
    return app


@cache
def _asyncapi() -> bytes:
    # Made when first asked for: it takes 50 ms, which a start need not spend.
    return strict_json.dumps_bytes(build_asyncapi(__version__))


def _problems() -> Middleware:
    @web.middleware
    async def translate(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return problem(error.status, error.reason, headers=allow)
        except Exception:
            _log.exception("a request failed")
            return problem(500, "something went wrong on our side")

    return translate


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


def _page(facts: dict[str, Any]) -> str:
    rows = "".join(
        f"<li><a href='{path}'><code>{path}</code></a>: {html.escape(what)}" for path, what in ENDPOINTS.items()
    )
    about = "".join(f"<dt>{html.escape(key)}<dd>{html.escape(_text(value))}" for key, value in facts.items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>flow-manager</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem}"
        "dt{font-weight:600}</style>"
        f"<h1>flow-manager</h1><dl>{about}</dl><ul>{rows}</ul></html>"
    )


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)
