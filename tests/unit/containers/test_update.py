"""Other code for a flow: whole or not at all, and what was there comes back when it fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from flow_manager.contract import requests
from flow_manager.contract.inside import UpdateContainer
from flow_manager.contract.models import ContainerInfo
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import (
    Conflict,
    ContainerStopped,
    InvalidRequest,
    PathNotAllowed,
    RuntimeRefused,
    RuntimeUnavailable,
    StartFailed,
    Unsupported,
)
from flow_manager.testing import eventually

pytestmark = pytest.mark.usefixtures("quick_settle")


@pytest.fixture
def quick_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_manager.containers.code_swap.SETTLE", 0.05)


@pytest.fixture
def sources(house) -> Path:
    root = house.root / "src"
    for version in ("one", "two"):
        (root / version).mkdir()
        (root / version / "version").write_text(version)
    return root


def update(name: str, path: Path) -> UpdateContainer:
    return UpdateContainer(container_id=name, code_path=str(path))


async def made(house, sources: Path, *, code: bool = True, start: bool = True) -> ContainerInfo:
    fields = {"code_path": str(sources / "one")} if code else {}
    return await house.manager.create_container(
        LOCAL,
        requests.CreateContainer.model_validate(
            {"image": "memory", "command": ["sleep"], "name": "web", "start": start, **fields}
        ),
    )


def version(house, info: ContainerInfo) -> str:
    return (house.core.code.folder(info.id) / "version").read_text()


async def test_a_running_flow_gets_the_new_code_and_runs_again(house, sources: Path) -> None:
    info = await made(house, sources)
    before = house.runtime.engine.flows[info.id].started_at
    after = await house.manager.update_container(LOCAL, update("web", sources / "two"))
    assert (after.id, after.status, version(house, info)) == (info.id, "running", "two")
    assert house.runtime.engine.flows[info.id].started_at != before
    entries = [item for item in await house.activity() if item.startswith("container_")]
    assert entries == ["container_created", "container_started", "container_updated"]


async def test_a_stopped_flow_gets_the_new_code_and_stays_stopped(house, sources: Path) -> None:
    info = await made(house, sources, start=False)
    after = await house.manager.update_container(LOCAL, update("web", sources / "two"))
    assert (after.status, version(house, info)) == ("created", "two")
    assert house.runtime.engine.flows[info.id].started_at is None


async def test_one_whose_code_was_not_mounted_is_made_anew_under_its_own_id(house, sources: Path) -> None:
    info = await made(house, sources, code=False)
    assert house.runtime.engine.flows[info.id].spec.code_folder is None
    after = await house.manager.update_container(LOCAL, update("web", sources / "two"))
    assert (after.id, after.status, version(house, info)) == (info.id, "running", "two")
    assert house.runtime.engine.flows[info.id].spec.code_folder == house.core.code.folder(info.id)
    assert house.core.table.get(info.id).config.code_path == str(sources / "two")


@pytest.mark.parametrize("code", [True, False])
async def test_code_that_does_not_start_is_taken_back(house, sources: Path, code: bool) -> None:
    info = await made(house, sources, code=code)
    house.faults.fail("start", StartFailed("no such program"))
    with pytest.raises(StartFailed) as refused:
        await house.manager.update_container(LOCAL, update("web", sources / "two"))
    assert refused.value.details["rolled_back"] is True
    assert house.manager.get_container(LOCAL, requests.OneContainer(container_id="web")).status == "running"
    if code:
        assert version(house, info) == "one"
    else:
        assert not house.core.code.folder(info.id).exists()
        assert house.runtime.engine.flows[info.id].spec.code_folder is None
    entries = [item for item in await house.activity() if item.startswith(("container_", "operation_"))]
    assert entries == ["container_created", "container_started", "container_rolled_back"]
    assert house.core.table.get(info.id).record.phase == "created"


async def test_code_that_ends_with_an_error_right_after_its_start_is_taken_back(
    house, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_manager.containers.code_swap.SETTLE", 20.0)
    info = await made(house, sources)
    started = house.runtime.engine.flows[info.id].started_at
    doing = asyncio.create_task(house.manager.update_container(LOCAL, update("web", sources / "two")))

    async def started_anew() -> bool:
        return house.runtime.engine.flows[info.id].running and house.runtime.engine.flows[info.id].started_at != started

    await eventually(started_anew)
    house.runtime.engine.flows[info.id].die(3)
    with pytest.raises((ContainerStopped, StartFailed)) as refused:
        await doing
    assert refused.value.details["rolled_back"] is True
    assert version(house, info) == "one"
    assert house.manager.get_container(LOCAL, requests.OneContainer(container_id="web")).status == "running"


async def test_a_create_that_fails_brings_the_old_container_back(house, sources: Path) -> None:
    info = await made(house, sources, code=False)
    house.faults.fail("create", RuntimeRefused("no", kind="memory"))
    with pytest.raises(RuntimeRefused):
        await house.manager.update_container(LOCAL, update("web", sources / "two"))
    assert house.runtime.engine.flows[info.id].spec.code_folder is None
    assert house.manager.get_container(LOCAL, requests.OneContainer(container_id="web")).status == "running"


async def test_it_can_be_rolled_back_and_forward_again(house, sources: Path) -> None:
    info = await made(house, sources)
    back = requests.ChangeContainer(container_id="web")
    with pytest.raises(InvalidRequest):
        await house.manager.rollback_container(LOCAL, back)
    await house.manager.update_container(LOCAL, update("web", sources / "two"))
    await house.manager.rollback_container(LOCAL, back)
    assert version(house, info) == "one"
    await house.manager.rollback_container(LOCAL, back)
    assert version(house, info) == "two"
    assert [item for item in await house.activity() if "roll" in item] == ["container_rolled_back"] * 2


async def test_a_rollback_that_fails_keeps_both(house, sources: Path) -> None:
    info = await made(house, sources)
    await house.manager.update_container(LOCAL, update("web", sources / "two"))
    house.faults.fail("start", StartFailed("no"))
    with pytest.raises(StartFailed):
        await house.manager.rollback_container(LOCAL, requests.ChangeContainer(container_id="web"))
    assert version(house, info) == "two"
    await house.manager.rollback_container(LOCAL, requests.ChangeContainer(container_id="web"))
    assert version(house, info) == "one"


async def test_a_kill_in_the_middle_goes_first_and_the_old_code_is_back(house, sources: Path) -> None:
    info = await made(house, sources)
    house.faults.delay("stop", 5.0)
    doing = asyncio.create_task(house.manager.update_container(LOCAL, update("web", sources / "two")))
    await eventually(lambda: house.core.table.get(info.id).operation == "update")
    await house.manager.kill_container(LOCAL, requests.KillContainer(container_id="web"))
    with pytest.raises(Conflict):
        await doing
    assert version(house, info) == "one"
    assert house.manager.get_status(LOCAL, requests.OneContainer(container_id="web")).state == "exited"
    assert sorted(path.name for path in (house.root / "state" / "code").iterdir()) == [info.id]


async def test_a_forced_delete_in_the_middle_leaves_nothing(house, sources: Path) -> None:
    info = await made(house, sources)
    house.faults.delay("stop", 5.0)
    doing = asyncio.create_task(house.manager.update_container(LOCAL, update("web", sources / "two")))
    await eventually(lambda: house.core.table.get(info.id).operation == "update")
    await house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="web", force=True))
    with pytest.raises(Conflict):
        await doing
    await house.nothing_is_left()
    assert [path.name for path in (house.root / "state" / "code").iterdir()] == []


async def test_identical_updates_join_and_others_come_after(house, sources: Path) -> None:
    info = await made(house, sources)
    await asyncio.gather(
        house.manager.update_container(LOCAL, update("web", sources / "two")),
        house.manager.update_container(LOCAL, update("web", sources / "two")),
        house.manager.update_container(LOCAL, update("web", sources / "one")),
    )
    assert version(house, info) == "one"
    assert (await house.activity()).count("container_updated") == 2


async def test_bad_code_is_refused_while_the_flow_goes_on(house, sources: Path) -> None:
    info = await made(house, sources)
    started = house.runtime.engine.flows[info.id].started_at
    (sources / "secrets").symlink_to("/etc")
    for path, error in (
        ("/etc", PathNotAllowed),
        (str(sources / "secrets"), PathNotAllowed),
        (str(sources / ".." / ".." / "etc"), PathNotAllowed),
        (str(sources / "nothing"), InvalidRequest),
        ("relative", PathNotAllowed),
    ):
        with pytest.raises(error):
            await house.manager.update_container(LOCAL, UpdateContainer(container_id="web", code_path=path))
    (sources / "two" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(PathNotAllowed):
        await house.manager.update_container(LOCAL, update("web", sources / "two"))
    assert house.runtime.engine.flows[info.id].started_at == started
    assert sorted(path.name for path in (house.root / "state" / "code").iterdir()) == [info.id]


async def test_a_runtime_that_can_t_says_so(house, sources: Path) -> None:
    await made(house, sources)
    house.runtime.capabilities = replace(house.runtime.capabilities, put_code=False)
    with pytest.raises(Unsupported) as refused:
        await house.manager.update_container(LOCAL, update("web", sources / "two"))
    assert refused.value.details["capability"] == "put_code"


@pytest.mark.parametrize(("code", "gone"), [(True, False), (False, False), (False, True)])
async def test_a_manager_that_died_in_the_middle_takes_it_back_at_its_next_start(
    builder, code: bool, gone: bool
) -> None:
    root = builder.root / "src"
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "version").write_text(name)
    async with builder.open() as house:
        fields = {"code_path": str(root / "one")} if code else {}
        info = await house.manager.create_container(
            LOCAL,
            requests.CreateContainer.model_validate(
                {"image": "memory", "command": ["sleep"], "name": "web", "start": True, **fields}
            ),
        )
        # What an update has done when it is cut off between its swap and its confirmation.
        entry = house.core.table.get(info.id)
        await house.core.record(entry, phase="updating")
        staged = await house.core.code.stage(info.id, root / "two")
        await house.runtime.stop(info.id)
        await house.core.code.swap(info.id, staged)
        (house.root / "state" / "code" / f".{info.id}.new-left").mkdir()
        if gone:  # the old container is removed, the new one not made yet
            await house.runtime.remove(info.id, force=True)
    async with builder.open() as house:
        folder = house.core.code.folder(info.id)
        assert folder.exists() == code
        if code:
            assert (folder / "version").read_text() == "one"
        assert house.core.table.get(info.id).record.phase == "created"
        assert house.manager.get_status(LOCAL, requests.OneContainer(container_id="web")).state == "running"
        await house.told("operation_recovered")
        left = sorted(path.name for path in (house.root / "state" / "code").iterdir())
        assert left == ([info.id] if code else [])


# --- code that is copied in -------------------------------------------------------------------------------------------


@pytest.fixture
def far(house):
    """Its runtime can't mount: what a container holds is what was there when it was made."""
    house.runtime.capabilities = replace(house.runtime.capabilities, mounts=False)
    house.held = []
    make = house.runtime.create

    async def create(spec, progress=None):
        made = await make(spec, progress)
        folder = spec.code_folder
        house.held.append((folder / "version").read_text() if folder else None)
        return made

    house.runtime.create = create
    return house


