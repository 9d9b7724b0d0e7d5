"""Commands and terminals through a container's console: who may, what it must be set to, and what else can be there."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.inside import Command, ExecOutcome, Terminal
from flow_manager.runtimes.proxmox import console, console_session
from flow_manager.runtimes.proxmox.provider import ProxmoxProvider
from tests.integration.proxmox.conftest import NARROW, Lab, make_spec
from tests.pve.access import LEAST

PATIENCE = 30.0
LIMIT = 1 << 20


async def execute(runtime: ProxmoxProvider, id: str, *argv: str, timeout: float = 30.0) -> ExecOutcome:
    return await runtime.exec(id, Command(argv), timeout=timeout, limit=LIMIT)


async def ready(lab: Lab, **config: Any) -> tuple[ProxmoxProvider, str, int]:
    runtime = await lab.open()
    vmid = lab.pve.add_container(running=True, **config)
    return runtime, await lab.adopted(runtime, vmid), vmid


async def shows(terminal: Terminal, words: bytes) -> None:
    seen = b""
    async with asyncio.timeout(PATIENCE):
        while words not in seen:
            data = await terminal.read()
            assert data, seen
            seen += data


def number() -> str:
    """Seconds that no other process on this machine sleeps for."""
    return str(10**6 + secrets.randbelow(10**8))


def sleepers(seconds: str) -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if command(path) == f"sleep\0{seconds}\0".encode()]


async def begun(seconds: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not sleepers(seconds):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.02)


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_a_user_with_a_password_may_also_before_9_1(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(version="8.4.1")
    name, password = lab.pve.user("person@pve", "secret-2")
    lab.pve.grant(name, LEAST)
    runtime = await lab.open(lab.settings(user=name, password=password))
    id = await lab.adopted(runtime, lab.pve.add_container(running=True))
    assert await execute(runtime, id, "echo", "inside") == ExecOutcome(0, b"inside\n", b"")


async def test_a_token_before_9_1_is_unsupported_with_the_remedy_and_nothing_is_asked(
    make_lab: Callable[..., Any],
) -> None:
    lab: Lab = await make_lab(version="8.4.1")
    runtime, id, _ = await ready(lab)
    for call in (execute(runtime, id, "true"), runtime.attach(id, None)):
        with pytest.raises(errors.Unsupported) as refused:
            await call
        assert "`user` and `password`" in refused.value.message and "8.4.1" in refused.value.message
    assert lab.pve.calls()["POST /nodes/{node}/lxc/{vmid}/termproxy"] == 0


async def test_a_login_without_the_privilege_is_told_which_and_where(lab: Lab) -> None:
    runtime = await lab.open(lab.settings(NARROW))
    vmid = lab.pve.add_container(running=True)
    id = await lab.adopted(runtime, vmid)
    with pytest.raises(errors.Unsupported) as refused:
        await execute(runtime, id, "true")
    details = refused.value.details
    assert (details["capability"], details["privilege"], details["path"]) == ("exec", "VM.Console", f"/vms/{vmid}")
    assert "VM.Console" in refused.value.message


async def test_a_console_that_is_not_checked_in_time_is_unavailable(
    make_lab: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab: Lab = await make_lab(console_wait=0.0)
    runtime, id, _ = await ready(lab)
    with pytest.raises(errors.RuntimeUnavailable) as refused:
        await execute(runtime, id, "true")
    assert "console" in refused.value.message


async def test_the_certificate_of_a_console_is_checked_as_that_of_any_call(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, id, _ = await ready(lab)
    right = console.trusting_context
    monkeypatch.setattr(console, "trusting_context", lambda verify: right(True))
    with pytest.raises(errors.RuntimeUnavailable) as refused:
        await execute(runtime, id, "true")
    assert "certificate" in refused.value.message.lower()


# --- what the console is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tty", "console"])
async def test_a_console_that_is_no_shell_is_unsupported_with_the_remedy(lab: Lab, mode: str) -> None:
    runtime, id, vmid = await ready(lab, cmode=mode)
    for call in (execute(runtime, id, "true"), runtime.attach(id, None)):
        with pytest.raises(errors.Unsupported) as refused:
            await call
        assert f"pct set {vmid} --cmode shell" in refused.value.message
        assert refused.value.details["reason"] == f"cmode={mode}"


async def test_the_console_of_a_program_is_its_flows_main_terminal(lab: Lab) -> None:
    runtime, id, vmid = await ready(lab, cmode="console", entrypoint="sh -c 'while read -r l; do echo got $l; done'")
    await asyncio.sleep(0.2)
    terminal = await runtime.attach(id, None, main=True)
    await terminal.write(b"one\r")
    await shows(terminal, b"got one\r\n")
    await terminal.close()
    assert lab.pve.containers[vmid].running


async def test_what_a_flow_was_made_for_decides_its_console(lab: Lab) -> None:
    runtime = await lab.open()
    for tty, mode in ((False, "shell"), (True, "console")):
        seen = await runtime.create(make_spec(image="loop", tty=tty))
        assert lab.pve.containers[int(seen.runtime_id or 0)].config["cmode"] == mode


async def test_a_shell_that_asks_for_the_cursor_gets_on_as_any_other(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(asks_cursor=True)
    runtime, id, _ = await ready(lab)
    for words in ("one", "two"):
        assert (await execute(runtime, id, "echo", words)).stdout == f"{words}\n".encode()


async def test_a_command_has_the_environment_and_folder_that_the_config_gives_the_program(lab: Lab) -> None:
    runtime, id, vmid = await ready(lab, env="GREETING=good day\0EMPTY=")
    lab.pve.containers[vmid].raw.append(("lxc.init.cwd", "/usr"))
    outcome = await execute(runtime, id, "sh", "-c", 'echo "$GREETING"; pwd')
    assert outcome.stdout == b"good day\n/usr\n"


# --- one at a time ----------------------------------------------------------------------------------------------------


async def test_while_a_terminal_is_open_there_is_no_other_and_no_command(lab: Lab) -> None:
    runtime, id, _ = await ready(lab)
    terminal = await runtime.attach(id, None)
    began = time.monotonic()
    for call in (execute(runtime, id, "true"), runtime.attach(id, None)):
        with pytest.raises(errors.Conflict) as refused:
            await call
        assert refused.value.details["operation"] == "attach"
    assert time.monotonic() - began < 15
    await terminal.close()
    assert (await execute(runtime, id, "true")).exit_code == 0


async def test_a_command_waits_for_another_as_long_as_it_may_run(lab: Lab) -> None:
    runtime, id, _ = await ready(lab)
    first = asyncio.create_task(execute(runtime, id, "sleep", "3"))
    while not lab.pve.calls()["POST /nodes/{node}/lxc/{vmid}/termproxy"]:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    with pytest.raises(errors.Conflict) as refused:
        await execute(runtime, id, "true", timeout=0.2)
    assert refused.value.details["operation"] == "exec"
    assert (await execute(runtime, id, "true")).exit_code == 0
    assert (await first).exit_code == 0


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_cut_connection_is_told_and_what_ran_is_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_manager.runtimes.proxmox.consoles.SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(console_session, "CLEAR_SECONDS", 1.0)
    runtime, id, _ = await ready(lab)
    seconds = number()
    running = asyncio.create_task(execute(runtime, id, "sleep", seconds))
    await begun(seconds)
    for websocket in list(lab.pve.cluster.sockets):
        await websocket.close()
    with pytest.raises(errors.RuntimeUnavailable) as told:
        await running
    assert "cut" in told.value.message and "left_running" not in told.value.details
    assert (await execute(runtime, id, "true")).exit_code == 0
    assert sleepers(seconds) == []


async def test_a_terminal_whose_connection_is_cut_ends_and_its_program_with_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_manager.runtimes.proxmox.consoles.SETTLE_SECONDS", 0.3)
    runtime, id, _ = await ready(lab)
    seconds = number()
    terminal = await runtime.attach(id, Command(("sh", "-c", f"trap '' INT; echo up; exec sleep {seconds}")))
    await shows(terminal, b"up")
    for websocket in list(lab.pve.cluster.sockets):
        await websocket.close()
    async with asyncio.timeout(PATIENCE):
        while await terminal.read():
            pass
        assert await terminal.wait() is None
    assert (await execute(runtime, id, "true")).exit_code == 0
    assert sleepers(seconds) == []


async def test_the_key_that_would_detach_the_session_never_reaches_it(lab: Lab) -> None:
    runtime, id, _ = await ready(lab)
    terminal = await runtime.attach(id, Command(("sh", "-c", "stty raw; echo up; head -c 2 | od -An -tx1")))
    await shows(terminal, b"up")
    await terminal.write(b"\x1ca\x1cb")
    await shows(terminal, b"61 62")
    await terminal.close()


async def test_a_login_that_is_revoked_is_told(lab: Lab) -> None:
    runtime, id, _ = await ready(lab)
    del lab.pve.cluster.access.tokens[lab.token_id]
    with pytest.raises(errors.RuntimeUnavailable) as refused:
        await execute(runtime, id, "true")
    assert "login" in refused.value.message


async def test_a_closed_runtime_leaves_no_command_behind(lab: Lab) -> None:
    runtime, id, _ = await ready(lab)
    seconds = number()
    running = asyncio.create_task(execute(runtime, id, "sleep", seconds))
    await begun(seconds)
    await runtime.close()
    with pytest.raises(errors.FlowManagerError):
        await running
    assert sleepers(seconds) == []


def command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
