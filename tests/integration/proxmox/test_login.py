"""Connecting: tokens, users, certificates, and what proxmoxer and requests do by themselves."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from urllib3.util.ssl_ import create_urllib3_context

from flow_manager import errors
from flow_manager.runtimes.proxmox import tls
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.transport import session_of
from flow_manager.testing import eventually
from tests.integration.proxmox.conftest import NARROW, Lab
from tests.pve import certificate
from tests.pve.emulator import LAST_TURNS


@asynccontextmanager
async def elsewhere(
    folder: Path, handle: Callable[[web.Request], Awaitable[web.Response]]
) -> AsyncIterator[tuple[str, Path]]:
    """Another server than one of Proxmox VE: its address, and its CA file."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    context, ca_file = certificate.make(folder)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/api2/json", ca_file
    finally:
        # A TLS connection that is closed politely waits for the other side, which has gone.
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()
        await asyncio.sleep(LAST_TURNS)


async def test_a_user_with_a_password_may_log_in_too(lab: Lab) -> None:
    name, password = lab.pve.user()
    lab.pve.grant(name, NARROW)
    runtime = await lab.open(lab.settings(user="flow", realm="pve", password=password))
    id = await lab.adopted(runtime, lab.pve.add_container())
    assert (await runtime.start(id)).state == "running"  # a ticket, with its CSRF token
    logins = lab.pve.calls()["POST /access/ticket"]
    assert logins == 1
    # The server forgets it: it is fetched anew, and nobody notices.
    lab.pve.cluster.tickets.__init__(b"another key" * 3, lab.pve.cluster.clock, 7200.0)  # type: ignore[misc]
    assert (await runtime.stop(id, timeout=5)).state == "stopped"
    assert lab.pve.calls()["POST /access/ticket"] > logins


async def test_a_wrong_password_is_said(lab: Lab) -> None:
    name, _ = lab.pve.user()
    runtime = await lab.open(lab.settings(user=name, password="wrong-wrong"))
    with pytest.raises(errors.RuntimeUnavailable) as caught:
        await runtime.ping()
    assert "login" in caught.value.message


async def test_a_certificate_of_an_unknown_authority_is_refused(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(ca_file=None))
    with pytest.raises(errors.RuntimeUnavailable) as caught:
        await runtime.ping()
    assert "certificate" in caught.value.message


