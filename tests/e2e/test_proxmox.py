"""A whole service over an emulated Proxmox VE: LXC containers sleep and wake like any other flow."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flow_manager.app import Service
from flow_manager.settings.models import Settings
from flow_manager.settings.runtime import RuntimeSettings
from tests.contract.harness import until
from tests.e2e.conftest import REPOSITORY, Client
from tests.pve.access import LEAST
from tests.pve.apidoc import must_be_genuine
from tests.pve.container import Behaviour
from tests.pve.emulator import Emulator
from tests.pve.storage import OciImage

# What an owner needs who has the containers already: see them, and start and stop them.
NARROW = {"/vms": ("VM.Audit", "VM.PowerMgmt")}
HTTP_PORT = 8080


@pytest.fixture
async def pve() -> AsyncIterator[Emulator]:
    async with Emulator() as emulator:
        yield emulator
    must_be_genuine(emulator.requests)


def settings(folder: Path, pve: Emulator, role: Any = NARROW, **changes: Any) -> Settings:
    token_id, secret = pve.token(role=role)
    lab = RuntimeSettings(
        kind="proxmox",
        url=pve.url,
        token_id=token_id,
        secret=secret,
        ca_file=pve.ca_file,
        storage="local",
        interval=1,
        emulated=True,
        adopt=True,
    )
    values: dict[str, Any] = {
        "port": 0,
        "proxy_port": 0,
        "adopt": False,
        "runtime": "lab",
        "state_dir": folder / "state",
        "sockets_dir": folder / "s",
        "runtimes": {"lab": lab},
        "log": {"level": "WARNING"},
        **changes,
    }
    return Settings.model_validate(values)


async def fetch(service: Service, host: str, path: str = "/") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(service.proxy_url, headers={"Host": host}) as session,
        session.get(path, timeout=aiohttp.ClientTimeout(total=30)) as response,
    ):
        return response.status, await response.text()


async def state_of(client: Client, flow: str) -> tuple[str, str]:
    status = await client.ok("get_status", container_id=flow)
    return status["state"], status["flow_state"]


async def becomes(client: Client, flow: str, *wanted: str) -> None:
    async def so() -> bool:
        return await state_of(client, flow) == wanted

    await until(so, f"{flow} is {wanted}", patience=30)


async def test_a_request_wakes_an_owners_container_and_gets_its_bytes(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container("pve2", name="web", onboot=1, startup="order=2,down=90")
    before = dict(pve.containers[vmid].config)
    service = await started(settings(short_folder, pve))
    client = await connect(service)
    made = await client.ok(
        "create_container",
        proxmox={"node": "pve2", "vmid": vmid},
        port=HTTP_PORT,
        idle={"idle_timeout": 1, "stop_timeout": 5, "wake_timeout": 30},
    )
    assert (made["name"], made["runtime_id"], made["adopted"], made["socket_path"]) == ("web", str(vmid), True, None)
    assert made["status"] == "stopped"

    status, text = await fetch(service, "web.localhost", "/hello?x=1")
    assert (status, "GET /hello?x=1" in text) == (200, True)
    assert pve.containers[vmid].running
    assert (await client.ok("get_status", container_id=f"lab/{vmid}"))["id"] == made["id"]

    await becomes(client, str(vmid), "stopped", "napping")  # nobody uses it: it is shut down
    assert not pve.containers[vmid].running
    assert pve.containers[vmid].config == before
    assert (await fetch(service, "web.localhost"))[0] == 200


async def test_a_container_with_the_tag_is_adopted_and_its_notes_say_how(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    notes = f"My wiki\n\nflow-manager:\n- port={HTTP_PORT}\n- idle-timeout=5m\nhosts=wiki.example\nflow-manager:\n"
    vmid = pve.add_container(
        name="wiki", tags="home;flow-manager", description=notes, behaviour=Behaviour(boot=0.3, lease=0.8)
    )
    service = await started(settings(short_folder, pve))
    client = await connect(service)

    async def there() -> bool:
        return [flow["name"] for flow in await client.ok("list_containers")] == ["wiki"]

    await until(there, "the container is adopted")
    [flow] = await client.ok("list_containers")
    assert (flow["adopted"], flow["idle"]["idle_timeout"], flow["hosts"]) == (True, 300, ["wiki.example"])
    assert (await fetch(service, "wiki.example"))[0] == 200
    assert pve.containers[vmid].running
    released = await client.ok("delete_container", container_id=str(vmid))
    assert released == {"container_id": flow["id"], "deleted": True}
    assert pve.containers[vmid].running
    assert pve.containers[vmid].config["description"] == notes


async def test_a_flow_elsewhere_wakes_the_container_that_it_depends_on(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container(name="db")
    chosen = settings(short_folder, pve)
    both = {**chosen.runtimes, "memory": RuntimeSettings()}
    service = await started(chosen.model_copy(update={"runtimes": both}))
    client = await connect(service)
    await client.ok(
        "create_container", name="db", proxmox={"vmid": vmid}, port=HTTP_PORT, idle={"ready": {"tcp": HTTP_PORT}}
    )
    app = await client.ok(
        "create_container",
        name="app",
        runtime="memory",
        image="memory",
        command=["sleep"],
        idle={"depends_on": [{"container": "db"}]},
    )
    await client.ok("wake_container", container_id=app["id"])
    assert pve.containers[vmid].running
    assert await state_of(client, "app") == ("running", "ready")
    assert await state_of(client, "db") == ("running", "ready")


async def test_a_new_container_is_made_of_a_template_and_removed_without_a_trace(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    service = await started(settings(short_folder, pve, LEAST))
    client = await connect(service)
    made = await client.ok(
        "create_container",
        name="new",
        image="service",
        environment={"COLOUR": "blue"},
        port=HTTP_PORT,
        idle={"idle_timeout": 0},
        start=True,
    )
    assert made["status"] == "running"
    [container] = pve.containers.values()
    assert container.environment["COLOUR"] == "blue"
    assert container.environment["GREETING"] == "hello"
    assert container.environment["FLOW_ID"] == made["id"]
    assert (await fetch(service, "new.localhost"))[0] == 200
    refused = await client.refused("delete_container", container_id="new")
    assert refused["code"] == "container_running"
    await client.ok("delete_container", container_id="new", force=True)
    assert not pve.containers


async def test_a_flow_in_a_container_speaks_with_the_manager_over_tls(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    channel = {"tls_listen": "127.0.0.1:0"}
    service = await started(settings(short_folder, pve, LEAST, channel=channel))
    client = await connect(service)
    await client.ok("subscribe_activity")
    path = f"PYTHONPATH={REPOSITORY}"
    made = await client.ok(
        "create_container",
        name="echo",
        image="loop",
        command=["env", path, sys.executable, str(REPOSITORY / "examples" / "echo.py")],
        start=True,
    )
    await client.connected_flow(made["id"])
    reply = await client.ok("send_message", container_id="echo", message={"a": 1}, expect_reply=True)
    assert reply["reply"] == {"echo": {"a": 1}}


async def test_a_container_that_was_named_is_known_after_a_restart(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container(name="web")
    chosen = settings(short_folder, pve)
    first = await started(chosen)
    client = await connect(first)
    made = await client.ok("create_container", proxmox={"vmid": vmid}, port=HTTP_PORT, idle={})
    await client.close()
    await first.stop()
    second = await started(chosen)
    again = await connect(second)
    [flow] = await again.ok("list_containers")
    assert (flow["id"], flow["name"], flow["adopted"]) == (made["id"], "web", True)
    assert (await fetch(second, "web.localhost"))[0] == 200


async def test_what_ends_outside_is_told_and_what_was_removed_is_lost(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container(name="web", running=True)
    service = await started(settings(short_folder, pve))
    client = await connect(service)
    await client.ok("subscribe_activity")
    await client.ok("create_container", proxmox={"vmid": vmid}, port=HTTP_PORT)
    assert (await state_of(client, "web"))[0] == "running"
    await pve.containers[vmid].migrate("pve2")
    await pve.containers[vmid].stop_outside()
    await client.until(lambda: "container_died" in client.activity())
    await client.ok("start_container", container_id="web")
    assert pve.containers[vmid].running
    await pve.containers[vmid].remove_outside()
    await client.until(lambda: "container_lost" in client.activity())


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"proxmox": {"vmid": 999}}, "container_not_found"),
        ({"proxmox": {"vmid": 100, "node": "pve9"}}, "invalid_request"),
        ({"proxmox": {"vmid": 100, "node": "pve2"}}, "invalid_request"),
        ({"proxmox": {"vmid": 100}, "environment": {"A": "1"}}, "invalid_request"),
        ({"proxmox": {"vmid": 100, "storage": "local"}}, "invalid_request"),
        ({"proxmox": {"template": "local:vztmpl/nope.tar.zst"}}, "image_not_found"),
        ({"image": "nope"}, "image_not_found"),
        ({"image": "service", "proxmox": {"node": "pve9"}}, "invalid_request"),
        ({"image": "service", "proxmox": {"storage": "nowhere"}}, "runtime_refused"),
        ({"image": "service", "idle": {"stop_method": "pause"}}, "unsupported"),
        ({"image": "service", "ports": {"80": 8080}}, "unsupported"),
        ({"image": "memory", "runtime": "memory", "proxmox": {"node": "pve1"}}, "invalid_request"),
    ],
)
async def test_what_cannot_be_is_refused_in_so_many_words_and_leaves_nothing(
    started: Callable[..., Any],
    connect: Callable[..., Any],
    pve: Emulator,
    short_folder: Path,
    asked: dict[str, Any],
    code: str,
) -> None:
    pve.add_container("pve1", 100, name="there")
    service = await started(settings(short_folder, pve, LEAST))
    client = await connect(service)
    refused = await client.refused("create_container", **asked)
    assert refused["code"] == code, refused
    assert await client.ok("list_containers") == []
    assert list(pve.containers) == [100]


async def test_a_full_storage_and_a_revoked_token_are_answers(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    chosen = settings(short_folder, pve, LEAST)
    vmid = pve.add_container("pve1", name="web", behaviour=Behaviour(stop_time=1.5), running=True)
    service = await started(chosen)
    client = await connect(service)
    await client.ok("create_container", proxmox={"vmid": vmid})
    pve.faults.storage_full()
    refused = await client.refused("create_container", image="service")
    assert refused["code"] == "no_space", refused
    assert list(pve.containers) == [vmid]
    stopping = asyncio.create_task(client.call("stop_container", container_id="web"))
    await asyncio.sleep(0.3)
    token_id = chosen.runtimes["lab"].token_id
    assert token_id is not None
    pve.faults.revoke(token_id)
    reply = await asyncio.wait_for(stopping, 30)
    assert reply["error"] is True
    assert reply["code"] == "runtime_unavailable", reply

    async def stale() -> bool:
        return bool((await client.ok("get_status", container_id="web"))["stale"])

    await until(stale, "what is known of it is old news")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def test_a_flow_made_of_an_image_speaks_to_the_manager_over_tls_and_takes_commands(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    """Its entrypoint is the flow SDK, told nothing but what stands in its container's `env`."""
    echo = OciImage(entrypoint=f"python3 {REPOSITORY}/examples/echo.py", env={"PYTHONPATH": str(REPOSITORY)})
    pve.add_template("echo.tar", oci=echo)
    service = await started(settings(short_folder, pve, LEAST, channel={"tls_listen": f"127.0.0.1:{free_port()}"}))
    client = await connect(service)
    made = await client.ok("create_container", name="echo", image="echo", start=True)
    told = dict(pve.containers[int(made["runtime_id"])].environment)
    assert told["FLOW_URL"].startswith("tls://127.0.0.1:") and told["FLOW_TOKEN"]

    async def connected() -> bool:
        return bool((await client.ok("get_status", container_id="echo"))["socket_connected"])

    await until(connected, "the flow is connected", patience=30)
    sent = await client.ok("send_message", container_id="echo", message={"n": 1}, expect_reply=True, timeout=20)
    assert sent["reply"] == {"echo": {"n": 1}}, sent

    # And by its console: a command, and a terminal.
    ran = await client.ok(
        "exec_container", container_id="echo", command=["sh", "-c", "echo $FLOW_ID; echo e >&2; exit 3"]
    )
    assert (ran["exit_code"], ran["stdout"].strip(), ran["stderr"]) == (3, made["id"], "e\n")
    opened = await client.ok("attach_container", container_id="echo")
    busy = await client.call("exec_container", container_id="echo", command=["true"])
    assert (busy["error"], busy["code"]) == (True, "conflict"), busy
    await client.ok("detach_container", terminal_id=opened["terminal_id"])


