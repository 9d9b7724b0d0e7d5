from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flow_manager.contract import requests
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import Conflict, DependencyFailed, InvalidRequest
from flow_manager.idle.readiness_target import NotReady
from flow_manager.idle.watcher import Watcher
from flow_manager.testing import eventually
from tests.unit.idle.house import IdleBuilder, IdleHouse


def on(*names: str, condition: str = "healthy", **more: Any) -> dict[str, Any]:
    return {"idle_timeout": 60, "depends_on": [{"container": name, "condition": condition} for name in names], **more}


async def test_what_a_flow_needs_is_woken_before_it_in_order_and_said(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db")
    cache = await idle_house.create("cache")
    web = await idle_house.create("web", idle=on("db", "cache"))
    await web.wake(reason="a request")
    assert (db.state, cache.state) == ("ready", "ready")
    assert [(event.type, event.message.split()[-1]) for event in web.history.entries()][1:5] == [
        ("waking_dep", "healthy"),
        ("dep_ready", "healthy"),
        ("waking_dep", "healthy"),
        ("dep_ready", "healthy"),
    ]
    assert (db.last_woke or ("", ""))[1] == "web needs it"


async def test_a_dependency_that_two_share_starts_once(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db")
    one = await idle_house.create("one", idle=on("db"))
    two = await idle_house.create("two", idle=on("db"))
    await asyncio.gather(one.wake(reason="a request"), two.wake(reason="a request"))
    assert idle_house.starts(db) == 1


async def test_a_chain_is_woken_from_its_end(idle_house: IdleHouse) -> None:
    await idle_house.create("disk")
    await idle_house.create("db", idle=on("disk"))
    web = await idle_house.create("web", idle=on("db"))
    await web.wake(reason="a request")
    order = [entry.name for entry in await idle_house.told("woke", 3)]
    assert order == ["disk", "db", "web"]


async def test_a_dependency_sleeps_only_a_linger_after_the_last_that_needs_it(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open(idle={"linger": 30}) as house:
        db = await house.create("db", idle={"idle_timeout": 5})
        web = await house.create("web", idle=on("db", idle_timeout=100))
        await web.wake(reason="a request")
        await house.clock.run(99)
        assert db.state == "ready"
        assert "needed by web" in db.explain().summary
        await house.clock.run(2)
        await house.comes(web, "napping")
        await house.clock.run(28)
        assert db.state == "ready"
        await house.clock.run(9)
        await house.comes(db, "napping")
        assert len(db.leases) == 0


async def test_a_flow_that_wakes_within_the_linger_keeps_what_it_needs(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db", idle={"idle_timeout": 5})
    web = await idle_house.create("web", idle=on("db"))
    for _ in range(3):
        await web.wake(reason="a request")
        await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="web"))
        await idle_house.clock.run(20)
    assert db.state == "ready"
    assert idle_house.starts(db) == 1
    assert len(db.leases) == 1


async def test_a_shared_dependency_is_never_put_to_sleep_under_its_other_user(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db", idle={"idle_timeout": 5})
    one = await idle_house.create("one", idle=on("db", idle_timeout=50))
    two = await idle_house.create("two", idle=on("db", idle_timeout=500))
    await asyncio.gather(one.wake(reason="a request"), two.wake(reason="a request"))
    await idle_house.clock.run(200)
    assert (one.state, two.state, db.state) == ("napping", "ready", "ready")
    with pytest.raises(Conflict) as refused:
        await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="db"))
    assert refused.value.details["dependents"] == ["two"]
    assert refused.value.message == "two needs it: let that sleep first"
    await one.wake(reason="a request")
    with pytest.raises(Conflict, match="one and two need it: let those sleep first"):
        await idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="db"))


