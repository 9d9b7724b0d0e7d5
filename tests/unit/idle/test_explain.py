from __future__ import annotations

import asyncio

import pytest

from flow_manager.contract import requests
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import WakeTimeout
from flow_manager.idle.readiness_target import NotReady
from flow_manager.idle.sleeping import in_words
from tests.unit.idle.house import IdleHouse


def summary(house: IdleHouse) -> str:
    return house.registry.explain_container(LOCAL, requests.OneContainer(container_id="web")).summary


async def test_each_state_has_a_sentence(idle_house: IdleHouse) -> None:
    web = await idle_house.create(idle={"idle_timeout": 300})
    assert summary(idle_house) == "asleep: the next request wakes it"
    await web.wake(reason="a request")
    assert summary(idle_house) == "awake: not in use; sleeps in 5 min unless it is used"
    leases = [web.use("http", "client") for _ in range(2)]
    await idle_house.clock.run(3)
    assert summary(idle_house) == "awake: 2 requests in flight (oldest 3 s); sleeps 5 min after the last ends"
    for lease in leases:
        lease.release()
    socket = web.use("websocket", "client")
    assert summary(idle_house) == "awake: 1 WebSocket (0 s); sleeps in 5 min unless it is used"
    socket.release()
    idle_house.faults.delay("stop", 5.0)
    sleeping = asyncio.create_task(
        idle_house.registry.sleep_container(LOCAL, requests.ChangeContainer(container_id="web"))
    )
    await idle_house.comes(web, "stopping")
    assert summary(idle_house) == "going to sleep: local let it sleep"
    await idle_house.settled()
    await idle_house.clock.run(5)
    await sleeping
    assert summary(idle_house) == "asleep (local let it sleep): the next request wakes it"
    await idle_house.stop(web)
    assert summary(idle_house) == "stopped by somebody: start or wake it; traffic doesn't"


async def test_a_failure_says_why_and_when_it_is_tried_again(idle_house: IdleHouse) -> None:
    web = await idle_house.create(idle={"wake_timeout": 5})
    idle_house.prober.failing[web.id] = NotReady("TCP port 8000", "it refuses connections", reason="timeout")
    with pytest.raises(WakeTimeout):
        await web.wake(reason="a request")
    assert summary(idle_house) == (
        "failed: not ready within 5 s, waiting for TCP port 8000: it refuses connections; traffic tries again in 1 s"
    )
    explained = web.explain()
    assert (explained.crashes, explained.retry_in) == (1, 1)
    assert explained.error is not None


async def test_without_a_policy_it_says_so(idle_house: IdleHouse) -> None:
    await idle_house.create(idle=None, start=True)
    assert summary(idle_house) == "awake: it has no idle policy and never sleeps by itself"


async def test_one_that_was_never_started_is_not_said_to_have_been_stopped(idle_house: IdleHouse) -> None:
    web = await idle_house.create(idle=None)
    assert summary(idle_house) == "never started: start or wake it; without an idle policy traffic doesn't"
    await idle_house.start(web)
    await idle_house.stop(web)
    assert summary(idle_house) == "stopped by somebody: start or wake it; traffic doesn't"


async def test_leases_deadline_and_notes_are_fields_too(idle_house: IdleHouse) -> None:
    web = await idle_house.create(start=True)
    await idle_house.clock.run(10)
    explained = web.explain()
    assert explained.sleeps_in == 50
    assert explained.sleeps_at is not None
    assert (explained.sleeps_at - idle_house.clock.now()).total_seconds() == pytest.approx(50)
    lease = web.use("exec", "alice")
    explained = web.explain()
    assert (explained.leases[0].kind, explained.leases[0].holder, explained.sleeps_in) == ("exec", "alice", None)
    lease.release()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (1.25, "1.25 s"),
        (59.4, "59.4 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (3600, "1 h"),
        (90061, "1 d 1 h"),
    ],
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