async def test_a_wake_that_waits_for_a_backup_says_so_and_goes_on_after_it(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container(name="web")
    service = await started(settings(short_folder, pve))
    client = await connect(service)
    await client.ok("subscribe_activity")
    await client.ok("create_container", proxmox={"vmid": vmid}, port=HTTP_PORT, idle={})
    pve.faults.hold_lock(vmid, "backup")
    asking = asyncio.create_task(fetch(service, "web.localhost"))
    await client.until(lambda: "operation_waiting" in client.activity())
    told = await client.ok("explain_container", container_id="web")
    assert told["waiting_for"] == "its container's lock (backup)", told
    assert told["summary"] == "starting, waiting for its container's lock (backup)"
    assert not asking.done()
    pve.faults.release_lock(vmid)
    assert (await asyncio.wait_for(asking, 30))[0] == 200
    assert (await client.ok("explain_container", container_id="web"))["waiting_for"] is None


async def test_a_wake_that_a_lock_outlasts_names_the_lock(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container(name="web")
    service = await started(settings(short_folder, pve))
    client = await connect(service)
    await client.ok("create_container", proxmox={"vmid": vmid}, port=HTTP_PORT, idle={"wake_timeout": 3})
    pve.faults.hold_lock(vmid, "backup")
    refused = await client.refused("wake_container", container_id="web")
    assert refused["code"] == "wake_timeout", refused
    assert "its container's lock (backup)" in refused["message"], refused


def notes(*lines: str) -> str:
    return "\n".join(["Wiki", "", "flow-manager:", *lines, "flow-manager:"])


async def test_edited_notes_count_and_what_a_client_set_holds_until_its_own_lines_change(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container(name="wiki", tags="flow-manager", description=notes("port=1", "idle-timeout=5m"))
    chosen = settings(short_folder, pve)
    service = await started(chosen)
    client = await connect(service)
    await client.ok("subscribe_activity")
    config = pve.containers[vmid].config

    async def flow() -> dict[str, Any]:
        found = await client.ok("list_containers")
        return found[0] if found else {}

    async def served(host: str, timeout: float) -> None:
        async def so() -> bool:
            seen = await flow()
            return (seen.get("hosts"), (seen.get("idle") or {}).get("idle_timeout")) == (
                [host] if host else [],
                timeout,
            )

        await until(so, f"it is served as {host} and sleeps after {timeout}", patience=30)

    await served("", 300)
    config["description"] = notes(f"port={HTTP_PORT}", "idle-timeout=5m", "hosts=wiki.example")
    await served("wiki.example", 300)
    assert (await fetch(service, "wiki.example"))[0] == 200

    # A client's word holds while only other lines are edited, ...
    await client.ok("set_idle_policy", container_id="wiki", idle={"idle_timeout": 900})
    config["description"] = notes(f"port={HTTP_PORT}", "idle-timeout=5m", "hosts=w.example")
    await served("w.example", 900)
    # ... also across a restart, while the manager is away, ...
    await client.close()
    await service.stop()
    config["description"] = notes(f"port={HTTP_PORT}", "idle-timeout=5m", "hosts=x.example")
    service = await started(chosen)
    client = await connect(service)
    await served("x.example", 900)
    # ... and until those very lines are.
    config["description"] = notes(f"port={HTTP_PORT}", "idle-timeout=7m", "hosts=x.example")
    await served("x.example", 420)
    entries = (await client.ok("list_activity", types=["labels_changed"]))["entries"]
    told = [entry["details"].get("idle", {}).get("idle_timeout") for entry in entries]
    assert sorted(told, key=str) == [420, None, None, None], entries

    del config["tags"]
    await client.ok("subscribe_activity")

    async def released() -> bool:
        return await flow() == {}

    await until(released, "without its tag nobody manages it", patience=30)
    entries = (await client.ok("list_activity", types=["container_released", "container_lost"]))["entries"]
    assert [entry["type"] for entry in entries] == ["container_released"]
    assert pve.containers[vmid].running


async def test_a_tag_that_was_taken_away_while_no_manager_was_there_releases_the_flow(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container(name="wiki", tags="flow-manager")
    chosen = settings(short_folder, pve)
    first = await started(chosen)
    client = await connect(first)

    async def there() -> bool:
        return len(await client.ok("list_containers")) == 1

    await until(there, "the container is adopted")
    await client.close()
    await first.stop()
    pve.containers[vmid].config["tags"] = "other"
    client = await connect(await started(chosen))
    assert await client.ok("list_containers") == []
    entries = (await client.ok("list_activity", types=["container_released", "container_lost"]))["entries"]
    assert [entry["type"] for entry in entries] == ["container_released"]


async def test_what_a_client_named_does_what_the_client_said_whatever_its_notes_say(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    vmid = pve.add_container(name="web", description=notes("idle-timeout=5m"))
    service = await started(settings(short_folder, pve))
    client = await connect(service)
    await client.ok("create_container", proxmox={"vmid": vmid}, port=HTTP_PORT, idle={"idle_timeout": 600})
    pve.containers[vmid].config["description"] = notes("idle-timeout=7m", "hosts=web.example")

    [entry] = service._core.table

    async def taken_in() -> bool:
        return entry.observation.labels.get("flow-manager.hosts") == "web.example"

    await until(taken_in, "its notes were read again", patience=30)
    [flow] = await client.ok("list_containers")
    assert (flow["hosts"], flow["idle"]["idle_timeout"]) == ([], 600)


async def test_a_flow_whose_node_is_offline_is_stale_and_its_wake_says_why_at_once(
    started: Callable[..., Any], connect: Callable[..., Any], pve: Emulator, short_folder: Path
) -> None:
    up = pve.add_container("pve2", name="up", running=True)
    asleep = pve.add_container("pve2", name="asleep")
    here = pve.add_container("pve1", name="here")
    chosen = settings(short_folder, pve)
    service = await started(chosen)
    client = await connect(service)
    for vmid in (up, asleep, here):
        await client.ok("create_container", proxmox={"vmid": vmid}, port=HTTP_PORT, idle={"wake_timeout": 120})
    pve.faults.node_offline("pve2")

    async def stale(expected: set[str]) -> bool:
        flows = ("up", "asleep", "here")
        return {each for each in flows if (await client.ok("get_status", container_id=each))["stale"]} == expected

    await until(lambda: stale({"up", "asleep"}), "what is known of the two is old", patience=30)
    assert (await state_of(client, "up"))[0] == "running"
    assert (await state_of(client, "asleep"))[0] == "stopped"
    async with asyncio.timeout(20):
        refused = await client.refused("wake_container", container_id="asleep")
    assert refused["code"] == "runtime_unavailable", refused
    assert "its node 'pve2' is offline" in refused["message"], refused
    status, text = await fetch(service, "asleep.localhost")
    assert (status, "pve2" in text) == (503, True), text
    assert (await fetch(service, "here.localhost"))[0] == 200

    # A manager that starts meanwhile takes neither for gone.
    await client.close()
    await service.stop()
    service = await started(chosen)
    client = await connect(service)
    await until(lambda: stale({"up", "asleep"}), "what was known of the two is old", patience=30)
    assert len(await client.ok("list_containers")) == 3
    pve.faults.node_online("pve2")
    await until(lambda: stale(set()), "all are seen again", patience=30)
    assert (await state_of(client, "up"))[0] == "running"
    assert (await client.ok("wake_container", container_id="asleep"))["state"] == "running"
    lost = await client.ok("list_activity", types=["container_lost", "container_died", "container_released"])
    assert lost["entries"] == []
