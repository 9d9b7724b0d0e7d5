from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import Mount, PortBinding
from flow_manager.runtimes.docker.provider import DockerProvider
from tests.contract.harness import PATIENCE, printed, run, until
from tests.contract.harness_docker import DockerHarness
from tests.engine import PYTHON_IMAGE, engine_api

pytestmark = pytest.mark.docker


def inspected(lab: DockerHarness, name: str) -> dict[str, Any]:
    return engine_api.request(lab.host, "GET", f"/containers/{name}/json")


async def test_limits_and_hardening_reach_the_engine(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("sleeps", memory=64 * 2**20, cpus=0.5, pids=32, tty=True, stop_signal="SIGINT", working_dir="/tmp")
    await docker.create(spec)
    seen = inspected(lab, spec.container_name)
    host = seen["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        64 * 2**20,
        64 * 2**20,
        500_000_000,
        32,
    )
    assert (host["Init"], host["Privileged"], host["SecurityOpt"]) == (True, False, ["no-new-privileges"])
    assert not host["Binds"]
    assert host["LogConfig"]["Config"]["max-size"] == "10m"
    config = seen["Config"]
    assert (config["Tty"], config["OpenStdin"], config["StopSignal"], config["WorkingDir"]) == (
        True,
        True,
        "SIGINT",
        "/tmp",
    )


async def test_the_process_limit_is_really_kept(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec(
        "sleeps", pids=6, command=("sh", "-c", "i=0; while [ $i -lt 20 ]; do sleep 9 & i=$((i+1)); done; wait")
    )
    await docker.create(spec)
    await docker.start(spec.id)

    async def refused() -> bool:
        return any("fork" in line.text for line in await docker.logs(spec.id))

    await until(refused, "a fork is refused")


async def test_a_flow_that_uses_too_much_memory_is_seen_to_be_killed_for_it(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    spec = lab.spec(
        "sleeps", memory=16 * 2**20, image=PYTHON_IMAGE, command=("python3", "-Sc", "x = bytearray(1 << 28)")
    )
    await docker.create(spec)
    stream = docker.watch()
    assert (await anext(stream)).type == "resync"  # type: ignore[arg-type]
    await docker.start(spec.id)
    async with asyncio.timeout(PATIENCE):
        while (event := await anext(stream)).type != "died":  # type: ignore[arg-type]
            pass
    await stream.aclose()  # type: ignore[attr-defined]
    assert (event.cause, event.exit_code) == ("oom", 137)
    assert (await docker.inspect(spec.id)).oom_killed


async def test_flows_of_a_tenant_find_each_other_by_name_and_those_of_others_do_not(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    server = lab.spec("serves")
    await run(docker, server)
    # The server's busybox listens after "ready" was printed: the client tries again.
    ask = (
        f"for i in 1 2 3 4 5 6 7 8; do nc {server.name} 8080 </dev/null && break; sleep 0.3; done; echo over; sleep 60"
    )
    friend = lab.spec("sleeps", command=("sh", "-c", ask))
    await docker.create(friend)
    await docker.start(friend.id)
    await printed(docker, friend.id, "served")
    stranger = lab.spec(
        "sleeps", tenant="blue", command=("sh", "-c", f"nc -w 1 {server.name} 8080 </dev/null; echo over; sleep 60")
    )
    await docker.create(stranger)
    await docker.start(stranger.id)
    await printed(docker, stranger.id, "over")
    assert "served" not in [line.text for line in await docker.logs(stranger.id)]
    networks = {network["Name"] for network in engine_api.request(lab.host, "GET", "/networks")}
    assert {f"flow-manager-{lab.instance}", f"flow-manager-{lab.instance}-blue"} <= networks
    addresses = (await docker.inspect(server.id)).addresses
    assert len(addresses) == 1
    reader, writer = await asyncio.open_connection(addresses[0], 8080)
    assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"served\n"
    writer.close()


async def test_further_networks_are_joined_and_an_unknown_one_leaves_nothing(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    name = f"extra-{lab.instance}"
    body = {"Name": name, "Labels": {"flow-manager.instance": lab.instance}}
    engine_api.request(lab.host, "POST", "/networks/create", body=body)
    spec = lab.spec("sleeps", networks=(name,))
    await run(docker, spec)
    seen = inspected(lab, spec.container_name)["NetworkSettings"]["Networks"]
    assert set(seen) == {name, f"flow-manager-{lab.instance}"}
    assert spec.name in seen[name]["Aliases"]
    assert len((await docker.inspect(spec.id)).addresses) == 2
    with pytest.raises(errors.RuntimeRefused):
        await docker.create(lab.spec("sleeps", networks=("no-such-network",)))
    assert len(await lab.leftovers()) == 1
    await docker.remove(spec.id, force=True)


async def test_networks_go_with_the_last_flow_and_not_before(lab: DockerHarness, docker: DockerProvider) -> None:
    def networks() -> set[str]:
        filters = json.dumps({"label": [f"flow-manager.instance={lab.instance}"]})
        return {
            network["Name"] for network in engine_api.request(lab.host, "GET", "/networks", params={"filters": filters})
        }

    first, second = lab.spec("sleeps"), lab.spec("sleeps")
    await docker.create(first)
    await docker.create(second)
    await docker.remove(first.id)
    await docker._networks.sweep()
    assert networks() == {f"flow-manager-{lab.instance}"}
    await docker.remove(second.id)
    await docker.close()
    assert networks() == set()


async def test_a_network_goes_also_when_somebody_else_removed_its_last_flow(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    spec = lab.spec("sleeps")
    await docker.create(spec)
    engine_api.request(lab.host, "DELETE", f"/containers/{spec.container_name}", params={"force": 1})
    await docker.close()
    with pytest.raises(engine_api.EngineError, match="not found"):
        engine_api.request(lab.host, "GET", f"/networks/flow-manager-{lab.instance}")


async def test_a_network_that_somebody_removed_is_made_again_at_the_start(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    spec = lab.spec("sleeps")
    await docker.create(spec)
    engine_api.request(lab.host, "DELETE", f"/networks/flow-manager-{lab.instance}")
    assert (await docker.start(spec.id)).state == "running"
    assert (await docker.inspect(spec.id)).addresses


async def test_without_a_network_of_its_own_a_flow_is_on_the_default_one(lab: DockerHarness, provider: Any) -> None:
    docker = await provider(lab, network=False)
    spec = lab.spec("sleeps")
    await docker.create(spec)
    assert set(inspected(lab, spec.container_name)["NetworkSettings"]["Networks"]) == {"bridge"}


async def test_a_flow_reaches_its_channel_through_the_mount_also_as_another_user(
    lab: DockerHarness, docker: DockerProvider
) -> None:
    spec = lab.spec("sleeps", image=PYTHON_IMAGE, command=("sh", "-c", "su nobody -s /bin/sh -c 'echo hello | socat - UNIX-CONNECT:$FLOW_SOCKET'; sleep 60"))  # fmt: skip
    assert spec.channel_folder is not None
    spec.channel_folder.chmod(0o711)
    path = spec.channel_folder / f"{spec.id}.sock"
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.put_nowait(await reader.readline())
        writer.close()

    # A path of the test's own folder may be longer than a socket's may be: bound from within it.
    listener = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(spec.channel_folder)
    try:
        listener.bind(path.name)
    finally:
        os.chdir(before)
    path.chmod(0o666)
    async with await asyncio.start_unix_server(take, sock=listener):
        await docker.create(spec)
        await docker.start(spec.id)
        assert await asyncio.wait_for(got.get(), PATIENCE) == b"hello\n"


async def test_a_flow_cannot_put_anything_in_its_channels_place(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("sleeps", command=("sh", "-c", "touch /run/flow/x; rm -rf /run/flow/*; echo over; sleep 60"))
    assert spec.channel_folder is not None
    (spec.channel_folder / "kept").touch()
    await docker.create(spec)
    await docker.start(spec.id)
    await printed(docker, spec.id, "over")
    assert [entry.name for entry in spec.channel_folder.iterdir()] == ["kept"]


async def test_bind_sources_are_the_engines_hosts_when_the_manager_is_in_a_container(
    lab: DockerHarness, provider: Any, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    docker = await provider(lab, sockets_host_dir=outside / "s", state_host_dir=outside / "v")
    code = tmp_path / "state" / "code" / "x"
    spec = lab.spec("sleeps", code_folder=code, command=("sh", "-c", "cat /run/flow/mark /flow/mark; sleep 60"))
    for folder, text in ((outside / "s" / spec.id, "channel"), (outside / "v" / "code" / "x", "code")):
        folder.mkdir(parents=True)
        (folder / "mark").write_text(f"{text}\n")
    await docker.create(spec)
    await docker.start(spec.id)
    await printed(docker, spec.id, "code")
    assert [line.text for line in await docker.logs(spec.id)] == ["channel", "code"]


async def test_a_volume_whose_source_is_missing_is_refused_and_not_made(
    lab: DockerHarness, docker: DockerProvider, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(errors.RuntimeRefused, match="does not exist"):
        await docker.create(lab.spec("sleeps", mounts=(Mount(missing, "/data"),)))
    assert not missing.exists()
    assert await lab.leftovers() == []


async def test_a_read_only_volume_is_read_only(lab: DockerHarness, docker: DockerProvider, tmp_path: Path) -> None:
    spec = lab.spec(
        "sleeps", mounts=(Mount(tmp_path, "/data", True),), command=("sh", "-c", "touch /data/x; echo over; sleep 60")
    )
    await docker.create(spec)
    await docker.start(spec.id)
    await printed(docker, spec.id, "over")
    assert not (tmp_path / "x").exists()


async def test_a_link_that_took_the_place_of_a_volumes_folder_is_not_followed_at_the_start(
    lab: DockerHarness, docker: DockerProvider, tmp_path: Path
) -> None:
    given, other = tmp_path / "given", tmp_path / "other"
    given.mkdir()
    other.mkdir()
    spec = lab.spec("sleeps", mounts=(Mount(given, "/data"),))
    await docker.create(spec)
    given.rmdir()
    given.symlink_to(other)
    with pytest.raises(errors.PathNotAllowed) as caught:
        await docker.start(spec.id)
    assert caught.value.details["path"] == str(given)
    assert not (await docker.inspect(spec.id)).running
    given.unlink()
    given.mkdir()
    await docker.start(spec.id)


async def test_ports_are_published_on_loopback_alone(lab: DockerHarness, docker: DockerProvider) -> None:
    spec = lab.spec("serves")
    await run(docker, spec)
    bound = inspected(lab, spec.container_name)["NetworkSettings"]["Ports"]["8080/tcp"]
    assert [binding["HostIp"] for binding in bound] == ["127.0.0.1"]


async def test_two_flows_that_want_one_port_cannot_both_run(lab: DockerHarness, docker: DockerProvider) -> None:
    first = lab.spec("serves")
    await run(docker, first)
    port = (await docker.inspect(first.id)).ports["8080/tcp"]
    second = replace(lab.spec("serves"), ports=(PortBinding(8080, "tcp", port),))
    await docker.create(second)
    with pytest.raises(errors.PortInUse) as caught:
        await docker.start(second.id)
    assert caught.value.details["port"] == port
    await docker.stop(first.id, timeout=5)
    assert (await docker.start(second.id)).ports["8080/tcp"] == port


@pytest.mark.parametrize(
    ("command", "code"),
    [(("/etc/passwd",), 126), (("/no/such/file",), 127), (("./relative",), 127)],
)
async def test_a_command_that_cannot_be_run_says_why(
    lab: DockerHarness, docker: DockerProvider, command: tuple[str, ...], code: int
) -> None:
    spec = lab.spec("sleeps", command=command)
    await docker.create(spec)
    with pytest.raises(errors.StartFailed) as caught:
        await docker.start(spec.id)
    assert caught.value.details["exit_code"] == code
    assert command[0] in caught.value.details["reason"]
