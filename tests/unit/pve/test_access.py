"""Tokens, tickets and privileges: what the smallest role is, and what only root@pam may."""

from __future__ import annotations

import pytest

from tests.unit.pve.conftest import Api, Clock, served

C = "/nodes/pve1/lxc"
ROOT_PASSWORD = "the-root-password"


async def login(api: Api, user: str, password: str) -> Api:
    reply = await api.post("/access/ticket", username=user, password=password)
    headers = {
        "Cookie": f"PVEAuthCookie={reply.data['ticket']}",
        "CSRFPreventionToken": reply.data["CSRFPreventionToken"],
    }
    return Api(api.pve, api.session, headers)


def bare(api: Api) -> Api:
    return Api(api.pve, api.session, {})


async def root(api: Api) -> Api:
    api.pve.cluster.access.users["root@pam"].password = ROOT_PASSWORD
    return await login(bare(api), "root@pam", ROOT_PASSWORD)


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_separated_token_without_lists_of_its_own_may_nothing(api: Api) -> None:
    api.pve.user("lone@pve")
    api.pve.grant("lone@pve", {"/vms": ("VM.Audit", "VM.PowerMgmt")})
    token = api.pve.cluster.access.add_token("lone@pve", "t1")
    mine = Api.by_token(api.pve, api.session, (token.id, token.secret))
    vmid = api.pve.add_container()
    assert (await mine.get(f"{C}/{vmid}/status/current")).status == 403
    assert (await mine.get(C)).data == []
    assert (await mine.get("/cluster/resources", type="vm")).data == []
    assert (await mine.get("/nodes")).status == 200
    assert (await mine.get("/version")).status == 200
    assert (await mine.get("/cluster/nextid")).status == 200


async def test_a_separated_token_has_what_both_it_and_its_user_have(api: Api) -> None:
    api.pve.user("both@pve")
    api.pve.grant("both@pve", {"/vms": ("VM.Audit",)})
    token = api.pve.cluster.access.add_token("both@pve", "t1")
    api.pve.grant(token.id, {"/vms": ("VM.Audit", "VM.PowerMgmt")})
    mine = Api.by_token(api.pve, api.session, (token.id, token.secret))
    vmid = api.pve.add_container()
    assert (await mine.get(f"{C}/{vmid}/status/current")).status == 200
    assert (await mine.post(f"{C}/{vmid}/status/start")).status == 403
    assert (await mine.get("/access/permissions")).data == {"/vms": {"VM.Audit": 1}}


async def test_a_token_that_is_not_separated_has_what_its_user_has(api: Api) -> None:
    mine = Api.by_token(
        api.pve, api.session, api.pve.token("whole", user="whole@pve", role={"/vms": ("VM.Audit",)}, privsep=False)
    )
    assert (await mine.get(f"{C}/{api.pve.add_container()}/config")).status == 200


async def test_the_deepest_list_counts(api: Api) -> None:
    one, other = api.pve.add_container(), api.pve.add_container()
    role = {"/vms": ("VM.Audit", "VM.PowerMgmt"), f"/vms/{one}": ("VM.Audit",)}
    mine = Api.by_token(api.pve, api.session, api.pve.token("deep", user="deep@pve", role=role))
    assert (await mine.post(f"{C}/{one}/status/start")).status == 403
    assert (await mine.ends("POST", f"{C}/{other}/status/start")) == "OK"


async def test_a_list_that_does_not_propagate_is_for_its_path_alone(api: Api) -> None:
    admin, vmid = await root(api), api.pve.add_container()
    mine = Api.by_token(api.pve, api.session, api.pve.token("flat", user="flat@pve", role={}))
    for kind, who in (("users", "flat@pve"), ("tokens", "flat@pve!flat")):
        reply = await admin.put("/access/acl", path="/vms", roles="PVEAuditor", propagate=0, **{kind: who})
        assert reply.status == 200
        # The value says whether it goes on to what is below.
    assert (await mine.get("/access/permissions", path="/vms")).data["/vms"]["VM.Audit"] == 0
    assert (await mine.get(f"{C}/{vmid}/config")).status == 403