async def test_an_authority_as_proxmox_ve_makes_it_is_trusted_where_the_form_of_certificates_is_checked_too(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As urllib3 does since Python 3.13."""

    def strict() -> ssl.SSLContext:
        context = create_urllib3_context()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(tls, "create_urllib3_context", strict)
    settings = lab.settings()
    await (await lab.open(settings)).ping()
    with monkeypatch.context() as only:
        only.setattr(tls, "make_context", lambda _verify: strict())
        refused = await lab.open(settings, instance="strict")
        with pytest.raises(errors.RuntimeUnavailable) as caught:
            await refused.ping()
    assert "Key" in caught.value.message  # its certificates name no keys, and no use of them


@pytest.mark.parametrize(
    ("answer", "words", "passing"),
    [(b"", "was cut", True), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no TLS", False)],
    ids=["ends", "speaks-http"],
)
async def test_what_is_no_matter_of_certificates_is_not_called_one(
    lab: Lab, answer: bytes, words: str, passing: bool
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        runtime = await lab.open(lab.settings(url=f"https://127.0.0.1:{port}"), interval=60)
        with pytest.raises(CallFailed) as caught:
            await runtime.client.get("version")
        assert (words in caught.value.words, caught.value.passing) == (True, passing)
        await runtime.close()


async def test_a_file_without_certificates_is_named(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    runtime = await lab.open(lab.settings(ca_file=file), interval=60)
    with pytest.raises(errors.RuntimeUnavailable, match="ca_file holds no certificate"):
        await runtime.ping()
    file.unlink()
    with pytest.raises(errors.RuntimeUnavailable, match=r"ca_file .* is gone"):
        await runtime.ping()


async def test_threads_that_hear_at_once_that_their_ticket_is_too_old_all_get_their_answers(
    make_lab: Callable[..., Any],
) -> None:
    """The one that came second found no ticket to forget, took that for a refused password, and failed."""
    lab: Lab = await make_lab(login_delay=0.4)
    name, password = lab.pve.user()
    lab.pve.grant(name, NARROW)
    runtime = await lab.open(lab.settings(user=name, password=password), interval=60)
    await runtime.glance()
    before = lab.pve.calls()["POST /access/ticket"]
    lab.pve.cluster.tickets.__init__(b"another key" * 3, lab.pve.cluster.clock, 7200.0)  # type: ignore[misc]
    lab.pve.faults.slow(0.3, path="/version", times=6)
    told = await asyncio.gather(*(runtime.client.get("version") for _ in range(6)))
    assert {each["version"] for each in told} == {"9.2.11"}
    assert lab.pve.calls()["POST /access/ticket"] == before + 1


async def test_threads_that_connect_at_once_find_the_certificates_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that read them into one context at once ended the whole process, once in some hundred starts."""
    runtime = await lab.open(interval=60)
    await runtime.ping()
    seen: list[str] = []

    def counted(name: str) -> None:
        real = getattr(ssl.SSLContext, name)

        def count(context: ssl.SSLContext, *values: Any, **named: Any) -> Any:
            seen.append(name)
            return real(context, *values, **named)

        monkeypatch.setattr(ssl.SSLContext, name, count)

    counted("wrap_socket")
    counted("load_verify_locations")
    counted("set_alpn_protocols")
    lab.pve.faults.slow(0.3, path="/version", times=8)
    await asyncio.gather(*(runtime.client.get("version") for _ in range(8)))
    assert len(seen) >= 4  # handshakes
    assert set(seen) == {"wrap_socket"}


async def test_an_authority_that_was_renewed_is_read_anew_and_one_that_is_gone_for_a_moment_goes_on(
    lab: Lab, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    shutil.copy(lab.pve.ca_file, file)
    runtime = await lab.open(lab.settings(ca_file=file), interval=60)
    await runtime.ping()
    file.unlink()
    await runtime.ping()
    file.write_text("half of a certi")
    await runtime.ping()
    (tmp_path / "other").mkdir()
    _, other = certificate.make(tmp_path / "other")
    shutil.copy(other, file)
    with pytest.raises(errors.RuntimeUnavailable, match="certificate is not accepted"):
        await runtime.ping()
    shutil.copy(lab.pve.ca_file, file)
    await runtime.ping()


async def test_who_never_answers_is_told_by_what_was_seen_of_it(lab: Lab) -> None:
    runtime = await lab.open(interval=60)
    # Its first look at the server is over: that asks for the version, too, and would take the fault.
    await eventually(lambda: lab.pve.calls()["GET /cluster/resources"] > 0)
    lab.pve.faults.cut("GET /version", times=1)
    lab.pve.faults.slow(8, path="/version", times=1)
    with pytest.raises(CallFailed, match="was cut"):
        await runtime.client.get("version", within=3)


@pytest.mark.parametrize("body", [b"null", b"[]", b'"no"', b"<html>", b"\xff\xfe"])
async def test_a_gateways_own_answer_is_told_with_its_status(lab: Lab, tmp_path: Path, body: bytes) -> None:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(status=502, reason="Bad Gateway", body=body)

    async with elsewhere(tmp_path, handle) as (url, ca_file):
        runtime = await lab.open(lab.settings(url=url, ca_file=ca_file), interval=60)
        with pytest.raises(CallFailed) as caught:
            await runtime.client.post("nodes/pve1/lxc/100/status/start")
        assert (caught.value.status, caught.value.words) == (502, "Bad Gateway")
        await runtime.close()


async def test_without_the_check_nobody_is_warned_again_and_again(lab: Lab) -> None:
    with warnings.catch_warnings():
        runtime = await lab.open(lab.settings(ca_file=None, verify_tls=False))
        await runtime.ping()


async def test_no_route_is_answered_in_time(lab: Lab) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        runtime = await lab.open(lab.settings(url=f"https://127.0.0.1:{nobody.getsockname()[1]}"))
        with pytest.raises(errors.RuntimeUnavailable) as caught:
            await runtime.ping()
        assert "no connection" in caught.value.message


async def test_a_server_that_hangs_is_answered_in_time(lab: Lab) -> None:
    runtime = await lab.open(interval=60)
    await runtime.list()
    lab.pve.faults.slow(3, path="/version")
    with pytest.raises(errors.RuntimeUnavailable):
        await runtime.ping(timeout=0.3)


async def test_the_environment_of_the_manager_is_not_believed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    runtime = await lab.open()
    await runtime.ping()
    name, password = lab.pve.user()
    by_password = await lab.open(lab.settings(user=name, password=password), instance="second")
    await by_password.ping()


async def test_passwords_do_not_reach_a_log(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    runtime = await lab.open()
    for name in ("proxmoxer.core", "proxmoxer.backends.https"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    await runtime.client.post("nodes/pve1/lxc/100/status/start", within=5)
    assert "proxmoxer" not in {record.name.partition(".")[0] for record in caplog.records}
    assert lab.token_id not in caplog.text


async def test_connections_are_kept_and_no_more_than_there_are_threads(lab: Lab) -> None:
    runtime = await lab.open(interval=60)
    await asyncio.gather(*(runtime.client.get("version") for _ in range(64)))
    adapter: Any = session_of(runtime.client._api).get_adapter("https://")
    [pool] = [adapter.poolmanager.pools[key] for key in adapter.poolmanager.pools.keys()]  # noqa: SIM118
    assert pool.num_connections <= 8 + 2  # a server closes each after a hundred requests


@pytest.mark.parametrize("answer", ["redirect", "html", "other-json", "huge"])
async def test_what_is_no_such_server_is_not_believed(lab: Lab, tmp_path: Path, answer: str) -> None:
    async def handle(_request: web.Request) -> web.Response:
        if answer == "redirect":
            return web.Response(status=302, headers={"Location": "https://127.0.0.1:1/api2/json/version"})
        if answer == "other-json":
            return web.json_response({"data": {"hello": 1}})
        return web.Response(text="<html>" * (1 if answer == "html" else 1000), content_type="text/html")

    async with elsewhere(tmp_path, handle) as (url, ca_file):
        runtime = await lab.open(lab.settings(url=url, ca_file=ca_file))
        with pytest.raises(errors.RuntimeUnavailable) as caught:
            await runtime.ping()
        assert "Proxmox VE" in caught.value.message
        await runtime.close()


async def test_no_thread_is_left_by_a_closed_runtime(lab: Lab) -> None:
    runtime = await lab.open()
    await runtime.ping()
    await runtime.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pve-")]
    with pytest.raises(errors.RuntimeUnavailable):
        await runtime.ping()


async def test_a_token_that_is_revoked_in_mid_operation_ends_it_with_an_answer(
    make_lab: Callable[..., Any],
) -> None:
    lab: Lab = await make_lab(task_time=0.5)
    runtime = await lab.open(interval=60)
    id = await lab.adopted(runtime, lab.pve.add_container())
    starting = asyncio.create_task(runtime.start(id))
    await asyncio.sleep(0.3)
    lab.pve.faults.revoke(lab.token_id)
    with pytest.raises(errors.RuntimeUnavailable):
        await asyncio.wait_for(starting, 10)


def test_without_requests_the_process_lives_on() -> None:
    """proxmoxer would end it (`sys.exit`) when its backend is imported."""
    code = (
        "import sys; sys.modules['requests'] = None\n"
        "try:\n    import flow_manager.runtimes.proxmox.provider\n"
        "except ImportError:\n    print('told')\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=50)
    assert (done.returncode, done.stdout.strip()) == (0, "told")


def test_warnings_of_others_are_left_as_they_were() -> None:
    code = (
        "import warnings, urllib3\n"
        "from flow_manager.runtimes.proxmox.transport import Address, Login, make_api\n"
        "before = list(warnings.filters)\n"
        "make_api(Address('h', 1, None), Login('a@pve!t', 's'), verify=True, connect=1, connections=1)\n"
        "assert warnings.filters == before\n"
        "make_api(Address('h', 1, None), Login('a@pve!t', 's'), verify=False, connect=1, connections=1)\n"
        "assert warnings.filters != before\n"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=50)


def test_a_failure_never_shows_the_secret() -> None:
    from flow_manager.runtimes.proxmox.transport import Login
    from flow_manager.settings.runtime import RuntimeSettings

    assert "s3cret" not in repr(Login("a@pve!t", "s3cret", password="s3cret"))
    assert "s3cret" not in repr(RuntimeSettings(token_id="a@pve!t", secret="s3cret", password="s3cret"))
    assert not CallFailed(500, "x").passing
