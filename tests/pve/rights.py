"""Logins, users, tokens, roles and lists, as the API has them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.pve.access import PRIVILEGES, Access, Entry
from tests.pve.calls import Call
from tests.pve.errors import ApiError, died, forbidden, refused


async def ticket(call: Call) -> dict[str, Any]:
    cluster, params = call.cluster, call.params
    name = str(params["username"])
    id = name if "@" in name else f"{name}@{params.get('realm', 'pam')}"
    user = cluster.access.users.get(id)
    password = str(params["password"])
    renewed = password.startswith("PVE:") and cluster.tickets.user_of(password) == id
    if user is None or not user.enabled or not (renewed or password == user.password):
        await asyncio.sleep(cluster.timing.login_delay)
        raise ApiError(401, "authentication failure")
    value, csrf = cluster.tickets.login(id)
    told: dict[str, Any] = {
        "username": id,
        "ticket": value,
        "CSRFPreventionToken": csrf,
        "cap": {"vms": {}, "nodes": {}},
    }
    if len(cluster.nodes) > 1:
        told["clustername"] = cluster.name
    return told


async def no_ticket(call: Call) -> None:
    """GET: only so that a login page has something to ask."""


async def permissions(call: Call) -> dict[str, Any]:
    return call.cluster.access.table(call.who, call.params.get("path"))


async def users(call: Call) -> list[dict[str, Any]]:
    seen = call.cluster.access.users.values()
    audits = call.may("/access", "User.Modify", "Sys.Audit", any=True)
    return [{"userid": user.id, "enable": int(user.enabled)} for user in seen if audits or user.id == call.who.user]


async def add_user(call: Call) -> None:
    call.need("/access", "User.Modify")
    id = str(call.params["userid"])
    if id in call.cluster.access.users:
        raise died(f"create user failed: user '{id}' already exists")
    call.cluster.access.add_user(id, str(call.params.get("password", "")))


def _own(call: Call) -> str:
    id = str(call.params["userid"])
    if call.who.id != id and not call.may("/access/users", "User.Modify"):
        raise forbidden("/access/users, User.Modify")
    if id not in call.cluster.access.users:
        raise died(f"no such user ('{id}')")
    return id


async def add_token(call: Call) -> dict[str, Any]:
    params = call.params
    separate = bool(params.get("privsep", 1))
    token = call.cluster.access.add_token(
        _own(call),
        params["tokenid"],
        privsep=separate,
        expire=params.get("expire", 0),
        comment=params.get("comment", ""),
    )
    return {"full-tokenid": token.id, "value": token.secret, "info": {"privsep": int(separate), "expire": token.expire}}


async def remove_token(call: Call) -> None:
    id = f"{_own(call)}!{call.params['tokenid']}"
    if id not in call.cluster.access.tokens:
        raise died(f"no such token '{call.params['tokenid']}' for user '{call.params['userid']}'")
    call.cluster.access.forget_token(id)


async def lists(call: Call) -> list[dict[str, Any]]:
    audits = call.may("/access", "Sys.Audit", "Permissions.Modify", any=True)
    return [
        {
            "path": entry.path,
            "type": entry.kind,
            "ugid": entry.who,
            "roleid": entry.role,
            "propagate": int(entry.propagate),
        }
        for entry in call.cluster.access.entries
        if audits or entry.who in (call.who.id, call.who.user)
    ]


def _names(text: Any) -> list[str]:
    return [part for part in re.split(r"[,;\s]+", str(text or "")) if part]


async def change_list(call: Call) -> None:
    access: Access = call.cluster.access
    path = str(call.params["path"])
    call.need(path, "Permissions.Modify")
    for role in _names(call.params["roles"]):
        if role not in access.roles:
            raise refused({"roles": f"role '{role}' does not exist"})
        for kind, key, known in (("user", "users", access.users), ("token", "tokens", access.tokens)):
            for who in _names(call.params.get(key)):
                if who not in known:
                    raise refused({key: f"{kind} '{who}' does not exist"})
                access.entries = [
                    entry for entry in access.entries if (entry.path, entry.who, entry.role) != (path, who, role)
                ]
                if not call.params.get("delete"):
                    access.entries.append(Entry(path, kind, who, role, bool(call.params.get("propagate", 1))))


async def roles(call: Call) -> list[dict[str, Any]]:
    return [
        {"roleid": name, "privs": ",".join(sorted(given)), "special": 0}
        for name, given in sorted(call.cluster.access.roles.items())
    ]


async def add_role(call: Call) -> None:
    name, wanted = str(call.params["roleid"]), _names(call.params.get("privs"))
    call.need("/access", "Sys.Modify")
    if name in call.cluster.access.roles:
        raise died(f"role '{name}' already exists")
    if strange := [each for each in wanted if each not in PRIVILEGES]:
        raise refused({"privs": f"invalid format - invalid privilege '{strange[0]}'"})
    call.cluster.access.roles[name] = frozenset(wanted)
