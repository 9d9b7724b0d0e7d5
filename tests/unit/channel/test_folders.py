"""The sockets' folders: whose they are, their modes, and what a hostile flow may have put into its own."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from flow_manager.channel import folders
from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.errors import SettingsRefused, SystemFailure
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.clock import SystemClock

FLOW = "aaaabbbbcccc"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def new_handler(sockets_dir: Path) -> SocketCommunicationHandler:
    return SocketCommunicationHandler(sockets_dir, ChannelSettings(), object(), SystemClock())  # type: ignore[arg-type]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_modes_are_those_of_the_contract_whatever_the_umask(handler_less: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        handler = new_handler(handler_less)
        await handler.open()
        path = await handler.setup_socket(FLOW)
        assert path == handler_less / FLOW / f"{FLOW}.sock"
        assert mode(handler_less) == 0o700
        assert mode(path.parent) == 0o711
        assert mode(path) == 0o666
        assert path.is_socket()
    finally:
        os.umask(before)
        await handler.close()


@pytest.fixture
def handler_less(sockets_dir: Path) -> Path:
    return sockets_dir


async def test_a_folder_that_was_open_is_closed_and_what_is_in_it_stays(sockets_dir: Path) -> None:
    sockets_dir.mkdir(mode=0o755)
    (sockets_dir / "README.md").write_text("mine")
    handler = new_handler(sockets_dir)
    await handler.open()
    await handler.setup_socket(FLOW)
    await handler.close()
    assert mode(sockets_dir) == 0o700
    assert (sockets_dir / "README.md").read_text() == "mine"
    assert sorted(path.name for path in sockets_dir.iterdir()) == ["README.md", FLOW]


async def test_a_link_in_place_of_the_sockets_folder_is_refused(sockets_dir: Path) -> None:
    (sockets_dir.parent / "real").mkdir()
    sockets_dir.symlink_to("real")
    with pytest.raises(SettingsRefused, match="is a link"):
        await new_handler(sockets_dir).open()


async def test_a_file_in_place_of_the_sockets_folder_is_refused(sockets_dir: Path) -> None:
    sockets_dir.write_text("")
    with pytest.raises(SettingsRefused, match="can't be used"):
        await new_handler(sockets_dir).open()


async def test_a_path_that_leaves_no_room_for_a_sockets_name_is_refused(sockets_dir: Path) -> None:
    with pytest.raises(SettingsRefused, match="76"):
        await new_handler(sockets_dir / ("x" * 80)).open()


async def test_the_longest_allowed_folder_still_gets_its_socket(sockets_dir: Path) -> None:
    longest = sockets_dir / ("x" * (76 - len(str(sockets_dir)) - 1))
    handler = new_handler(longest)
    await handler.open()
    try:
        assert len(str(await handler.setup_socket(FLOW))) <= 107
    finally:
        await handler.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_another_users_folder_is_refused(sockets_dir: Path) -> None:
    sockets_dir.mkdir()
    os.chown(sockets_dir, 65534, 65534)
    with pytest.raises(SettingsRefused, match="belongs to user 65534"):
        await new_handler(sockets_dir).open()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_another_users_flow_folder_is_refused(sockets_dir: Path) -> None:
    handler = new_handler(sockets_dir)
    await handler.open()
    (sockets_dir / FLOW).mkdir()
    os.chown(sockets_dir / FLOW, 65534, 65534)
    try:
        with pytest.raises(SystemFailure, match="belongs to user 65534"):
            await handler.setup_socket(FLOW)
    finally:
        await handler.close()


async def test_a_link_in_place_of_a_flows_folder_is_refused_and_not_followed(sockets_dir: Path) -> None:
    target = sockets_dir.parent / "target"
    target.mkdir()
    handler = new_handler(sockets_dir)
    await handler.open()
    (sockets_dir / FLOW).symlink_to(target)
    try:
        with pytest.raises(SystemFailure, match="no folder"):
            await handler.setup_socket(FLOW)
        assert list(target.iterdir()) == []
    finally:
        (sockets_dir / FLOW).unlink()
        await handler.close()


@pytest.mark.parametrize("what", ["file", "link", "dangling link", "folder", "stale socket"])
async def test_whatever_is_in_the_sockets_place_is_removed_and_links_are_not_followed(
    sockets_dir: Path, what: str
) -> None:
    precious = sockets_dir.parent / "precious"
    precious.write_text("keep")
    precious.chmod(0o600)
    handler = new_handler(sockets_dir)
    await handler.open()
    place = handler.socket_path(FLOW)
    place.parent.mkdir()
    if what == "file":
        place.write_text("")
    elif what == "link":
        place.symlink_to(precious)
    elif what == "dangling link":
        place.symlink_to("/nowhere/at/all")
    elif what == "folder":
        (place / "deep").mkdir(parents=True)
        (place / "deep" / "link").symlink_to(precious)
    else:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(place))
    try:
        assert await handler.setup_socket(FLOW) == place
        assert place.is_socket()
        assert precious.read_text() == "keep"
        assert mode(precious) == 0o600
    finally:
        await handler.close()
    assert not place.exists()


async def test_a_link_swapped_in_after_the_bind_does_not_open_the_file_behind_it(sockets_dir: Path) -> None:
    # chmod(2) follows links: a root flow with its folder mounted could open /etc/shadow of the host to everybody.
    sockets_dir.mkdir()
    precious = sockets_dir / "precious"
    precious.write_text("keep")
    precious.chmod(0o600)
    (sockets_dir / "x.sock").symlink_to(precious)
    descriptor = os.open(sockets_dir, os.O_RDONLY)
    try:
        with pytest.raises(SystemFailure, match="something else"):
            folders.open_to_all("x.sock", descriptor)
    finally:
        os.close(descriptor)
    assert mode(precious) == 0o600


async def test_cleaning_up_removes_the_socket_and_keeps_the_folder_unless_asked(sockets_dir: Path) -> None:
    handler = new_handler(sockets_dir)
    await handler.open()
    path = await handler.setup_socket(FLOW)
    (path.parent / "left-by-the-flow").mkdir()
    (path.parent / "left-by-the-flow" / "file").write_text("x")
    await handler.cleanup_socket(FLOW)
    assert [entry.name for entry in path.parent.iterdir()] == ["left-by-the-flow"]
    await handler.cleanup_socket(FLOW, remove_folder=True)
    assert list(sockets_dir.iterdir()) == []
    await handler.cleanup_socket(FLOW, remove_folder=True)
    await handler.close()


@pytest.mark.parametrize("wrong", ["../escape", "", "AAAABBBBCCCC", "aaaabbbbcccc/x", "a" * 11, "."])
async def test_what_is_no_flow_id_never_becomes_part_of_a_path(sockets_dir: Path, wrong: str) -> None:
    handler = new_handler(sockets_dir)
    with pytest.raises(ValueError, match="not a flow's id"):
        handler.folder(wrong)


@pytest.mark.parametrize("put_there", [False, True])
async def test_a_sockets_folder_that_somebody_removed_is_made_anew(sockets_dir: Path, put_there: bool) -> None:
    handler = new_handler(sockets_dir)
    await handler.open()
    await handler.setup_socket(FLOW)
    await handler.cleanup_socket(FLOW)
    before = len(list(Path("/proc/self/fd").iterdir()))
    shutil.rmtree(sockets_dir)
    if put_there:
        sockets_dir.mkdir(mode=0o755)
    assert (await handler.setup_socket(FLOW)).is_socket()
    assert mode(sockets_dir) == 0o700
    # It is this manager's alone, as the first one was.
    with pytest.raises(SettingsRefused, match="another flow-manager"):
        folders.open_sockets_dir(sockets_dir)
    await handler.cleanup_socket(FLOW, remove_folder=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(sockets_dir.iterdir()) == []
    await handler.close()


async def test_a_link_put_in_place_of_the_sockets_folder_is_an_error_and_not_followed(sockets_dir: Path) -> None:
    elsewhere = sockets_dir.with_name("elsewhere")
    elsewhere.mkdir()
    handler = new_handler(sockets_dir)
    await handler.open()
    shutil.rmtree(sockets_dir)
    sockets_dir.symlink_to(elsewhere)
    with pytest.raises(SystemFailure, match="is a link"):
        await handler.prepare_folder(FLOW)
    assert list(elsewhere.iterdir()) == []
    await handler.close()


async def test_closing_leaves_no_descriptor_behind(sockets_dir: Path) -> None:
    handler = new_handler(sockets_dir)
    before = len(list(Path("/proc/self/fd").iterdir()))
    await handler.open()
    for _ in range(3):
        await handler.setup_socket(FLOW)
    await handler.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
