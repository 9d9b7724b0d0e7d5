"""Containers of this manager of which it has no record: never dropped in silence, never left to nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flow_manager.contract import requests
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.principal import LOCAL
from flow_manager.testing import eventually

FLOW = {"image": "memory", "command": ["sleep"]}


def one(name: str) -> requests.OneContainer:
    return requests.OneContainer(container_id=name)


async def lose_the_store(builder) -> None:
    for file in (builder.root / "state").glob("db*"):
        file.unlink()


async def made(house, name: str, **fields):
    request = requests.CreateContainer.model_validate({**FLOW, "name": name, **fields})
    return await house.manager.create_container(LOCAL, request)


async def test_after_the_store_was_lost_the_containers_are_flows_again(builder) -> None:
    async with builder.open() as house:
        web = await made(
            house, "web", start=True, hosts=["a.example"], labels={"team": "x"}, idle={"idle_timeout": 60},
            code_path=str(builder.root / "src"),
        )  # fmt: skip
        other = await made(house, "other")
    await lose_the_store(builder)
    async with builder.open() as house:
        info = house.manager.get_container(LOCAL, one("web"))
        assert (info.id, info.status, info.hosts, info.labels) == (web.id, "running", ["a.example"], {"team": "x"})
        assert info.idle == IdlePolicy(idle_timeout=60)
        assert (info.adopted, info.desired) == (False, "running")
        assert house.core.table.get(web.id).config.code_path is not None
        assert house.manager.get_container(LOCAL, one("other")).id == other.id

        async def both_told() -> bool:
            return await house.activity() == ["container_adopted", "container_adopted"]

        await eventually(both_told)
        # It is a flow like any other again.
        await house.manager.stop_container(LOCAL, requests.StopContainer(container_id="web"))
        for name in ("web", "other"):
            await house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id=name))
        await house.nothing_is_left()


async def test_where_settings_say_so_they_are_removed(builder) -> None:
    async with builder.open() as house:
        await made(house, "web", start=True)
    await lose_the_store(builder)
    async with builder.open(policy={"orphans": "remove"}) as house:
        assert await house.runtime.list() == []
        await house.told("container_deleted")


async def test_what_an_aborted_create_leaves_later_is_removed(house) -> None:
    web = await made(house, "web")
    entry = house.core.table.get(web.id)
    # As if its create had been given up, and the engine had made it all the same.
    house.core.forget(entry)
    await house.store.flows.delete(web.id)
    await house.manager._reconciler.resync(house.runtime)
    assert await house.runtime.list() == []
    assert len(house.core.table) == 0


async def test_a_deleted_flow_in_an_old_list_does_not_come_back(house) -> None:
    web = await made(house, "web")
    (seen,) = await house.runtime.list()
    await house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id=web.id))
    await house.manager._reconciler._adopt(house.runtime, seen)
    assert len(house.core.table) == 0
    await house.nothing_is_left()


async def test_a_record_whose_container_is_gone_is_marked_and_told_never_dropped(builder) -> None:
    async with builder.open() as house:
        web = await made(house, "web")
    builder.engine.flows.pop(web.id)
    async with builder.open() as house:
        status = house.manager.get_status(LOCAL, one("web"))
        assert (status.state, status.flow_state) == ("dead", "error")
        await house.told("container_lost")
        await house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="web"))
        await house.nothing_is_left()


@pytest.mark.parametrize(
    ("label", "value"),
    [("flow-manager.idle", "{"), ("flow-manager.idle", '{"idle_timeout": "soon"}'), ("flow-manager.port", "http"),
     ("flow-manager.hosts", "Not A Host")],
)  # fmt: skip
async def test_a_spoilt_label_costs_that_wish_and_not_the_flow(builder, label: str, value: str) -> None:
    async with builder.open() as house:
        web = await made(house, "web", start=True, hosts=["a.example"], port=80, idle={"idle_timeout": 60})
    await lose_the_store(builder)
    flow = builder.engine.flows[web.id]
    flow.spec = replace(flow.spec, labels={**flow.spec.labels, label: value})
    async with builder.open() as house:
        entry = house.core.table.get(web.id)
        assert entry is not None
        await eventually(lambda: house.manager.get_status(LOCAL, one(web.id)).state == "running")
