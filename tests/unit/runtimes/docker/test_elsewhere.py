"""An engine on another machine: which one is, where it is reached, and how code gets there."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from flow_manager.errors import NoSpace, RuntimeRefused, RuntimeUnavailable
from flow_manager.runtimes.base import FlowSpec
from flow_manager.runtimes.docker import code
from flow_manager.runtimes.docker.code import CodeCopier, archive, read
from flow_manager.runtimes.docker.containers import Containers
from flow_manager.runtimes.docker.spec import container_body
from flow_manager.runtimes.docker.whereabouts import EngineHost, is_elsewhere
from flow_manager.settings.runtime import RuntimeSettings
from tests.unit.runtimes.docker.test_client import serve  # noqa: F401  (a fixture)


@pytest.mark.parametrize(
    ("url", "settings", "elsewhere"),
    [
        ("unix:///var/run/docker.sock", {}, False),
        ("tcp://127.0.0.1:2375", {}, False),
        ("tcp://[::1]:2375", {}, False),
        ("tcp://localhost:2375", {}, False),
        ("http://127.0.0.9", {}, False),
        ("tcp://10.0.0.7:2376", {}, True),
        ("https://docker.example:2376", {}, True),
        ("tcp://127.0.0.1.example", {}, True),
        ("tcp://127.0.0.1:2375", {"remote": True}, True),
        ("tcp://socket-proxy:2375", {"remote": False}, False),
        ("tcp://socket-proxy:2375", {"state_host_dir": Path("/srv")}, False),
        ("tcp://socket-proxy:2375", {"sockets_host_dir": Path("/srv")}, False),
        ("tcp://socket-proxy:2375", {"sockets_host_dir": Path("/srv"), "remote": True}, True),
        ("tcp://[broken", {}, False),
    ],
)
def test_an_engine_is_elsewhere_by_its_address_unless_settings_know_better(
    url: str, settings: dict[str, object], elsewhere: bool
) -> None:
    assert is_elsewhere(url, RuntimeSettings(**settings)) is elsewhere  # type: ignore[arg-type]


async def test_a_name_is_looked_up_and_stays_known_when_that_fails_later() -> None:
    answers = iter(["10.0.0.7", OSError("no such name"), "10.0.0.8"])

    async def resolve(name: str) -> str:
        assert name == "docker.example"
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    host = EngineHost("tcp://docker.example:2376", resolve)
    seen = [host.address]
    for _ in range(3):
        await host.look_up()
        seen.append(host.address)
    assert seen == ["", "10.0.0.7", "10.0.0.7", "10.0.0.8"]


@pytest.mark.parametrize(("url", "address"), [("tcp://10.0.0.7:1", "10.0.0.7"), ("tcp://[fd00::7]:1", "fd00::7")])
async def test_an_address_needs_no_looking_up(url: str, address: str) -> None:
    async def resolve(_: str) -> str:
        raise AssertionError

    host = EngineHost(url, resolve)
    await host.look_up()
    assert host.address == address


def spec(**changes: object) -> FlowSpec:
    fields = {"container_name": "web", "tenant": "default", "instance": "lab", "image": "i"} | changes
    return FlowSpec(id="abcdefghijkl", name="web", **fields)  # type: ignore[arg-type]


def test_nothing_is_mounted_there_and_the_flow_is_told_of_the_tls_port() -> None:
    told = {"FLOW_URL": "tls://m:1", "FLOW_TOKEN": "t"}
    made = container_body(
        spec(code_folder=Path("/state/code/x"), channel_variables=told, environment={"FLOW_TOKEN": "stolen"}),
        network=None,
        attempt="a",
        sockets_dir=Path("/s"),
        state_dir=Path("/state"),
        elsewhere=True,
    )
    assert made["HostConfig"]["Mounts"] == []
    assert sorted(made["Env"]) == ["FLOW_CODE=/flow", "FLOW_ID=abcdefghijkl", "FLOW_TOKEN=t", "FLOW_URL=tls://m:1"]


def test_what_is_seen_there_says_where_its_engine_is() -> None:
    containers = Containers(None, "lab", elsewhere=EngineHost("tcp://10.0.0.7:1"))  # type: ignore[arg-type]
    labels = {"flow-manager.id": "abcdefghijkl", "flow-manager.instance": "lab", "flow-manager.name": "web"}
    assert containers.remember({"Id": "f00", "Name": "/web", "Config": {"Labels": labels}}).engine_host == "10.0.0.7"


# --- the archive ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    (root / "deep" / "empty").mkdir(parents=True)
    (root / "main.py").write_text("print()")
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "nothing").touch()
    (root / "link").symlink_to("deep/big")
    (root / "folder-link").symlink_to("deep")
    (root / "deep" / "big").write_bytes(os.urandom(code.PIECE * 2 + 17))
    (root / ("long " * 30 + "näme")).write_text("ü")
    (root / os.fsdecode(b"odd-\xff")).write_text("odd")
    return root


def test_the_archive_holds_the_folder_as_it_is(folder: Path) -> None:
    pieces = list(archive(folder, "flow"))
    assert max(map(len, pieces)) < 3 * code.PIECE
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        members = {member.name: member for member in tar.getmembers()}
        assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
        assert members["flow"].isdir()
        assert members["flow/deep/empty"].isdir()
        assert members["flow/link"].linkname == "deep/big"
        assert members["flow/folder-link"].issym()
        assert (members["flow/run"].mode, members["flow/main.py"].mode & 0o777) == (0o755, 0o644)
        for path in folder.rglob("*"):
            member = members.pop(f"flow/{path.relative_to(folder)}")
            if member.isfile():
                held = tar.extractfile(member)
                assert held is not None
                assert held.read() == path.read_bytes()
        assert set(members) == {"flow"}


def test_a_file_that_shrinks_while_it_is_read_is_no_archive(folder: Path) -> None:
    pieces = archive(folder, "flow")
    with pytest.raises(OSError, match="was cut"):
        for _ in pieces:
            (folder / "deep" / "big").write_bytes(b"")


async def test_code_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(RuntimeRefused, match="code can't be read: No such file"):
        async for _ in read(tmp_path / "nothing"):
            pass


# --- on its way -------------------------------------------------------------------------------------------------------


async def test_it_arrives_whole(serve, folder: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    got: list[tuple[str, str, str, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        got.append((request.method, request.path_qs, request.content_type, await request.read()))
        return web.Response()

    client = await serve(handler)
    await CodeCopier(client, timeout=30).put("abcdefghijkl", "f00", folder)
    assert [item[:3] for item in got] == [("PUT", "/v1.41/containers/f00/archive?path=/", "application/x-tar")]
    assert got[0][3] == b"".join(archive(folder, "flow"))


async def test_an_engine_that_takes_no_more_is_given_up(serve, folder: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    async def handler(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    client = await serve(handler)
    with pytest.raises(RuntimeUnavailable, match="in time"):
        await CodeCopier(client, timeout=0.2).put("abcdefghijkl", "f00", folder)


async def test_a_slow_engine_is_not_given_up_while_it_takes_piece_after_piece(serve) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    async def slow() -> AsyncGenerator[bytes, None]:
        for _ in range(8):
            await asyncio.sleep(0.1)
            yield b"x"

    client = await serve(handler)
    await client.upload("containers/f00/archive", slow(), params={"path": "/"}, timeout=0.5)


async def test_an_engine_without_room_says_so_and_no_file_stays_open(serve, folder: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"message": "write /flow: no space left on device"}, status=500)

    client = await serve(handler)
    with pytest.raises(NoSpace):
        await CodeCopier(client, timeout=5).put("abcdefghijkl", "f00", folder)


async def test_code_that_can_not_be_read_on_the_way_is_no_trouble_of_the_engine(serve, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    client = await serve(handler)
    with pytest.raises(RuntimeRefused, match="can't be read"):
        await CodeCopier(client, timeout=5).put("abcdefghijkl", "f00", tmp_path / "nothing")
