from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from flow_manager.containers import adopt as adopt_module
from flow_manager.containers.adopted import stored
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.observer import NoObserver
from flow_manager.contract import requests
from flow_manager.contract.models import ContainerInfo
from flow_manager.contract.principal import LOCAL, Principal
from flow_manager.errors import ContainerNotFound, ContainerRunning, DiskFull, InvalidRequest, NameConflict
from flow_manager.runtimes.base import FlowSpec, Observation, PortBinding
from flow_manager.testing import eventually

SLEEPY = {"flow-manager.name": "web", "flow-manager.idle-timeout": "5m"}


class Notebook(NoObserver):
    """What the watchers' registry is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def flow_added(self, entry: FlowEntry) -> None:
        self.told.append(("added", entry.record.name))

    def flow_removed(self, entry: FlowEntry) -> None:
        self.told.append(("removed", entry.record.name))

    def policy_changed(self, entry: FlowEntry) -> None:
        self.told.append(("policy", entry.record.name))

    def flow_observed(
        self, entry: FlowEntry, before: Observation | None, now: Observation | None, cause: str | None
    ) -> None:
        self.told.append(("gone" if now is None else now.state, entry.record.name))


def flows(house: Any, principal: Principal = LOCAL) -> list[ContainerInfo]:
    found: list[ContainerInfo] = house.manager.list_containers(principal, requests.ListContainers())
    return found


async def known(house: Any, flow_id: str) -> FlowEntry:
    def there() -> bool:
        entry = house.core.table.get(flow_id)
        return entry is not None and entry.visible  # before that it is about to be stored

    await eventually(there)
    entry: FlowEntry = house.core.table.get(flow_id)
    return entry


async def resync(house: Any) -> None:
    await house.manager._reconciler.resync(house.runtime)


def delete(flow_id: str, *, force: bool = False) -> requests.DeleteContainer:
    return requests.DeleteContainer(container_id=flow_id, force=force)


def create(name: str, **config: Any) -> requests.CreateContainer:
    return requests.CreateContainer.model_validate({"image": "memory", "name": name, **config})


async def test_one_that_appears_becomes_a_flow(house: Any) -> None:
    notebook = house.core.observer = Notebook()
    flow_id = house.runtime.appear("shop_web_1", SLEEPY, ports=(PortBinding(80, "tcp", 8088),))
    await known(house, flow_id)
    await house.told("container_adopted")
    (info,) = flows(house)
    assert (info.id, info.name, info.adopted, info.desired) == (flow_id, "web", True, "running")
    assert info.socket_path is None
    assert info.idle is not None
    assert info.idle.idle_timeout == 300
    assert house.core.table.get(flow_id).config.ports == {"80/tcp": 8088}
    await eventually(lambda: flows(house)[0].status == "running")
    assert notebook.told[0] == ("added", "web")
    assert (await house.activity()).count("container_adopted") == 1


async def test_one_that_ran_before_the_manager_is_found_at_start(builder: Any) -> None:
    async with builder.open() as house:
        flow_id = house.runtime.appear("shop_web_1", SLEEPY)
        await known(house, flow_id)
    async with builder.open() as house:
        house.runtime.appear("shop_db_1", {})
        await known(house, flow_id)
    async with builder.open() as house:
        assert [info.name for info in flows(house)] == ["web", "shop_db_1"]
        assert [info.status for info in flows(house)] == ["running", "running"]

        async def told_of_both() -> bool:
            return (await house.activity()).count("container_adopted") == 2

        await eventually(told_of_both)
        await resync(house)
    async with builder.open() as house:
        # Once each: the restarts told nothing again (closing stores what was still to be told).
        assert (await house.activity()).count("container_adopted") == 2


async def test_one_whose_event_was_lost_is_found_by_the_regular_comparison(builder: Any) -> None:
    async with builder.open(idle={"resync": 0.01}) as house:
        house.faults.lose_events(2)
        flow_id = house.runtime.appear("web", {})
        await known(house, flow_id)


async def test_its_name_is_its_own_unless_a_label_gives_another(house: Any) -> None:
    first = house.runtime.appear("shop_web_1", {})
    assert (await known(house, first)).record.name == "shop_web_1"
    assert house.manager.resolve(LOCAL, "shop_web_1") == first


async def test_a_name_that_is_taken_is_not_taken_away(house: Any) -> None:
    made = await house.manager.create_container(LOCAL, requests.CreateContainer(image="memory", name="web"))
    labelled = house.runtime.appear("shop_web_1", SLEEPY)
    assert (await known(house, labelled)).record.name == "shop_web_1"
    own = house.runtime.appear("web", {})
    assert (await known(house, own)).record.name == f"flow-{own}"
    assert house.manager.resolve(LOCAL, "web") == made.id
    await house.told("label_unreadable")


async def test_labels_that_cannot_be_read_are_told_of_once(builder: Any) -> None:
    async with builder.open() as house:
        flow_id = house.runtime.appear("web", {"flow-manager.idle-timout": "5m", "flow-manager.port": "81"})
        entry = await known(house, flow_id)
        assert entry.config.port == 81
        await house.told("label_unreadable")
    async with builder.open() as house:
        await resync(house)
        entries = [item.entry for item in await house.stream.read(limit=100)]
        told = [entry for entry in entries if entry.type == "label_unreadable"]
        assert len(told) == 1
        assert "did you mean flow-manager.idle-timeout?" in told[0].message
        assert told[0].details["label"] == "flow-manager.idle-timout"


async def test_one_whose_tenant_cannot_be_told_is_left_alone(house: Any) -> None:
    flow_id = house.runtime.appear("web", {"flow-manager.tenant": "Blue Team"})
    await house.told("label_unreadable")
    await resync(house)
    await resync(house)
    assert house.core.table.get(flow_id) is None
    assert (await house.activity()).count("label_unreadable") == 1


async def test_it_belongs_to_the_tenant_that_its_label_names(house: Any) -> None:
    flow_id = house.runtime.appear("web", {"flow-manager.tenant": "blue"})
    await known(house, flow_id)
    assert flows(house) == []
    assert [info.id for info in flows(house, Principal("bea", "blue"))] == [flow_id]
    with pytest.raises(ContainerNotFound):
        house.manager.resolve(LOCAL, flow_id)


async def test_its_secrets_are_masked_and_not_stored(builder: Any) -> None:
    secret = "correct-horse-battery"
    async with builder.open() as house:
        flow_id = house.runtime.appear("web", {}, environment={"DB_PASSWORD": secret, "MODE": "fast"})
        await known(house, flow_id)
        assert flows(house)[0].environment == {"DB_PASSWORD": "***", "MODE": "fast"}
        assert house.core.masker.mask_text(f"it said {secret}") == "it said ***"
        (record,) = await house.store.flows.all()
        assert secret not in str(record.config)
    async with builder.open() as house:
        assert house.core.masker.mask_text(f"it said {secret}") == "it said ***"
        assert flows(house)[0].environment == {"DB_PASSWORD": "***", "MODE": "fast"}


async def test_the_verbs_work_and_make_no_channel(house: Any) -> None:
    flow_id = house.runtime.appear("web", {})
    await known(house, flow_id)
    one = requests.ChangeContainer(container_id="web")
    assert (await house.manager.pause_container(LOCAL, one)).state == "paused"
    assert (await house.manager.unpause_container(LOCAL, one)).state == "running"
    assert (await house.manager.stop_container(LOCAL, requests.StopContainer(container_id="web"))).state == "exited"
    assert (await house.manager.start_container(LOCAL, requests.StartContainer(container_id="web"))).state == "running"
    restarted = await house.manager.restart_container(LOCAL, requests.RestartContainer(container_id="web"))
    assert restarted.state == "running"
    assert (await house.manager.kill_container(LOCAL, requests.KillContainer(container_id="web"))).state == "exited"
    house.runtime.engine.flows[flow_id].start()
    await house.told("container_started")
    assert list((house.root / "s").iterdir()) == []


async def test_a_container_made_anew_keeps_the_flow_and_brings_its_new_labels(house: Any) -> None:
    flow_id = house.runtime.appear("shop_web_1", SLEEPY)
    await known(house, flow_id)
    await house.manager.stop_container(LOCAL, requests.StopContainer(container_id="web"))
    before = house.core.table.get(flow_id).record.runtime_id
    notebook = house.core.observer = Notebook()
    labels = {"flow-manager.name": "shop", "flow-manager.idle-timeout": "1h"}
    assert house.runtime.appear("shop_web_1", labels) == flow_id
    await eventually(lambda: house.core.table.get(flow_id).record.runtime_id != before)
    await eventually(lambda: flows(house)[0].status == "running")
    (info,) = flows(house)
    assert (info.id, info.name, info.desired) == (flow_id, "shop", "running")
    assert info.idle is not None
    assert info.idle.idle_timeout == 3600
    assert ("policy", "shop") in notebook.told
    assert ("removed", "web") not in notebook.told
    await house.told("container_recreated")
    assert (await house.activity()).count("container_adopted") == 1
    assert house.manager.resolve(LOCAL, "shop") == flow_id
    with pytest.raises(ContainerNotFound):
        house.manager.resolve(LOCAL, "web")


async def test_one_that_is_made_anew_for_another_tenant_is_that_ones_alone(house: Any) -> None:
    flow_id = house.runtime.appear("web", {})
    await known(house, flow_id)
    house.runtime.appear("web", {"flow-manager.tenant": "blue"})
    await eventually(lambda: flows(house) == [])
    await eventually(lambda: [info.id for info in flows(house, Principal("bea", "blue"))] == [flow_id])


async def test_one_that_is_made_anew_while_nobody_looks_is_followed_at_start(builder: Any) -> None:
    async with builder.open() as house:
        flow_id = house.runtime.appear("web", {})
        await known(house, flow_id)
        runtime = house.runtime
    spec = replace(
        builder.engine.flows[flow_id].spec, labels={"flow-manager.enable": "true", "flow-manager.port": "99"}
    )
    builder.engine.appear(spec)
    async with builder.open() as house:
        entry = house.core.table.get(flow_id)
        assert entry.config.port == 99
        assert runtime is not house.runtime


async def test_what_a_client_set_outlives_a_restart_but_not_a_new_container(builder: Any) -> None:
    async with builder.open() as house:
        flow_id = house.runtime.appear("web", {"flow-manager.port": "81"})
        entry = await known(house, flow_id)
        await house.core.record(entry, config=stored(entry.config.model_copy(update={"port": 82})))
    async with builder.open() as house:
        await resync(house)
        assert house.core.table.get(flow_id).config.port == 82
        house.runtime.appear("web", {"flow-manager.port": "81"})
        await eventually(lambda: house.core.table.get(flow_id).config.port == 81)


async def test_a_released_one_stays_released_until_it_is_made_anew(builder: Any) -> None:
    async with builder.open() as house:
        flow_id = house.runtime.appear("web", {})
        await known(house, flow_id)
        notebook = house.core.observer = Notebook()
        assert (await house.manager.delete_container(LOCAL, delete("web"))).deleted
        assert ("removed", "web") in notebook.told
        await house.told("container_released")
        assert house.runtime.engine.flows[flow_id].running, "it goes on"
        await resync(house)
        assert flows(house) == []
    async with builder.open() as house:
        await resync(house)
        assert flows(house) == [], "a restart does not take it back"
        house.runtime.appear("web", {})
        await known(house, flow_id)
        assert "container_deleted" not in await house.activity()


async def test_a_release_of_what_is_gone_leaves_nothing_behind(house: Any) -> None:
    flow_id = house.runtime.appear("web", {})
    await known(house, flow_id)
    await house.manager.delete_container(LOCAL, delete("web"))
    house.runtime.vanish(flow_id)
    await resync(house)
    await house.nothing_is_left()


async def test_force_removes_the_container_itself(house: Any) -> None:
    flow_id = house.runtime.appear("web", {})
    await known(house, flow_id)
    await house.manager.delete_container(LOCAL, delete("web", force=True))
    await house.told("container_deleted")
    await house.nothing_is_left()
    house.runtime.appear("web", {})
    await known(house, flow_id)


async def test_without_force_a_flow_of_ours_is_still_refused(house: Any) -> None:
    await house.manager.create_container(LOCAL, requests.CreateContainer(image="memory", name="own", start=True))
    with pytest.raises(ContainerRunning):
        await house.manager.delete_container(LOCAL, delete("own"))


async def test_one_that_is_gone_is_lost_then_forgotten(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_id = house.runtime.appear("web", {})
    await known(house, flow_id)
    house.runtime.vanish(flow_id)
    await house.told("container_lost")
    await resync(house)
    assert [info.status for info in flows(house)] == ["dead"], "compose may be about to make it anew"
    monkeypatch.setattr(adopt_module, "FORGET_AFTER", 0.0)
    notebook = house.core.observer = Notebook()
    await resync(house)
    assert notebook.told == [("removed", "web")]
    await house.nothing_is_left()


async def test_one_that_comes_back_in_time_is_the_same_flow(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_id = house.runtime.appear("web", {})
    await known(house, flow_id)
    house.runtime.vanish(flow_id)
    await house.told("container_lost")
    await resync(house)
    notebook = house.core.observer = Notebook()
    house.runtime.appear("web", {})
    await eventually(lambda: [info.status for info in flows(house)] == ["running"])
    monkeypatch.setattr(adopt_module, "FORGET_AFTER", 0.0)
    await resync(house)
    assert [info.id for info in flows(house)] == [flow_id]
    assert ("removed", "web") not in notebook.told
    assert ("added", "web") not in notebook.told


async def test_a_flow_of_ours_that_is_gone_is_kept(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt_module, "FORGET_AFTER", 0.0)
    made = await house.manager.create_container(LOCAL, requests.CreateContainer(image="memory", name="own"))
    house.runtime.vanish(made.id)
    await house.told("container_lost")
    await resync(house)
    assert [info.id for info in flows(house)] == [made.id]


async def test_a_store_that_is_full_delays_the_adoption(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save = house.store.flows.save

    async def full(record: Any) -> None:
        raise DiskFull("no space left")

    monkeypatch.setattr(house.core.store, "save", full)
    flow_id = house.runtime.appear("web", {})
    await resync(house)
    assert house.core.table.get(flow_id) is None
    monkeypatch.setattr(house.core.store, "save", save)
    await resync(house)
    assert [info.name for info in flows(house)] == ["web"]


async def test_dependencies_that_the_watchers_refuse_are_left_out_and_told_of(house: Any) -> None:
    def no_cycles(flow: Any, policy: Any) -> None:
        if policy is not None and policy.depends_on:
            raise InvalidRequest("idle.depends_on: web → db → web is a cycle")

    house.core.check_policy = no_cycles
    labels = {"flow-manager.depends-on": "db", "flow-manager.idle-timeout": "5m"}
    flow_id = house.runtime.appear("web", labels)
    entry = await known(house, flow_id)
    assert entry.config.idle is not None
    assert (entry.config.idle.depends_on, entry.config.idle.idle_timeout) == ([], 300)
    await house.told("label_unreadable")


async def test_an_image_and_labels_that_no_client_could_ask_for_are_no_obstacle(house: Any) -> None:
    flow_id = house.runtime.appear("web", {"bad\nlabel": "x", "team": "blue"})
    await known(house, flow_id)
    await house.manager.delete_container(LOCAL, delete("web", force=True))
    spec = FlowSpec(
        id=flow_id,
        name="web",
        container_name="web",
        tenant="",
        instance="i",
        image="<none>@",
        command=("sleep",),
        labels={"flow-manager.enable": "true", "bad\nlabel": "x", "team": "blue"},
    )
    house.runtime.engine.appear(spec)
    await known(house, flow_id)
    (info,) = flows(house)
    assert (info.image, info.labels) == ("unknown", {"team": "blue"})


# --- hosts ------------------------------------------------------------------------------------------------------------


async def test_a_host_that_a_flow_has_is_refused_to_another_in_words_that_say_nothing_of_the_first(house: Any) -> None:
    blue = Principal("bea", "blue")
    first = await house.manager.create_container(blue, create("one", hosts=["shop.example", "two.example"]))
    with pytest.raises(NameConflict) as refused:
        await house.manager.create_container(LOCAL, create("two", hosts=["other.example", "shop.example"]))
    assert refused.value.message == "the host 'shop.example' is taken"
    assert refused.value.details == {"host": "shop.example"}
    assert (refused.value.code, refused.value.error_type) == ("name_conflict", "memory_error")
    await house.manager.create_container(LOCAL, create("two", hosts=["other.example"]))
    await house.manager.delete_container(blue, delete(first.id))
    await house.manager.create_container(LOCAL, create("three", hosts=["shop.example"]))


async def test_two_creates_at_once_can_t_both_have_a_host_and_a_failed_one_has_none(house: Any) -> None:
    both = (house.manager.create_container(LOCAL, create(name, hosts=["shop.example"])) for name in ("one", "two"))
    made = await asyncio.gather(*both, return_exceptions=True)
    assert [type(one) for one in made] == [ContainerInfo, NameConflict]
    house.faults.fail("create", NameConflict("no", kind="memory"))
    with pytest.raises(NameConflict, match="no"):
        await house.manager.create_container(LOCAL, create("three", hosts=["three.example"]))
    await house.manager.create_container(LOCAL, create("three", hosts=["three.example"]))


async def test_the_host_that_a_name_gives_is_not_given_to_another(house: Any) -> None:
    await house.manager.create_container(LOCAL, create("web"))
    with pytest.raises(NameConflict, match=r"the host 'web\.localhost' is taken"):
        await house.manager.create_container(LOCAL, create("other", hosts=["web.localhost"]))
    await house.manager.create_container(LOCAL, create("own", hosts=["own.localhost", "www.localhost"]))


async def test_of_two_labelled_containers_that_claim_one_host_the_first_keeps_it(builder: Any) -> None:
    labels = {"flow-manager.hosts": "shop.example,second.example"}
    async with builder.open() as house:
        first = house.runtime.appear("first", {"flow-manager.hosts": "shop.example"})
        await known(house, first)
        second = house.runtime.appear("second", labels)
        assert (await known(house, second)).config.hosts == ["second.example"]
        await house.told("label_unreadable")
        (told,) = [item.entry for item in await house.stream.read(limit=100) if item.entry.type == "label_unreadable"]
        assert told.details["reason"] == "another flow is served under it already"
        assert told.details["value"] == "shop.example"
        with pytest.raises(NameConflict):
            await house.manager.create_container(LOCAL, create("third", hosts=["shop.example"]))
    async with builder.open() as house:
        assert house.core.table.get(first).config.hosts == ["shop.example"]
        house.runtime.appear("first", {"flow-manager.hosts": "shop.example,more.example"})
        await eventually(lambda: house.core.table.get(first).config.hosts == ["shop.example", "more.example"])
        house.runtime.appear("first", {})
        await eventually(lambda: house.core.table.get(first).config.hosts == [])
        house.runtime.appear("second", labels)
        await eventually(lambda: house.core.table.get(second).config.hosts == ["shop.example", "second.example"])
