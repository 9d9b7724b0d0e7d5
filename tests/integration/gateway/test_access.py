"""Who may connect: tokens, Host, Origin; and what each principal may see and do."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
import socketio.exceptions

from flow_manager.errors import SettingsRefused
from flow_manager.util.tokens import hash_token

TOKEN, READER, OTHER = "t-" + "a" * 40, "t-" + "b" * 40, "t-" + "c" * 40
AUTH = {
    "tokens": [
        {"name": "ops", "hash": hash_token(TOKEN)},
        {"name": "viewer", "hash": hash_token(READER), "scopes": ["read"]},
        {"name": "neighbour", "hash": hash_token(OTHER), "tenant": "other"},
    ]
}


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize(
    "auth",
    [
        None,
        {},
        {"token": "wrong"},
        {"token": ""},
        {"token": 5},
        {"token": "x" * 5000},
        {"token": [TOKEN]},
        {"name": "ops"},
    ],
)
async def test_without_a_valid_token_the_client_gets_connect_error(serving, spy, transport, auth):
    async with serving(auth=AUTH) as service:
        with pytest.raises(socketio.exceptions.ConnectionError):
            await spy.sio.connect(service.url, transports=[transport], auth=auth)
        assert spy.refusals[0]["data"]["code"] == "unauthorized"
        assert service.gateway.client_count == 0
        await spy.sio.eio.disconnect()


async def test_a_token_makes_its_principal(serving, connect):
    async with serving(auth=AUTH) as service, connect(service.url, auth={"token": TOKEN}) as client:
        hello = client.of("hello")[0]
        assert (hello["principal"], hello["tenant"]) == ("ops", "default")


async def test_a_reader_may_look_and_not_touch(serving, connect):
    async with serving(auth=AUTH) as service, connect(service.url, auth={"token": READER}) as client:
        assert (await client.call("list_containers"))["error"] is False
        assert (await client.call("subscribe_activity"))["error"] is False
        refused = await client.call("create_container", {"image": "local"})
        assert (refused["code"], refused["error_type"], refused["details"]) == (
            "forbidden",
            "permission_error",
            {"scope": "write"},
        )
        assert service.manager.calls == []


async def test_a_tenant_sees_nothing_of_another(serving, connect):
    async with (
        serving(auth=AUTH) as service,
        connect(service.url, auth={"token": TOKEN}) as ours,
        connect(service.url, auth={"token": OTHER}) as theirs,
    ):
        await ours.call("subscribe_activity")
        await theirs.call("subscribe_activity")
        await ours.call("create_container", {"image": "local", "name": "mine", "start": False})
        await ours.call("start_container", {"container_id": "mine"})
        service.stream.add(tenant="default", type="ours")
        service.stream.add(tenant="other", type="theirs")
        assert [entry["type"] for entry in await ours.wait_for("activity")] == ["ours"]
        assert [entry["type"] for entry in await theirs.wait_for("activity")] == ["theirs"]
        assert len(ours.of("container_status")) == 1
        assert theirs.of("container_status") == []
        absent = await theirs.call("get_status", {"container_id": "never-was"})
        foreign = await theirs.call("get_status", {"container_id": "mine"})
        assert foreign["message"] == absent["message"].replace("never-was", "mine")
        page = await theirs.call("list_activity")
        assert [entry["type"] for entry in page["data"]["entries"]] == ["theirs"]


async def test_an_open_service_refuses_an_address_that_others_reach(serving):
    with pytest.raises(SettingsRefused, match="token create"):
        async with serving(host="0.0.0.0"):
            pass


async def ask(service, path="/healthz", **headers):
    async with aiohttp.ClientSession() as session, session.get(service.url + path, headers=headers) as response:
        return response.status, response.content_type, await response.text()


ENGINE = "/socket.io/?EIO=4&transport=polling"


@pytest.mark.parametrize("path", ["/healthz", "/", ENGINE])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:9"}, 200),
        ({"Host": "127.0.0.1:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "flows.example"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "app.localhost"}, 421),
        ({"Host": "10.0.0.1"}, 421),
        ({"Host": "a@localhost"}, 400),
        ({"Host": "localhost/x"}, 400),
        ({"Host": "localhost:99999"}, 400),
        ({"Host": ""}, 400),
        ({"Host": "localhost:80", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost:80", "Origin": "https://dash.example"}, 200),
        ({"Host": "flows.example", "Origin": "https://flows.example"}, 200),
        ({"Host": "localhost:80", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost:80", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:80", "Origin": "null"}, 403),
        ({"Host": "localhost:80", "Origin": "http://localhost.evil.example"}, 403),
        ({"Host": "localhost:80", "Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"}, 403),
    ],
)
async def test_host_and_origin_decide(serving, path, headers, status):
    async with serving(auth={"hosts": ["flows.example"], "origins": ["https://dash.example"]}) as service:
        got, kind, _ = await ask(service, path, **headers)
        assert got == status
        if status != 200:
            assert kind == "application/problem+json"


async def test_a_page_of_another_origin_opens_no_websocket(service):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(
                f"{service.url}/socket.io/?EIO=4&transport=websocket", headers={"Origin": "http://evil.example"}
            )
    assert refused.value.status == 403
    assert service.engine.sockets == {}


async def test_an_allowed_page_gets_its_cross_origin_header_and_no_credentials(serving):
    async with (
        serving(auth={"origins": ["https://dash.example"]}) as service,
        aiohttp.ClientSession() as session,
        session.get(service.url + ENGINE, headers={"Origin": "https://dash.example"}) as response,
    ):
        assert response.headers["Access-Control-Allow-Origin"] == "https://dash.example"
        assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_an_odd_request_head_is_refused(service, head):
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(head)
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