async def test_where_code_is_copied_in_the_container_is_made_anew_with_it(far, sources: Path) -> None:
    info = await made(far, sources)
    after = await far.manager.update_container(LOCAL, update("web", sources / "two"))
    assert (after.id, after.status, version(far, info)) == (info.id, "running", "two")
    assert far.held == ["one", "two"]
    back = await far.manager.rollback_container(LOCAL, requests.ChangeContainer(container_id="web"))
    assert (back.id, version(far, info), far.held) == (info.id, "one", ["one", "two", "one"])


@pytest.mark.parametrize(("step", "held"), [("start", ["one", "two", "one"]), ("create", ["one", "one"])])
async def test_what_fails_there_is_taken_back_with_the_code_that_was_copied_before(
    far, sources: Path, step: str, held: list[str]
) -> None:
    info = await made(far, sources)
    far.faults.fail(step, RuntimeRefused("no", kind="memory"))
    with pytest.raises(RuntimeRefused) as refused:
        await far.manager.update_container(LOCAL, update("web", sources / "two"))
    assert refused.value.details["rolled_back"] is True
    assert (version(far, info), far.held) == ("one", held)
    assert far.manager.get_container(LOCAL, requests.OneContainer(container_id="web")).status == "running"


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("there", [True, False])
async def test_a_manager_that_died_in_the_middle_makes_the_container_anew_with_the_old_code(
    builder, swapped: bool, there: bool
) -> None:
    root = builder.root / "src"
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "version").write_text(name)
    builder.capabilities = replace(builder.capabilities, mounts=False)
    async with builder.open() as house:
        info = await house.manager.create_container(
            LOCAL,
            requests.CreateContainer.model_validate(
                {"image": "memory", "command": ["sleep"], "name": "web", "start": True, "code_path": str(root / "one")}
            ),
        )
        old = house.runtime.engine.flows[info.id]
        await house.core.record(house.core.table.get(info.id), phase="updating")
        if swapped:
            await house.core.code.swap(info.id, await house.core.code.stage(info.id, root / "two"))
        if not there:
            # Between the end of one container and the beginning of the next.
            await house.runtime.remove(info.id, force=True)
    async with builder.open() as house:
        assert version(house, info) == "one"
        assert house.runtime.engine.flows[info.id] is not old
        assert house.core.table.get(info.id).record.phase == "created"
        assert house.manager.get_status(LOCAL, requests.OneContainer(container_id="web")).state == "running"


@pytest.mark.parametrize("code", [True, False])
async def test_an_engine_that_leaves_in_the_middle_finds_it_taken_back_when_it_returns(
    house, sources: Path, code: bool
) -> None:
    info = await made(house, sources, code=code)
    entry = house.core.table.get(info.id)
    original = house.runtime.start

    async def away(id: str):
        house.faults.go_away()
        return await original(id)

    house.runtime.start = away
    with pytest.raises(RuntimeUnavailable):
        await house.manager.update_container(LOCAL, update("web", sources / "two"))
    assert entry.record.phase == "updating"
    house.runtime.start = original
    house.faults.come_back()

    async def whole_again() -> bool:
        status = house.manager.get_status(LOCAL, requests.OneContainer(container_id="web"))
        return entry.record.phase == "created" and status.state == "running"

    await eventually(whole_again)
    folder = house.core.code.folder(info.id)
    assert folder.exists() == code
    assert not code or version(house, info) == "one"
    await house.told("operation_recovered")
