"""`[[flows]]` of the settings: containers that others made, adopted without a label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flow_manager.containers.declared import declared_for
from flow_manager.contract import requests
from flow_manager.contract.models import ContainerInfo, IdlePolicy
from flow_manager.contract.principal import LOCAL, Principal
from flow_manager.runtimes.base import Observation
from flow_manager.settings.models import FlowSettings
from flow_manager.testing import eventually

WEB = {
    "container": "shop_web_1",
    "name": "web",
    "hosts": ["shop.example"],
    "port": 81,
    "idle": {"idle_timeout": "5m", "ready": {"tcp": 81}},
}


def flows(house: Any, principal: Principal = LOCAL) -> list[ContainerInfo]:
    found: list[ContainerInfo] = house.manager.list_containers(principal, requests.ListContainers())
    return found


async def only(house: Any, principal: Principal = LOCAL) -> ContainerInfo:
    await eventually(lambda: len(flows(house, principal)) == 1 and flows(house, principal)[0].status == "running")
    return flows(house, principal)[0]


async def test_one_that_settings_name_becomes_a_flow_without_a_label(builder: Any) -> None:
    async with builder.open(flows=[WEB]) as house:
        house.runtime.appear("other", {}, enabled=False)
        flow_id = house.runtime.appear("shop_web_1", {"flow-manager.port": "99"}, enabled=False)
        info = await only(house)
        assert (info.id, info.name, info.adopted, info.desired) == (flow_id, "web", True, "running")
        assert info.hosts == ["shop.example"]
        assert info.idle == IdlePolicy.model_validate({"idle_timeout": 300, "ready": {"tcp": 81}})
        assert house.core.table.get(flow_id).config.port == 81
        await house.told("container_adopted")


async def test_alone_it_wakes_on_demand_and_never_sleeps(builder: Any) -> None:
    async with builder.open(flows=[{"container": "box"}]) as house:
        house.runtime.appear("box", {}, enabled=False)
        info = await only(house)
        assert (info.name, info.idle) == ("box", IdlePolicy())


async def test_it_is_found_at_the_next_start_and_keeps_its_id(builder: Any) -> None:
    async with builder.open(flows=[WEB]) as house:
        house.runtime.appear("shop_web_1", {}, enabled=False)
        first = await only(house)
    async with builder.open(flows=[WEB]) as house:
        assert (await only(house)).id == first.id
        assert (await house.activity()).count("container_adopted") == 1
        house.runtime.appear("shop_web_1", {}, enabled=False)
        await house.told("container_recreated")
        assert (await only(house)).id == first.id


async def test_what_settings_say_counts_anew_at_each_start(builder: Any) -> None:
    async with builder.open(flows=[WEB]) as house:
        house.runtime.appear("shop_web_1", {}, enabled=False)
        first = await only(house)
        await house.manager.stop_container(LOCAL, requests.StopContainer(container_id="web"))
        house.runtime.engine.flows[first.id].start()
        await eventually(lambda: flows(house)[0].status == "running")
    async with builder.open(flows=[{**WEB, "name": "shop", "hosts": [], "idle": {"idle_timeout": 60}}]) as house:
        info = await only(house)
        assert (info.id, info.name, info.hosts, info.desired) == (first.id, "shop", [], "stopped")
        assert info.idle is not None
        assert info.idle.idle_timeout == 60
        assert house.manager.resolve(LOCAL, "shop") == first.id
        assert "container_recreated" not in await house.activity()


async def test_another_tenant_in_the_settings_is_another_s_flow(builder: Any) -> None:
    async with builder.open(flows=[WEB]) as house:
        house.runtime.appear("shop_web_1", {}, enabled=False)
        await only(house)
    async with builder.open(flows=[{**WEB, "tenant": "blue"}]) as house:
        assert (await only(house, Principal("bea", "blue"))).name == "web"
        assert flows(house) == []


async def test_one_that_is_taken_out_of_the_settings_is_let_go_and_goes_on(builder: Any) -> None:
    async with builder.open(flows=[WEB]) as house:
        flow_id = house.runtime.appear("shop_web_1", {}, enabled=False)
        await only(house)
    async with builder.open() as house:
        assert flows(house) == []
        await house.told("container_released")
        assert "container_lost" not in await house.activity()
        assert house.runtime.engine.flows[flow_id].running
        assert await house.store.flows.all() == []
    async with builder.open(flows=[WEB]) as house:
        assert (await only(house)).id == flow_id


async def test_one_that_has_labels_too_falls_back_to_them(builder: Any) -> None:
    async with builder.open(flows=[WEB]) as house:
        flow_id = house.runtime.appear("shop_web_1", {"flow-manager.name": "label", "flow-manager.port": "99"})
        assert (await only(house)).name == "web"
    async with builder.open() as house:
        info = await only(house)
        assert (info.id, info.name) == (flow_id, "label")
        assert house.core.table.get(flow_id).config.port == 99


async def test_a_release_by_a_client_holds_across_restarts(builder: Any) -> None:
    async with builder.open(flows=[WEB]) as house:
        house.runtime.appear("shop_web_1", {}, enabled=False)
        await only(house)
        await house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="web"))
    async with builder.open(flows=[WEB]) as house:
        assert flows(house) == []


async def test_one_that_is_not_there_is_managed_as_soon_as_it_is(builder: Any) -> None:
    async with builder.open(flows=[WEB]) as house:
        assert flows(house) == []
        house.runtime.appear("shop_web_1", {}, enabled=False)
        await only(house)


@pytest.mark.parametrize(
    ("flow", "seen", "meant"),
    [
        ({"container": "web"}, {"name": "web"}, True),
        ({"container": "web"}, {"name": "web2"}, False),
        ({"container": "0123456789ab"}, {"runtime_id": "0123456789abcdef"}, True),
        ({"container": "0123456789"}, {"runtime_id": "0123456789abcdef"}, False),
        ({"vmid": 101}, {"runtime_id": "memory/101"}, True),
        ({"vmid": 101, "node": "pve1"}, {"runtime_id": "101"}, True),
        ({"vmid": 101}, {"runtime_id": "1101"}, False),
        ({"container": "web", "runtime": "other"}, {"name": "web"}, False),
        ({"container": "web", "runtime": "memory"}, {"name": "web"}, True),
    ],
)
async def test_which_container_an_entry_means(
    house: Any, flow: dict[str, Any], seen: dict[str, Any], meant: bool
) -> None:
    house.core.settings = house.core.settings.model_copy(update={"flows": (FlowSettings.model_validate(flow),)})
    observation = replace(Observation(id="x", runtime_id="other-id", name="n", state="running", adopted=True), **seen)
    assert (declared_for(house.core, house.runtime, observation) is not None) == meant
    assert declared_for(house.core, house.runtime, replace(observation, adopted=False)) is None
