"""The control path: whatever `Faults` can do, and what a person does at the server, by HTTP for those outside of Python.

    POST faults/NAME {"argument": value, ...}      GET calls
    POST containers {"running": true, ...}         GET requests
    POST containers/VMID/start|stop|remove|migrate GET containers

all below `Emulator.control_url`, which holds a secret and so is the login.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from tests.pve.emulator import Emulator

OUTSIDE = {"start": "start_outside", "stop": "stop_outside", "remove": "remove_outside", "migrate": "migrate"}


def add(app: web.Application, emulator: Emulator) -> None:
    control = _Control(emulator)
    base = f"/emulator/{emulator.control_secret}"
    app.router.add_post(f"{base}/faults/{{name}}", control.fault)
    app.router.add_get(f"{base}/calls", control.calls)
    app.router.add_get(f"{base}/requests", control.requests)
    app.router.add_get(f"{base}/containers", control.containers)
    app.router.add_post(f"{base}/containers", control.add_container)
    app.router.add_post(f"{base}/containers/{{vmid}}/{{verb}}", control.outside)


class _Control:
    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def fault(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        method = getattr(self._emulator.faults, name, None)
        if name.startswith("_") or name == "close" or not inspect.ismethod(method):
            known = [each for each, _ in inspect.getmembers(type(self._emulator.faults), inspect.isfunction)]
            told = ", ".join(each for each in known if not each.startswith("_") and each != "close")
            return web.json_response({"error": f"no fault {name!r}; there are {told}"}, status=404)
        return await _call(method, await _arguments(request))

    async def calls(self, request: web.Request) -> web.Response:
        return web.json_response(dict(self._emulator.calls()))

    async def requests(self, request: web.Request) -> web.Response:
        return web.json_response([each.as_dict() for each in self._emulator.requests])

    async def containers(self, request: web.Request) -> web.Response:
        rows = [
            {
                "vmid": each.vmid,
                "node": each.node,
                "name": each.name,
                "status": each.status,
                "address": self._emulator.address(each.vmid),
            }
            for each in self._emulator.containers.values()
        ]
        return web.json_response(rows)

    async def add_container(self, request: web.Request) -> web.Response:
        return await _call(self._emulator.add_container, await _arguments(request))

    async def outside(self, request: web.Request) -> web.Response:
        vmid, verb = request.match_info["vmid"], request.match_info["verb"]
        container = self._emulator.containers.get(int(vmid)) if vmid.isdigit() else None
        if container is None or verb not in OUTSIDE:
            return web.json_response({"error": f"no container {vmid}, or not one of {', '.join(OUTSIDE)}"}, status=404)
        return await _call(getattr(container, OUTSIDE[verb]), await _arguments(request))


async def _arguments(request: web.Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.text() or "{}")
    except ValueError as wrong:
        raise web.HTTPBadRequest(text=f"not JSON: {wrong}\n") from None
    if not isinstance(found, dict):
        raise web.HTTPBadRequest(text="not an object\n")
    return found


async def _call(method: Any, arguments: dict[str, Any]) -> web.Response:
    try:
        result = method(**arguments)
        if inspect.isawaitable(result):
            result = await result
    except (TypeError, KeyError, ValueError) as wrong:
        return web.json_response({"error": f"{type(wrong).__name__}: {wrong}"}, status=400)
    return web.json_response({"ok": True, "result": result})