@pytest.mark.parametrize(
    ("privilege", "method", "path", "params"),
    [
        ("VM.Audit", "GET", "status/current", {}),
        ("VM.Audit", "GET", "config", {}),
        ("VM.Audit", "GET", "interfaces", {}),
        ("VM.PowerMgmt", "POST", "status/start", {}),
        ("VM.PowerMgmt", "POST", "status/shutdown", {}),
        ("VM.Console", "POST", "termproxy", {}),
        ("VM.Allocate", "DELETE", "", {}),
        ("VM.Clone", "POST", "clone", {"newid": 555}),
        ("VM.Config.Memory", "PUT", "config", {"memory": 64}),
        ("VM.Config.CPU", "PUT", "config", {"cores": 1}),
        ("VM.Config.Network", "PUT", "config", {"hostname": "x"}),
        ("VM.Config.Options", "PUT", "config", {"tags": "x"}),
        ("VM.Config.Options", "PUT", "config", {"env": "A=1"}),
        ("VM.Config.Options", "PUT", "config", {"delete": "tags"}),
    ],
)
async def test_each_call_needs_its_privilege(
    api: Api, privilege: str, method: str, path: str, params: dict[str, object]
) -> None:
    vmid = api.pve.add_container()
    api.pve.faults.remove_right("flow@pve!flow", privilege)
    reply = await api.call(method, f"{C}/{vmid}/{path}", **params)
    assert (reply.status, reply.reason) == (403, f"Permission check failed (/vms/{vmid}, {privilege})")


@pytest.mark.parametrize(
    ("privilege", "path"),
    [
        ("VM.Allocate", "/vms/300"),
        ("Datastore.AllocateSpace", "/storage/local"),
        ("SDN.Use", "/sdn/zones/localnetwork/vmbr0"),
    ],
)
async def test_a_create_needs_room_and_a_bridge(api: Api, privilege: str, path: str) -> None:
    api.pve.faults.remove_right("flow@pve!flow", privilege)
    reply = await api.post(
        C, vmid=300, ostemplate="local:vztmpl/service.tar", net0="name=eth0,bridge=vmbr0,ip=dhcp", rootfs="local:1"
    )
    assert (reply.status, reply.reason) == (403, f"Permission check failed ({path}, {privilege})")
    assert 300 not in api.pve.containers


async def test_the_status_of_the_cluster_needs_sys_audit(api: Api) -> None:
    api.pve.faults.remove_right("flow@pve!flow", "Sys.Audit")
    reply = await api.get("/cluster/status")
    assert reply.reason == "Permission check failed (/, Sys.Audit)"


async def test_a_token_is_revoked_or_expires_in_mid_operation(api: Api) -> None:
    second = Api.by_token(api.pve, api.session, api.pve.token("second"))
    assert (await api.get("/nodes")).status == (await second.get("/nodes")).status == 200
    api.pve.faults.revoke("flow@pve!flow")
    api.pve.faults.expire("flow@pve!second")
    for each in (api, second):
        reply = await each.get("/nodes")
        assert (reply.status, reply.reason, reply.body) == (401, "Authentication failed!", None)


# --- tickets ----------------------------------------------------------------------------------------------------------


async def test_a_login_gives_a_ticket_and_changes_need_its_token(api: Api) -> None:
    api.pve.user("person@pve", "secret-2")
    api.pve.grant("person@pve", {"/vms": ("VM.Audit", "VM.PowerMgmt")})
    person = await login(bare(api), "person@pve", "secret-2")
    vmid = api.pve.add_container()
    assert (await person.get(f"{C}/{vmid}/status/current")).status == 200
    assert (await person.ends("POST", f"{C}/{vmid}/status/start")) == "OK"
    del person.headers["CSRFPreventionToken"]
    reply = await person.post(f"{C}/{vmid}/status/stop")
    assert (reply.status, reply.reason, reply.body) == (401, "Permission denied - invalid csrf token", None)


async def test_a_bad_login_says_so_in_its_body(api: Api) -> None:
    reply = await bare(api).post("/access/ticket", username="flow@pve", password="wrong")
    assert (reply.status, reply.body) == (401, {"data": None, "message": "authentication failure\n"})


async def test_a_ticket_ends_after_two_hours_and_is_renewed_by_itself() -> None:
    clock = Clock()
    async with served(clock=clock) as api:
        api.pve.user("person@pve", "secret-2")
        person = await login(bare(api), "person@pve", "secret-2")
        clock.now += 7000
        ticket = person.headers["Cookie"].partition("=")[2]
        renewed = await login(bare(api), "person@pve", ticket)
        clock.now += 300
        assert (await person.get("/nodes")).status == 401
        assert (await renewed.get("/nodes")).status == 200