async def test_a_dependency_that_fails_fails_the_wake_with_its_reason(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db", command=["no-such-command"])
    web = await idle_house.create("web", idle=on("db"))
    with pytest.raises(DependencyFailed) as failed:
        await web.wake(reason="a request")
    assert failed.value.details["dependency"] == "db"
    assert failed.value.details["exit_code"] == 127
    assert (web.state, db.state) == ("error", "error")
    assert idle_house.starts(web) == 0


async def test_a_dependency_that_does_not_exist_is_named(idle_house: IdleHouse) -> None:
    web = await idle_house.create("web", idle=on("nobody"))
    with pytest.raises(DependencyFailed, match="no such flow"):
        await web.wake(reason="a request")


async def test_a_dependency_that_somebody_stopped_stays_stopped_for_traffic_but_not_for_a_person(
    idle_house: IdleHouse,
) -> None:
    db = await idle_house.create("db", start=True)
    await idle_house.stop(db)
    web = await idle_house.create("web", idle=on("db"))
    with pytest.raises(DependencyFailed, match="somebody stopped"):
        await web.wake(reason="a request")
    await web.wake(reason="a person", by_request=False)
    assert (web.state, db.state, db.desired) == ("ready", "ready", "running")


async def test_a_dependency_without_a_policy_is_woken_too(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db", idle=None)
    web = await idle_house.create("web", idle=on("db"))
    await web.wake(reason="a request")
    assert db.state == "ready"


async def test_started_is_enough_where_it_is_asked_for(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db")
    web = await idle_house.create("web", idle=on("db", condition="started"))
    waiting = NotReady("TCP port 8000", "refused", reason="timeout")
    idle_house.prober.failing[db.id] = waiting
    await web.wake(reason="a request")
    assert web.state == "ready"
    assert db.up


async def test_completed_means_ended_with_0_and_counts_once(idle_house: IdleHouse) -> None:
    migrate = await idle_house.create("migrate", command=["die-soon", "0"], idle=None)
    web = await idle_house.create("web", idle=on("migrate", condition="completed"))
    await web.wake(reason="a request")
    assert migrate.entry.observation is not None
    assert (migrate.entry.observation.state, migrate.entry.observation.exit_code) == ("exited", 0)
    await idle_house.clock.run(61)
    await idle_house.comes(web, "napping")
    await web.wake(reason="a request")
    assert idle_house.starts(migrate) == 1


async def test_one_that_does_not_complete_fails_the_wake(idle_house: IdleHouse) -> None:
    await idle_house.create("migrate", command=["die-soon", "4"], idle=None)
    web = await idle_house.create("web", idle=on("migrate", condition="completed"))
    with pytest.raises(DependencyFailed) as failed:
        await web.wake(reason="a request")
    assert failed.value.details["exit_code"] == 4


async def test_dependencies_may_be_on_another_runtime(idle_builder: IdleBuilder) -> None:
    async with idle_builder.open(runtimes=("memory", "other")) as house:
        db = await house.create("db", runtime="other")
        web = await house.create("web", idle=on("db"))
        await web.wake(reason="a request")
        assert db.entry.runtime is not web.entry.runtime
        assert db.state == "ready"


async def test_a_flow_that_others_start_wakes_and_holds_what_it_needs(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db", idle={"idle_timeout": 5})
    web = await idle_house.create("web", idle=on("db"))
    await idle_house.start(web)
    await idle_house.comes(db, "ready")
    await idle_house.clock.run(50)
    assert db.state == "ready"


async def test_a_cycle_is_refused_with_its_path_when_the_policy_is_set(idle_house: IdleHouse) -> None:
    await idle_house.create("a")
    await idle_house.create("b", idle=on("a"))
    await idle_house.create("c", idle=on("b"))
    with pytest.raises(InvalidRequest) as refused:
        await idle_house.registry.set_idle_policy(
            LOCAL, requests.SetIdlePolicy(container_id="a", idle=IdlePolicy.model_validate(on("c")))
        )
    assert refused.value.details["fields"] == [{"path": "idle.depends_on", "reason": "a cycle: a → c → b → a"}]
    assert refused.value.details["cycle"] == ["a", "c", "b", "a"]
    watcher = idle_house.registry.resolve(LOCAL, "a")
    assert watcher.policy is not None
    assert watcher.policy.depends_on == []


async def test_a_cycle_is_refused_when_a_flow_is_made_also_one_with_itself(idle_house: IdleHouse) -> None:
    await idle_house.create("a", idle=on("b"))
    with pytest.raises(InvalidRequest, match="b → a → b"):
        await idle_house.create("b", idle=on("a"))
    with pytest.raises(InvalidRequest, match="x → x"):
        await idle_house.create("x", idle=on("x"))
    assert len(idle_house.core.table) == 1


async def test_a_policy_that_needs_less_lets_go_at_once(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db")
    web = await idle_house.create("web", idle=on("db"))
    await web.wake(reason="a request")
    assert len(db.leases) == 1
    await idle_house.registry.set_idle_policy(
        LOCAL, requests.SetIdlePolicy(container_id="web", idle=IdlePolicy(idle_timeout=60))
    )
    assert len(db.leases) == 0
    await idle_house.registry.set_idle_policy(
        LOCAL, requests.SetIdlePolicy(container_id="web", idle=IdlePolicy.model_validate(on("db")))
    )
    assert len(db.leases) == 1


async def test_a_deleted_flow_lets_go_of_what_it_needs(idle_house: IdleHouse) -> None:
    db = await idle_house.create("db")
    web = await idle_house.create("web", idle=on("db"))
    await web.wake(reason="a request")
    await idle_house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="web", force=True))
    assert len(db.leases) == 0


def compose(service: str, number: int = 1, *, project: str = "shop", **labels: str) -> dict[str, str]:
    return {
        "com.docker.compose.project": project,
        "com.docker.compose.service": service,
        "com.docker.compose.container-number": str(number),
        **{f"flow-manager.{name.replace('_', '-')}": value for name, value in labels.items()},
    }


async def appears(house: IdleHouse, name: str, labels: dict[str, str]) -> Watcher:
    flow_id = house.runtime.appear(name, labels, running=False)
    return await eventually(lambda: house.registry.watcher(flow_id))


async def test_a_compose_service_needs_another_by_its_service_name(idle_house: IdleHouse) -> None:
    elsewhere = await appears(idle_house, "blog-db-1", compose("db", project="blog"))
    web = await appears(idle_house, "shop-web-1", compose("web", depends_on="db:healthy", idle_timeout="5m"))
    second = await appears(idle_house, "shop-db-2", compose("db", 2))
    first = await appears(idle_house, "shop-db-1", compose("db", 1))
    await web.wake(reason="a request")
    assert (first.state, second.state, elsewhere.state) == ("ready", "napping", "napping")
    assert [lease.holder for lease in first.leases.of_kind("dependent")] == ["shop-web-1"]


async def test_a_flow_s_own_name_goes_before_a_service_s(idle_house: IdleHouse) -> None:
    web = await appears(idle_house, "shop-web-1", compose("web", depends_on="db", idle_timeout="5m"))
    service = await appears(idle_house, "shop-db-1", compose("db"))
    named = await idle_house.create("db")
    await web.wake(reason="a request")
    assert (named.state, service.state) == ("ready", "napping")


async def test_a_flow_that_a_client_made_can_t_pass_for_a_service(idle_house: IdleHouse) -> None:
    await idle_house.create("mine", labels=compose("db"))
    web = await appears(idle_house, "shop-web-1", compose("web", depends_on="db", idle_timeout="5m"))
    with pytest.raises(DependencyFailed):
        await web.wake(reason="a request")


async def test_a_cycle_of_services_is_refused_too(idle_house: IdleHouse) -> None:
    first = await appears(idle_house, "shop-db-1", compose("db", depends_on="web", idle_timeout="5m"))
    second = await appears(idle_house, "shop-web-1", compose("web", depends_on="db", idle_timeout="5m"))
    assert (first.policy, second.policy) != (None, None)
    assert [dependency.container for dependency in first.policy.depends_on] == ["web"]
    assert second.policy.depends_on == []
    (told,) = await idle_house.told("label_unreadable")
    assert "web" in told.message
    assert "cycle" in told.message
    await first.wake(reason="a request")
    assert second.state == "ready"
