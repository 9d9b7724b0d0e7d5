"""Bodies, statuses, reason phrases and connections, as the facts have them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import proxmoxer
import pytest
from proxmoxer import ProxmoxAPI

from tests.pve.emulator import Emulator
from tests.unit.pve.conftest import Api, served, session_for

C = "/nodes/pve1/lxc"
UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"


async def test_a_success_is_data_alone(api: Api) -> None:
    reply = await api.get("/version")
    assert reply.body == {"data": {"version": "9.2.11", "release": "9.2", "repoid": reply.data["repoid"]}}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "No ticket"),
        ({"Authorization": "PVEAPIToken=flow@pve!flow=wrong"}, "Authentication failed!"),
        ({"Authorization": "PVEAPIToken=nobody@pve!flow=wrong"}, "Authentication failed!"),
        ({"Cookie": "PVEAuthCookie=PVE:flow@pve:00000000::x"}, "permission denied - invalid PVE ticket"),
    ],
)
async def test_a_401_has_an_empty_body_and_says_why_in_its_status_line(
    api: Api, headers: dict[str, str], reason: str
) -> None:
    api.headers = headers
    reply = await api.get("/nodes")
    assert (reply.status, reply.reason, reply.body) == (401, reason, None)


async def test_a_403_names_the_path_and_the_privilege(api: Api) -> None:
    token = api.pve.token("narrow", role={"/vms": ("VM.Audit",)}, user="narrow@pve")
    vmid = api.pve.add_container()
    reply = await Api.by_token(api.pve, api.session, token).post(f"{C}/{vmid}/status/start")
    text = f"Permission check failed (/vms/{vmid}, VM.PowerMgmt)"
    assert (reply.status, reply.reason, reply.body) == (403, text, {"data": None, "message": f"{text}\n"})


@pytest.mark.parametrize(
    ("params", "errors"),
    [
        ({"colour": "red"}, {"colour": UNKNOWN}),
        ({"memory": "much"}, {"memory": "type check ('integer') failed - got 'much'"}),
        ({"memory": 8}, {"memory": "value must have a minimum value of 16"}),
        ({"tty": 7}, {"tty": "value must have a maximum value of 6"}),
        ({"onboot": "perhaps"}, {"onboot": "type check ('boolean') failed - got 'perhaps'"}),
        ({"cmode": "x"}, {"cmode": "value 'x' does not have a value in the enumeration 'shell, console, tty'"}),
        ({"hostname": "a_b"}, {"hostname": "invalid format - value does not look like a valid DNS name"}),
        ({"env": "no pairs"}, {"env": "value does not match the regex pattern"}),
        ({"digest": "x" * 41}, {"digest": "value may only be 40 characters long"}),
        ({"net0": "bridge=vmbr0"}, {"net0": "invalid format - format error\nname: property is missing and it is not optional"}),
        ({"net0": "name=eth0,x=1"}, {"net0": f"invalid format - format error\nx: {UNKNOWN}"}),
        ({"net10": "name=eth0"}, {"net10": UNKNOWN}),
        ({"lxc.init.cwd": "/"}, {"lxc.init.cwd": UNKNOWN}),
        ({"tags": "a;b c;ä"}, {"tags": "invalid format - invalid characters in tag - ä"}),
    ],
)  # fmt: skip
async def test_an_unknown_or_ill_typed_parameter_is_a_400_by_field(
    api: Api, params: dict[str, object], errors: dict[str, str]
) -> None:
    vmid = api.pve.add_container()
    reply = await api.put(f"{C}/{vmid}/config", **params)
    assert (reply.status, reply.reason) == (400, "Parameter verification failed.")
    assert reply.body == {"data": None, "message": "Parameter verification failed.\n", "errors": errors}


async def test_a_missing_parameter_is_a_400_by_field(api: Api) -> None:
    reply = await api.post(C, vmid=100)
    assert reply.body["errors"] == {"ostemplate": "property is missing and it is not optional"}


@pytest.mark.parametrize("vmid", ["99", "1000000000", "abc"])
async def test_a_vmid_out_of_its_range_is_a_400(api: Api, vmid: str) -> None:
    reply = await api.get(f"{C}/{vmid}/status/current")
    assert (reply.status, list(reply.body["errors"])) == (400, ["vmid"])


async def test_a_parameter_that_contradicts_the_path_is_a_400(api: Api) -> None:
    vmid = api.pve.add_container()
    reply = await api.put(f"{C}/{vmid}/config", vmid=vmid + 1)
    assert (reply.status, list(reply.body["errors"])) == (400, ["vmid"])


@pytest.mark.parametrize("yes", ["1", "yes", "on", "true", "TRUE"])
async def test_a_flag_may_be_written_in_many_ways(api: Api, yes: str) -> None:
    vmid = api.pve.add_container()
    await api.put(f"{C}/{vmid}/config", onboot=yes)
    assert (await api.get(f"{C}/{vmid}/config")).data["onboot"] == 1


async def test_a_body_of_json_is_taken_as_a_form_is(api: Api) -> None:
    vmid = api.pve.add_container()
    reply = await api.put(f"{C}/{vmid}/config", json_body={"memory": 1024, "onboot": True, "hostname": "json"})
    assert reply.body == {"data": None}
    config = (await api.get(f"{C}/{vmid}/config")).data
    assert (config["memory"], config["onboot"], config["hostname"]) == (1024, 1, "json")


@pytest.mark.parametrize(("method", "path"), [("GET", "status/current"), ("GET", "config"), ("DELETE", "")])
async def test_a_missing_container_is_a_500_and_never_a_404(api: Api, method: str, path: str) -> None:
    reply = await api.call(method, f"{C}/999/{path}")
    text = "Configuration file 'nodes/pve1/lxc/999.conf' does not exist"
    assert (reply.status, reply.reason, reply.body) == (500, text, {"data": None, "message": f"{text}\n"})


async def test_a_container_is_missing_on_every_node_but_its_own(api: Api) -> None:
    vmid = api.pve.add_container("pve1")
    reply = await api.get(f"/nodes/pve2/lxc/{vmid}/status/current")
    assert reply.reason == f"Configuration file 'nodes/pve2/lxc/{vmid}.conf' does not exist"


async def test_an_unknown_path_or_method_is_a_501(api: Api) -> None:
    for method, path in (("GET", "/x"), ("PUT", "/version"), ("POST", f"{C}/100/exec")):
        reply = await api.call(method, path)
        assert (reply.status, reply.reason) == (501, f"Method '{method} {path}' not implemented")


async def test_a_node_that_is_not_there_is_a_500_by_name(api: Api) -> None:
    reply = await api.get("/nodes/elsewhere/lxc")
    assert (reply.status, reply.reason.startswith("hostname lookup 'elsewhere' failed")) == (500, True)


@pytest.mark.parametrize("status", [595, 596])
async def test_a_node_out_of_reach_is_a_595_or_596(api: Api, status: int) -> None:
    api.pve.faults.node_offline("pve2", status)
    reply = await api.get("/nodes/pve2/lxc")
    assert (reply.status, reply.body) == (status, None)
    assert (await api.get("/nodes/pve1/lxc")).data == []
    told = {row["node"]: row["status"] for row in (await api.get("/nodes")).data}
    assert told == {"pve1": "online", "pve2": "offline"}
    api.pve.faults.node_online("pve2")
    assert (await api.get("/nodes/pve2/lxc")).data == []


async def test_before_8_3_the_text_stands_in_the_reason_phrase_alone() -> None:
    async with served(version="8.2.4") as api:
        reply = await api.get(f"{C}/999/config")
        text = "Configuration file 'nodes/pve1/lxc/999.conf' does not exist"
        assert (reply.status, reply.reason, reply.body) == (500, text, {"data": None})
        refused = await api.put(f"{C}/{api.pve.add_container()}/config", memory=1)
        assert refused.body == {"data": None, "errors": {"memory": "value must have a minimum value of 16"}}


async def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    reply = await api.put(f"{C}/{api.pve.add_container()}/config", description="x" * (513 * 1024))
    assert (reply.status, reply.reason) == (501, "for data too large")


async def _closes(api: Api, path: str) -> bool:
    """Whether the server closes the connection after this answer."""
    async with api.session.get(f"{api.pve.url}/api2/json{path}", headers=api.headers) as answer:
        await answer.read()
        return answer.headers.get("Connection", "").lower() == "close"


async def test_a_connection_is_good_for_a_hundred_requests(api: Api) -> None:
    closes = [await _closes(api, "/version") for _ in range(101)]
    assert closes == [False] * 99 + [True, False]


@pytest.mark.parametrize("path", ["/x", f"{C}/999/config", f"{C}/1/config"])
async def test_a_connection_ends_with_the_first_error(api: Api, path: str) -> None:
    assert await _closes(api, path)


async def test_an_idle_connection_is_closed_by_the_server() -> None:
    async with served(idle=0.05) as api:
        host, port = api.pve.url.removeprefix("https://").split(":")
        context = api.session.connector._ssl  # type: ignore[union-attr]
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        head = "\r\n".join(f"{name}: {value}" for name, value in {"Host": host, **api.headers}.items())
        writer.write(f"GET /api2/json/version HTTP/1.1\r\n{head}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(20):
            await reader.read()  # to its end
        writer.close()


async def test_proxmoxer_reads_the_reason_phrase_and_the_errors() -> None:
    async with Emulator() as pve:
        token_id, secret = pve.token()
        user, _, name = token_id.partition("!")
        vmid = pve.add_container(running=True)

        def ask() -> list[tuple[int, str, object]]:
            host = pve.url.removeprefix("https://")
            api = ProxmoxAPI(
                host, user=user, token_name=name, token_value=secret, verify_ssl=str(pve.ca_file), timeout=20
            )
            bad = ProxmoxAPI(host, user=user, token_name=name, token_value="x", verify_ssl=str(pve.ca_file), timeout=20)
            seen = []
            for call in (
                lambda: api.nodes("pve1").lxc(vmid).status.start.post(),
                lambda: api.nodes("pve1").lxc(vmid).config.put(memory="x"),
                lambda: bad.version.get(),
            ):
                with pytest.raises(proxmoxer.ResourceException) as caught:
                    call()
                seen.append((caught.value.status_code, caught.value.content, caught.value.errors))
            return seen

        assert await asyncio.to_thread(ask) == [
            (500, f"CT {vmid} already running", None),
            (400, "Parameter verification failed.", {"memory": "type check ('integer') failed - got 'x'"}),
            (401, "Authentication failed!", {"errors": b""}),
        ]


async def test_every_request_is_kept_with_its_answer_and_counted(api: Api) -> None:
    vmid = api.pve.add_container()
    await api.get("/version")
    await api.put(f"{C}/{vmid}/config", memory=64)
    await api.get("/nowhere")
    kept = [(each.method, each.path, dict(each.params), each.status) for each in api.pve.requests]
    assert kept == [
        ("GET", "/version", {}, 200),
        ("PUT", f"{C}/{vmid}/config", {"memory": "64"}, 200),
        ("GET", "/nowhere", {}, 501),
    ]
    assert dict(api.pve.calls()) == {"GET /version": 1, "PUT /nodes/{node}/lxc/{vmid}/config": 1, "GET /nowhere": 1}


async def test_the_requests_can_be_written_to_a_file_without_secrets(api: Api, tmp_path: Path) -> None:
    api.pve.user("person@pve", "secret-of-hers")
    await api.post_without_token("/access/ticket", username="person@pve", password="secret-of-hers")
    await api.get("/version")
    api.pve.dump(tmp_path / "requests.jsonl")
    text = (tmp_path / "requests.jsonl").read_text()
    assert [json.loads(line)["path"] for line in text.splitlines()] == ["/access/ticket", "/version"]
    assert "secret-of-hers" not in text


async def test_who_does_not_trust_its_authority_is_not_served(api: Api) -> None:
    async with aiohttp.ClientSession() as stranger:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await stranger.get(f"{api.pve.url}/api2/json/version")


async def test_two_emulators_serve_side_by_side(api: Api) -> None:
    async with Emulator() as other, session_for(other) as session:
        theirs = Api.by_token(other, session, other.token())
        mine, its = api.pve.add_container(running=True), other.add_container(running=True)
        assert api.pve.address(mine) != other.address(its)
        assert (await theirs.get("/version")).status == (await api.get("/version")).status == 200