async def test_a_login_takes_no_token(api: Api) -> None:
    assert (await api.post("/access/ticket", username="flow@pve", password="x")).status == 403


async def test_the_realm_may_stand_by_itself(api: Api) -> None:
    api.pve.user("person@pve", "secret-2")
    reply = await bare(api).post("/access/ticket", username="person", realm="pve", password="secret-2")
    assert reply.data["username"] == "person@pve"
    assert reply.data["clustername"] == "emulated"


# --- root@pam ---------------------------------------------------------------------------------------------------------

ONLY_ROOT = [
    {"mp0": "/srv/data,mp=/data"},
    {"mp0": "/dev/sdb,mp=/data"},
    {"hookscript": "local:snippets/hook.pl"},
    {"dev0": "/dev/kvm"},
    {"features": "nesting=1,keyctl=1"},
]


@pytest.mark.parametrize("params", ONLY_ROOT)
async def test_some_options_are_for_root_in_person_and_not_even_for_its_token(api: Api, params: dict[str, str]) -> None:
    vmid = api.pve.add_container()
    token = Api.by_token(api.pve, api.session, api.pve.token("all", user="root@pam", privsep=False))
    for each in (api, token):
        reply = await each.put(f"{C}/{vmid}/config", **params)
        assert (reply.status, "only allowed for root@pam" in reply.reason) == (403, True), reply
    assert (await (await root(api)).put(f"{C}/{vmid}/config", **params)).body == {"data": None}


async def test_nesting_alone_is_for_all(api: Api) -> None:
    assert (await api.put(f"{C}/{api.pve.add_container()}/config", features="nesting=1")).status == 200


async def test_skiplock_is_for_root_in_person(api: Api) -> None:
    vmid = api.pve.add_container()
    api.pve.faults.hold_lock(vmid, "backup")
    assert (await api.post(f"{C}/{vmid}/status/start", skiplock=1)).status == 403
    assert await (await root(api)).ends("POST", f"{C}/{vmid}/status/start", skiplock=1) == "OK"


async def test_a_privileged_container_needs_sys_modify(api: Api) -> None:
    reply = await api.post(C, vmid=300, ostemplate="local:vztmpl/service.tar", unprivileged=0)
    assert reply.reason == "Permission check failed (/, Sys.Modify)"


# --- the way to a token with the least privileges, by the API itself --------------------------------------------------


async def test_an_administrator_makes_a_role_a_user_a_token_and_its_lists(api: Api) -> None:
    admin = await root(api)
    vmid = api.pve.add_container()
    assert (await admin.post("/access/roles", roleid="Flow", privs="VM.Audit VM.PowerMgmt")).status == 200
    assert (await admin.post("/access/users", userid="new@pve", password="longer-than-8")).status == 200
    made = (await admin.post("/access/users/new@pve/token/t1", privsep=1)).data
    assert made["full-tokenid"] == "new@pve!t1"
    mine = Api.by_token(api.pve, api.session, (made["full-tokenid"], made["value"]))
    assert (await admin.put("/access/acl", path="/vms", roles="Flow", users="new@pve")).status == 200
    assert (await mine.get(f"{C}/{vmid}/config")).status == 403  # the token isn't named yet
    assert (await admin.put("/access/acl", path="/vms", roles="Flow", tokens="new@pve!t1")).status == 200
    assert (await mine.get(f"{C}/{vmid}/config")).status == 200
    assert {row["ugid"] for row in (await admin.get("/access/acl")).data} >= {"new@pve", "new@pve!t1"}
    assert (await admin.delete("/access/users/new@pve/token/t1")).status == 200
    assert (await mine.get("/version")).status == 401


@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        ("/access/roles", {"roleid": "X", "privs": "VM.Fly"}, "privs"),
        ("/access/acl", {"path": "/vms", "roles": "Nobody", "users": "flow@pve"}, "roles"),
        ("/access/acl", {"path": "/vms", "roles": "PVEAuditor", "users": "nobody@pve"}, "users"),
        ("/access/acl", {"path": "/vms", "roles": "PVEAuditor", "tokens": "flow@pve!no"}, "tokens"),
    ],
)
async def test_lists_of_what_is_not_there_are_refused(api: Api, path: str, params: dict[str, str], field: str) -> None:
    admin = await root(api)
    reply = await admin.call("PUT" if path.endswith("acl") else "POST", path, **params)
    assert (reply.status, list(reply.body["errors"])) == (400, [field])
