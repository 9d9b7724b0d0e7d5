"""The manager's promises when things go wrong, on the memory runtime with faults."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from flow_manager.contract import requests
from flow_manager.contract.models import ContainerInfo
from flow_manager.contract.principal import LOCAL, Principal
from flow_manager.errors import (
    Conflict,
    ContainerNotFound,
    ContainerRunning,
    FlowManagerError,
    ImageNotFound,
    InvalidRequest,
    NameConflict,
    NoSpace,
    QuotaExceeded,
    RuntimeUnavailable,
    ShuttingDown,
    StartFailed,
    Unsupported,
)
from flow_manager.testing import MemoryEngine, eventually
from tests.unit.containers.conftest import Builder, House

SLEEP: dict[str, Any] = {"image": "memory", "command": ["sleep"]}


async def make(house: House, principal: Principal = LOCAL, **changes: Any) -> ContainerInfo:
    return await house.manager.create_container(
        principal, requests.CreateContainer.model_validate({**SLEEP, **changes})
    )


def one(ref: str) -> dict[str, Any]:
    return {"container_id": ref}


@pytest.mark.parametrize("call", ["create", "start"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_create_that_fails_at_any_step_leaves_nothing(
    house: House, code_path: str, call: str, when: Any
) -> None:
    house.faults.fail(call, NoSpace("disk full", kind="memory"), when=when)
    with pytest.raises(NoSpace):
        await make(house, name="web", start=True, code_path=code_path, environment={"TOKEN": "abcdefgh"})
    await house.nothing_is_left()
    await house.told("operation_failed")
    assert (await make(house, name="web", code_path=code_path)).name == "web", "the name must be free again"


async def test_a_create_whose_record_cannot_be_stored_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = house.store.flows.save, 0

    async def full(record: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise NoSpace("disk full", kind="memory")
        await save(record)

    monkeypatch.setattr(house.store.flows, "save", full)
    with pytest.raises(NoSpace):
        await make(house)
    await house.nothing_is_left()


async def test_a_create_ended_by_a_forced_delete_leaves_nothing(house: House) -> None:
    house.faults.hang("create", when="after")
    creating = asyncio.create_task(make(house, name="slow"))
    await eventually(
        lambda: len(house.core.table) == 1 and house.core.locks.operation(next(iter(house.core.table)).id) == "create"
    )
    entry = next(iter(house.core.table))
    entry.visible = True  # as one that somebody could name already
    deleting = asyncio.create_task(
        house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id="slow", force=True))
    )
    with pytest.raises(Conflict):
        await creating
    with pytest.raises(ContainerNotFound):
        await deleting
    await house.nothing_is_left()


async def test_an_image_that_is_missing_is_said_so_and_nothing_is_left(house: House) -> None:
    with pytest.raises(ImageNotFound):
        await make(house, image="nowhere")
    await house.nothing_is_left()


async def test_a_start_that_fails_leaves_the_flow_as_it_was_and_says_why(house: House) -> None:
    made = await make(house)
    house.faults.fail("start", StartFailed("no such command", exit_code=127))
    with pytest.raises(StartFailed):
        await house.manager.start_container(LOCAL, requests.StartContainer(**one(made.id)))
    status = house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id)))
    assert (status.state, status.error) == ("created", "no such command")
    assert not house.core.channel.socket_path(made.id).exists()
    assert (await house.manager.start_container(LOCAL, requests.StartContainer(**one(made.id)))).error is None


async def test_two_identical_creates_at_once_make_one_flow_and_a_later_one_is_refused(house: House) -> None:
    both = await asyncio.gather(make(house, name="web"), make(house, name="web"))
    assert both[0].id == both[1].id
    with pytest.raises(NameConflict) as refused:
        await make(house, name="web")
    assert refused.value.details == {"name": "web"}


async def test_two_different_creates_at_once_with_one_name_make_one_flow(house: House) -> None:
    results = await asyncio.gather(make(house, name="web"), make(house, name="web", tty=True), return_exceptions=True)
    assert [type(result) for result in results] == [ContainerInfo, NameConflict]


async def test_names_are_a_tenants_own_and_nobody_sees_anothers_flows(house: House) -> None:
    acme = Principal("ann", "acme")
    ours, theirs = await make(house, name="web"), await make(house, acme, name="web")
    assert ours.id != theirs.id
    assert [info.id for info in house.manager.list_containers(acme, requests.ListContainers())] == [theirs.id]
    absent = "aaaaaaaaaaaa"
    answers = []
    for ref in (ours.id, absent):
        with pytest.raises(ContainerNotFound) as refused:
            house.manager.get_status(acme, requests.OneContainer(**one(ref)))
        answers.append(refused.value.message.replace(ref, "X"))
    assert answers[0] == answers[1], "what one may not see is answered as what is not there"


async def test_a_quota_is_kept_also_by_creates_at_the_same_time(builder: Builder) -> None:
    async with builder.open(policy={"max_flows": 2}) as house:
        results = await asyncio.gather(*(make(house) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(result, ContainerInfo) for result in results) == 2
        assert all(isinstance(result, (ContainerInfo, QuotaExceeded)) for result in results)


async def test_a_flow_is_found_by_id_name_and_runtime_id(house: House) -> None:
    made = await make(house, name="web")
    for ref in (made.id, "web", str(made.runtime_id), f"memory/{made.runtime_id}"):
        assert house.manager.resolve(LOCAL, ref) == made.id, ref


async def test_a_docker_ids_prefix_finds_the_flow_and_an_ambiguous_one_is_said_so(house: House) -> None:
    for name, own in (("a", "0123456789abcdef" * 4), ("b", "0123456789abcdee" + "0" * 48)):
        entry = house.core.table.get((await make(house, name=name)).id)
        assert entry is not None
        entry.record = replace(entry.record, runtime_id=own)
    assert house.core.table.resolve(LOCAL, "0123456789abcdef").record.name == "a"
    with pytest.raises(InvalidRequest):
        house.manager.resolve(LOCAL, "0123456789ab")
    with pytest.raises(ContainerNotFound):
        house.manager.resolve(LOCAL, "0123456789a")


async def test_a_running_flow_is_deleted_only_by_force(house: House) -> None:
    made = await make(house, start=True)
    with pytest.raises(ContainerRunning):
        await house.manager.delete_container(LOCAL, requests.DeleteContainer(**one(made.id)))
    await house.manager.delete_container(LOCAL, requests.DeleteContainer(**one(made.id), force=True))
    await house.nothing_is_left()


async def test_a_kill_ends_a_stop_that_takes_long(house: House) -> None:
    made = await make(house, command=["ignore-term"], start=True)
    stopping = asyncio.create_task(
        house.manager.stop_container(LOCAL, requests.StopContainer(**one(made.id), timeout=600))
    )
    await eventually(lambda: house.core.locks.operation(made.id) == "stop")
    killed = await house.manager.kill_container(LOCAL, requests.KillContainer(**one(made.id)))
    assert (killed.state, killed.exit_code, killed.desired) == ("exited", 137, "stopped")
    with pytest.raises(Conflict) as refused:
        await stopping
    assert refused.value.details["operation"] == "kill"


async def test_a_signal_that_is_a_note_ends_nothing(house: House) -> None:
    made = await make(house, start=True)
    status = await house.manager.kill_container(LOCAL, requests.KillContainer(**one(made.id), signal="HUP"))
    assert status.desired == "running"


async def test_with_the_engine_away_reads_answer_stale_and_changes_fail_fast(house: House) -> None:
    made = await make(house, start=True)
    house.faults.go_away()
    await eventually(lambda: house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id))).stale)
    with pytest.raises(RuntimeUnavailable):
        await house.manager.stop_container(LOCAL, requests.StopContainer(**one(made.id)))
    with pytest.raises(RuntimeUnavailable):
        await house.manager.delete_container(LOCAL, requests.DeleteContainer(**one(made.id), force=True))
    house.faults.come_back()
    await eventually(lambda: not house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id))).stale)
    assert house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id))).state == "running"
    await house.told("runtime_unavailable", "runtime_available")
    await house.manager.delete_container(LOCAL, requests.DeleteContainer(**one(made.id), force=True))
    await house.nothing_is_left()


async def test_an_engine_that_hangs_is_given_up_within_its_time(house: House) -> None:
    made = await make(house)
    house.faults.hang("start")
    async with asyncio.timeout(10):
        with pytest.raises(FlowManagerError) as refused:
            await house.manager.start_container(LOCAL, requests.StartContainer(**one(made.id)))
    assert refused.value.code in ("runtime_unavailable", "timeout")


async def test_a_death_outside_is_told_once_with_its_code(house: House) -> None:
    made = await make(house, start=True)
    house.faults.duplicate_events(5)
    house.runtime.die(made.id, 3)
    await eventually(lambda: house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id))).state == "exited")
    await house.stream.close()
    assert (await house.activity()).count("container_died") == 1
    assert house.statuses[-1].exit_code == 3 and house.statuses[-1].flow_state == "error"


async def test_a_stop_past_the_manager_is_not_told_as_an_end_by_itself(house: House) -> None:
    made = await make(house, start=True)
    house.runtime.outside_stop(made.id, 0)
    await house.told("container_died")
    (told,) = [item.entry for item in await house.stream.read(limit=1000) if item.entry.type == "container_died"]
    assert "was stopped outside the manager with exit code 0" in told.message
    assert told.details["cause"] == "stop"


async def test_a_container_that_vanishes_is_told_and_can_be_deleted(house: House) -> None:
    made = await make(house)
    await house.runtime.remove(made.id)
    await eventually(lambda: house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id))).state == "dead")
    await house.manager.delete_container(LOCAL, requests.DeleteContainer(**one(made.id)))
    await house.nothing_is_left()


async def test_what_a_runtime_cannot_do_is_unsupported(house: House) -> None:
    made = await make(house, start=True)
    house.runtime.capabilities = replace(house.runtime.capabilities, pause=False)
    with pytest.raises(Unsupported) as refused:
        await house.manager.pause_container(LOCAL, requests.ChangeContainer(**one(made.id)))
    assert refused.value.details["capability"] == "pause"


async def test_a_closing_manager_refuses_what_is_new(house: House) -> None:
    house.manager.refuse_new()
    with pytest.raises(ShuttingDown):
        await make(house)


@pytest.mark.parametrize("phase", ["creating", "deleting"])
async def test_what_a_dead_manager_left_half_done_is_undone_or_finished(builder: Builder, phase: str) -> None:
    async with builder.open() as house:
        made = await make(house, start=True, name="half")
        record = (await house.store.flows.all())[0]
        await house.store.flows.save(replace(record, phase=phase))
    async with builder.open() as house:
        with pytest.raises(ContainerNotFound):
            house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id)))
        await house.nothing_is_left()
        await house.told("operation_recovered")


async def test_a_secret_in_an_engines_own_words_reaches_nobody(house: House) -> None:
    made = await make(house, environment={"DB_PASSWORD": "hunter22"})
    house.faults.fail("start", StartFailed("cannot run hunter22", reason="no hunter22"))
    with pytest.raises(StartFailed) as refused:
        await house.manager.start_container(LOCAL, requests.StartContainer(**one(made.id)))
    await house.told("operation_failed")
    seen = [str(refused.value), refused.value.message, str(refused.value.details), str(house.statuses)]
    seen += [str(item) for item in await house.stream.read(limit=100)]
    assert "hunter22" not in " ".join(seen)


async def test_a_restarted_manager_knows_its_flows_and_their_sockets(builder: Builder) -> None:
    async with builder.open() as house:
        made = await make(house, start=True, name="keeps", command=["echo"])
        await eventually(lambda: house.core.channel.is_socket_connected(made.id))
    async with builder.open() as house:
        status = house.manager.get_status(LOCAL, requests.OneContainer(container_id="keeps"))
        assert (status.id, status.state, status.stale) == (made.id, "running", False)
        await eventually(lambda: house.core.channel.is_socket_connected(made.id))
        delivery = await house.manager.send_message(
            LOCAL, requests.SendMessage(**one(made.id), message={"a": 1}, expect_reply=True)
        )
        assert delivery.reply == {"echo": {"a": 1}}


async def test_a_record_whose_container_is_gone_is_marked_not_dropped(builder: Builder) -> None:
    async with builder.open() as house:
        made = await make(house)
    await builder.engine.close()
    builder.engine = MemoryEngine()
    async with builder.open() as house:
        status = house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id)))
        assert status.state == "dead"
        await house.told("container_lost")


async def test_a_retry_after_a_crash_finds_what_the_first_attempt_made(builder: Builder) -> None:
    async with builder.open() as house:
        first = await make(house, request_id="r-1")
    async with builder.open() as house:
        assert (await make(house, request_id="r-1")).id == first.id
        assert (await make(house, request_id="r-2")).id != first.id


async def test_waiting_for_ready_ends_when_the_flow_ends(house: House) -> None:
    made = await make(house, command=["exit", "3"])
    with pytest.raises(FlowManagerError) as refused:
        await house.manager.start_container(LOCAL, requests.StartContainer(**one(made.id), wait="ready"))
    assert refused.value.code == "container_stopped"
    assert refused.value.details["exit_code"] == 3


async def test_a_program_that_ends_before_our_first_look_is_told_started_and_died(house: House) -> None:
    made = await make(house, command=["exit", "3"], start=True)
    await house.told("container_started", "container_died")
    again = await make(house, command=["exit", "0"])
    await house.manager.start_container(LOCAL, requests.StartContainer(**one(again.id)))

    async def both_told() -> bool:
        types = await house.activity()
        return types.count("container_started") == types.count("container_died") == 2

    await eventually(both_told)
    assert house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id))).exit_code == 3


async def test_a_death_while_no_manager_was_there_is_told_once(builder: Builder) -> None:
    async with builder.open() as house:
        made = await make(house, start=True)
        outside = house.runtime
    await outside.open()
    outside.die(made.id, 3)
    await outside.close()
    for _ in range(2):
        async with builder.open() as house:
            await house.told("container_died")
    async with builder.open() as house:
        assert (await house.activity()).count("container_died") == 1


async def test_replies_tell_what_their_own_operation_left_behind(house: House) -> None:
    made = await make(house, start=True)
    pausing = asyncio.create_task(house.manager.pause_container(LOCAL, requests.ChangeContainer(**one(made.id))))
    unpausing = asyncio.create_task(house.manager.unpause_container(LOCAL, requests.ChangeContainer(**one(made.id))))
    stopping = asyncio.create_task(house.manager.stop_container(LOCAL, requests.StopContainer(**one(made.id))))
    starting = asyncio.create_task(house.manager.start_container(LOCAL, requests.StartContainer(**one(made.id))))
    replies = await asyncio.gather(pausing, unpausing, stopping, starting)
    assert [reply.state for reply in replies] == ["paused", "running", "exited", "running"]
    assert [reply.flow_state for reply in replies] == ["napping", "ready", "napping", "ready"]


async def test_a_stop_and_a_forced_delete_sent_together_both_have_their_answer(house: House) -> None:
    made = await make(house, start=True)
    async with asyncio.timeout(10):
        replies = await asyncio.gather(
            house.manager.stop_container(LOCAL, requests.StopContainer(**one(made.id))),
            house.manager.delete_container(LOCAL, requests.DeleteContainer(**one(made.id), force=True)),
            return_exceptions=True,
        )
    assert isinstance(replies[0], Conflict)
    await house.nothing_is_left()


async def test_a_stop_that_fails_leaves_the_wish_as_it_was(house: House) -> None:
    made = await make(house, start=True)
    house.faults.fail("stop", RuntimeUnavailable("away", kind="memory"))
    with pytest.raises(RuntimeUnavailable):
        await house.manager.stop_container(LOCAL, requests.StopContainer(**one(made.id)))
    assert house.manager.get_status(LOCAL, requests.OneContainer(**one(made.id))).desired == "running"


async def test_an_engine_that_goes_away_ends_what_is_under_way_there(builder: Builder) -> None:
    async with builder.open() as house:
        made = await make(house)
        house.runtime._call_timeout = 300
        house.faults.hang("start")
        starting = asyncio.create_task(house.manager.start_container(LOCAL, requests.StartContainer(**one(made.id))))
        await eventually(lambda: house.core.locks.operation(made.id) == "start")
        house.faults.go_away("frozen")
        async with asyncio.timeout(8):
            with pytest.raises(RuntimeUnavailable):
                await starting
        house.faults.come_back()


async def test_what_a_create_left_on_an_engine_that_went_away_goes_when_it_is_back(house: House) -> None:
    house.runtime._call_timeout = 300
    house.faults.hang("create", when="after")
    creating = asyncio.create_task(make(house))
    await eventually(lambda: len(house.core.table) == 1)
    await eventually(lambda: house.core.locks.operation(next(iter(house.core.table)).id) == "create")
    house.faults.go_away("frozen")
    async with asyncio.timeout(8):
        with pytest.raises(RuntimeUnavailable):
            await creating
    house.faults.come_back()

    async def all_gone() -> bool:
        await house.nothing_is_left()
        return True

    await eventually(all_gone)


async def test_a_message_reaches_clients_as_the_flow_sent_it(house: House) -> None:
    from flow_manager.containers.conversation import Conversation

    conversation = house.core.channel._listener
    assert isinstance(conversation, Conversation)
    made = await make(house)
    heard: list[Any] = []
    conversation.on_message(lambda _tenant, message: heard.append(message.message))
    body = {"tokens": 12, "auth": "basic", "url": "http://u:p@h/"}
    conversation.flow_message(made.id, body)
    assert heard == [body]
