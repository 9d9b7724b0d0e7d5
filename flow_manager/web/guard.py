"""Who may speak to the control port at all: Host and Origin of every request, Socket.IO's both transports included.

An open service with an engine behind it is remote code execution for any web page that can reach it: by DNS rebinding
(which the Host header gives away) or by a cross-site socket (which the Origin header gives away).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from flow_manager.settings.models import AuthSettings
from flow_manager.util.hosts import Authority, HostRule, parse_authority
from flow_manager.web.problems import problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guard(settings: AuthSettings) -> Middleware:
    """The middleware; it belongs before everything else."""
    rule = HostRule.of(settings.hosts, settings.origins, own_address=bool(settings.tokens))

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = judge(rule, request)
        return await handler(request) if refusal is None else refusal

    return check


def judge(rule: HostRule, request: web.Request) -> web.Response | None:
    """None, or why not."""
    if not request.raw_path.startswith("/"):
        # aiohttp lets an absolute-form target decide the host, whatever the Host header says.
        return problem(400, "the request's target must be a path")
    host = _only_host(request)
    if host is None:
        return problem(400, "exactly one Host header is needed, with a name and perhaps a port")
    if not rule.accepts_host(host, _local_address(request)):
        return problem(421, "this service does not answer to that Host; [auth] hosts names further ones")
    origins = request.headers.getall(hdrs.ORIGIN, [])
    if len(origins) > 1:
        return problem(400, "more than one Origin header")
    if origins and not rule.accepts_origin(origins[0], host):
        return problem(403, "pages of that Origin may not use this service; [auth] origins names further ones")
    return None


def _only_host(request: web.Request) -> Authority | None:
    hosts = request.headers.getall(hdrs.HOST, [])
    return parse_authority(hosts[0]) if len(hosts) == 1 else None


def _local_address(request: web.Request) -> str | None:
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return str(name[0]) if isinstance(name, tuple) and name else None
