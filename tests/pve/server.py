"""The transport: paths, bodies, who asks, and answers as a Proxmox VE server words them."""

from __future__ import annotations

import asyncio
import json
import traceback
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from tests.pve import routes
from tests.pve.access import Identity
from tests.pve.calls import Call, Recorded, Route
from tests.pve.cluster import Cluster
from tests.pve.errors import ApiError, died, not_implemented, refused, unauthorized
from tests.pve.faults import Faults
from tests.pve.schema import verify

BASE = "/api2/json"
# A connection is good for so many requests, and ends with the first answer of 400 or more.
MOST_REQUESTS = 100
MOST_BODY = 512 * 1024
# Since this version the text of an error stands in the body, too (pve-http-server 5.2.0).
MESSAGE_SINCE = (8, 3)
TOKEN_SCHEME = "PVEAPIToken="


class Server:
    def __init__(self, cluster: Cluster, faults: Faults) -> None:
        self._cluster = cluster
        self._faults = faults
        # By the task that serves a connection: uvloop's transports bear no weak references.
        self._served: weakref.WeakKeyDictionary[asyncio.Task[None], int] = weakref.WeakKeyDictionary()
        self.bugs: list[str] = []
        """Exceptions of the emulator's own."""
        self.requests: list[Recorded] = []
        self.keep_requests = True

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = "/" + "/".join(self._segments(request))
        if self._faults.is_down or any(rule.takes(request.method, path) for rule in self._faults.cuts):
            return _cut(request)
        for rule in self._faults.slows:
            if rule.takes(request.method, path):
                await self._faults.delay(rule.seconds)
        recycled = any(rule.takes(request.method, path) for rule in self._faults.recycles)
        route: Route | None = None
        who: Identity | None = None
        error: ApiError | None = None
        places: dict[str, str] = {}
        given: dict[str, Any] = {}
        data, total = None, None
        try:
            if fault := next((rule for rule in self._faults.answers if rule.takes(request.method, path)), None):
                raise ApiError(fault.status, fault.message, empty=fault.status in (401, 595, 596))
            found = routes.find(request.method, self._segments(request))
            if found is None or self._cluster.version < found[0].since:
                raise not_implemented(request.method, path)
            route, places = found
            who = self._who(request, route)
            given = await self._given(request)
            call = Call(self._cluster, who, {}, request)
            data = await self._run(route, call, given, places)
            total = call.total
        except ApiError as refusal:
            error = refusal
        except Exception:
            self.bugs.append(traceback.format_exc())
            raise
        if isinstance(data, web.StreamResponse):  # a console, and it is over
            self._record(request, path, given, 101, "Switching Protocols", None, route, places, who)
            return data
        response, body = self._answer(data, error, total)
        self._record(request, path, given, response.status, response.reason, body, route, places, who)
        if recycled:
            return _cut(request)
        self._served[request.task] = self._served.get(request.task, 0) + 1
        if response.status >= 400 or self._served[request.task] >= MOST_REQUESTS:
            response.force_close()
        return response

    # --- what was asked ---------------------------------------------------------------------------------------------

    def _segments(self, request: web.Request) -> list[str]:
        raw = request.raw_path.partition("?")[0].removeprefix(BASE)
        return [unquote(part) for part in raw.split("/") if part]

    async def _given(self, request: web.Request) -> dict[str, Any]:
        if request.method in ("GET", "DELETE", "HEAD"):
            return dict(parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True))
        if (request.content_length or 0) > MOST_BODY and request.content_type != "multipart/form-data":
            raise ApiError(501, "for data too large")
        if request.content_type == "multipart/form-data":
            return dict(await request.post())
        text = (await request.read()).decode(errors="replace")
        if request.content_type == "application/json":
            try:
                found = json.loads(text or "{}")
            except ValueError as wrong:
                raise died(f"unable to parse JSON: {wrong}".replace("\n", " ")) from None
            if not isinstance(found, dict):
                raise refused({"": "not an object"})
            return found
        return dict(parse_qsl(text, keep_blank_values=True))

    def _who(self, request: web.Request, route: Route) -> Identity:
        cluster = self._cluster
        header = request.headers.get("Authorization", "")
        if header.startswith(TOKEN_SCHEME):
            who = cluster.access.by_token(header.removeprefix(TOKEN_SCHEME))
            if not route.tokens:
                raise ApiError(403, "Permission check failed (API tokens are not allowed here)")
            return who
        if route.world:
            return Identity("")
        ticket = unquote(request.cookies.get("PVEAuthCookie", ""))
        if not ticket:
            raise unauthorized("No ticket")
        user = cluster.tickets.user_of(ticket)
        if user is None or user not in cluster.access.users or not cluster.access.users[user].enabled:
            raise unauthorized("permission denied - invalid PVE ticket")
        if request.method != "GET" and not cluster.tickets.csrf_is_good(
            request.headers.get("CSRFPreventionToken", ""), user
        ):
            raise unauthorized("Permission denied - invalid csrf token")
        return Identity(user)

    # --- what is done -----------------------------------------------------------------------------------------------

    async def _run(self, route: Route, call: Call, given: Mapping[str, Any], places: Mapping[str, str]) -> Any:
        """In the order of a real one: rights, then the node, then the parameters."""
        for name, value in places.items():
            if name in given and str(given[name]) != value:
                why = "duplicate parameter (already defined in URI) with conflicting values!"
                raise refused({name: why})
        if route.need is not None:
            path = route.need.path.format_map({**places})
            call.need(path, *route.need.privileges, any=route.need.any)
        if (node := places.get("node")) and route.proxied:
            self._reach(node)
        files = {name: value for name, value in given.items() if isinstance(value, web.FileField)}
        checked = {**given, **{name: file.filename for name, file in files.items()}, **places}
        call.params = {**verify(route.params, checked), **files}
        return await route.handler(call)

    def _reach(self, name: str) -> None:
        node = self._cluster.nodes.get(name)
        if node is None:
            why = f"failed to get address info for: {name}: Name or service not known"
            raise died(f"hostname lookup '{name}' failed - {why}")
        if not node.online:
            reason = "No route to host" if node.unreachable == 595 else "Connection timed out"
            raise ApiError(node.unreachable, reason, empty=True)

    # --- what is answered -------------------------------------------------------------------------------------------

    def _answer(self, data: Any, error: ApiError | None, total: int | None) -> tuple[web.Response, Any]:
        headers = {"Server": "pve-api-daemon/3.0", "Cache-Control": "max-age=0"}
        if error is None:
            body: Any = {"data": data} if total is None else {"data": data, "total": total}
            return web.json_response(body, headers=headers), body
        reason = error.message.splitlines()[0]
        if error.empty:
            return web.Response(status=error.status, reason=reason, headers=headers), None
        body = {"data": None}
        if self._cluster.version >= MESSAGE_SINCE:
            body["message"] = f"{error.message}\n"
        if error.errors:
            body["errors"] = error.errors
        return web.json_response(body, status=error.status, reason=reason, headers=headers), body

    def _record(
        self,
        request: web.Request,
        path: str,
        given: Mapping[str, Any],
        status: int,
        reason: str,
        body: Any,
        route: Route | None,
        places: Mapping[str, str],
        who: Identity | None,
    ) -> None:
        kept = {name: "***" if name in ("password", "vncticket") else value for name, value in given.items()}
        kept = {name: value.filename if isinstance(value, web.FileField) else value for name, value in kept.items()}
        self.requests.append(
            Recorded(
                request.method,
                path,
                kept,
                status,
                reason,
                body if self.keep_requests else None,
                route.name if route else "",
                who.id if who else "",
                dict(places),
            )
        )


def _cut(request: web.Request) -> web.Response:
    """No answer at all: the connection is gone."""
    if request.transport is not None:
        request.transport.abort()
    response = web.Response()
    response.force_close()
    return response
