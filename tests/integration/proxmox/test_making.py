"""Making containers: of a template, an image, by clone; and leaving nothing where that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.contract.proxmox import ProxmoxOptions
from flow_manager.runtimes.base import LABEL_ID, Mount, PortBinding
from flow_manager.runtimes.proxmox.description import read_description
from tests.contract.harness import until
from tests.integration.proxmox.conftest import NARROW, Lab, make_spec
from tests.pve.access import LEAST
from tests.pve.container import Container


def lines_of(container: Container) -> dict[str, str]:
    return read_description(str(container.config["description"]))


async def test_a_node_of_which_nothing_is_known_yet_is_tried(lab: Lab) -> None:
    for node in lab.pve.cluster.nodes.values():
        node.reports = False
    runtime = await lab.open()
    made = await runtime.create(make_spec(proxmox=ProxmoxOptions(node="pve2", template="debian-12-standard")))
    assert (await runtime.start(made.id)).state == "running"
    assert (await runtime.create(make_spec(image="debian-12-standard"))).state == "stopped"


async def test_a_template_becomes_a_container_with_what_was_asked_for(lab: Lab) -> None:
    runtime = await lab.open()
    spec = make_spec(
        image="debian-12-standard",
        environment={"COLOUR": "blue"},
        memory=100 * 2**20,
        cpus=1.5,
        labels={"team": "a=b\nc", "flow-manager.port": "80"},
        proxmox={"node": "pve2", "disk": 7, "ip": "10.1.2.3/24", "gateway": "10.1.2.1", "vlan": 5},
    )
    made = await runtime.create(spec)
    assert (made.id, made.name, made.state, made.adopted) == (spec.id, spec.name, "stopped", False)
    assert made.addresses == ("10.1.2.3",)
    assert made.labels["team"] == "a=b\nc"
    [container] = lab.pve.containers.values()
    assert (container.node, str(container.vmid)) == ("pve2", made.runtime_id)
    assert container.config["tags"] == "flow-manager"
    assert (container.config["memory"], container.config["cores"], container.config["cpulimit"]) == (100, 2, 1.5)
    assert container.config["unprivileged"] == 1
    assert container.config["features"] == "nesting=1"
    for part in ("ip=10.1.2.3/24", "gw=10.1.2.1", "tag=5", "bridge=vmbr0"):
        assert part in container.config["net0"]
    assert container.environment == {"COLOUR": "blue", "FLOW_ID": spec.id}
    assert lines_of(container)[LABEL_ID] == spec.id


async def test_an_image_keeps_its_own_environment_beside_the_flows(lab: Lab) -> None:
    runtime = await lab.open()
    variables = {"FLOW_URL": "tls://m:1", "FLOW_TOKEN": "t"}
    await runtime.create(make_spec(image="service", environment={"A": "x y"}, channel_variables=variables))
    [container] = lab.pve.containers.values()
    assert {"GREETING": "hello", "A": "x y", **variables}.items() <= container.environment.items()


async def test_creates_at_a_time_get_numbers_of_their_own(lab: Lab) -> None:
    runtime = await lab.open()
    made = await asyncio.gather(*(runtime.create(make_spec()) for _ in range(6)))
    assert len({flow.runtime_id for flow in made}) == 6
    assert len(lab.pve.containers) == 6


async def test_a_number_that_somebody_else_took_meanwhile_is_passed_over(lab: Lab) -> None:
    runtime = await lab.open()
    lab.pve.faults.answer(500, "CT 100 already exists on node 'pve1'", path="POST */lxc", times=2)
    made = await runtime.create(make_spec())
    assert len(lab.pve.containers) == 1
    assert made.state == "stopped"


async def test_a_create_whose_answer_was_lost_is_found_and_not_repeated(lab: Lab) -> None:
    runtime = await lab.open()
    lab.pve.faults.recycle("POST */lxc")
    made = await runtime.create(make_spec())
    assert [str(vmid) for vmid in lab.pve.containers] == [made.runtime_id]


async def test_a_create_that_never_arrived_is_unavailable_and_leaves_nothing(lab: Lab) -> None:
    runtime = await lab.open()
    lab.pve.faults.cut("POST */lxc")
    with pytest.raises(errors.RuntimeUnavailable):
        await runtime.create(make_spec())
    assert not lab.pve.containers


async def test_a_lock_or_a_lost_answer_on_its_way_is_waited_for(lab: Lab) -> None:
    runtime = await lab.open()
    lab.pve.faults.answer(500, "can't lock file '/run/lock/lxc/pve-config-100.lock' - got timeout", path="PUT */config")
    assert (await runtime.create(make_spec())).state == "stopped"
    lab.pve.faults.recycle("PUT */config")
    assert (await runtime.create(make_spec())).state == "stopped"
    assert len(lab.pve.containers) == 2


async def test_a_worker_that_was_killed_leaves_a_locked_container_and_that_is_said(lab: Lab) -> None:
    runtime = await lab.open()
    lab.pve.faults.fail_next("vzcreate")
    with pytest.raises(errors.FlowManagerError) as caught:
        await runtime.create(make_spec())
    assert "pct unlock 100" in caught.value.details["left"]
    assert await runtime.list() == []


async def test_a_create_that_fails_on_its_way_leaves_nothing(lab: Lab) -> None:
    runtime = await lab.open()
    lab.pve.faults.answer(500, "something is wrong", path="PUT */config")
    with pytest.raises(errors.RuntimeRefused):
        await runtime.create(make_spec())

    async def nothing() -> bool:
        return not lab.pve.containers and await runtime.list() == []

    await until(nothing, "what was made is removed")


async def test_a_full_storage_is_said(lab: Lab) -> None:
    runtime = await lab.open()
    lab.pve.faults.storage_full()
    with pytest.raises(errors.NoSpace):
        await runtime.create(make_spec())
    assert not lab.pve.containers


async def test_what_the_login_may_not_is_named_before_anything_is_left(lab: Lab) -> None:
    runtime = await lab.open()
    lab.pve.faults.remove_right(lab.token_id, "Datastore.AllocateSpace")
    with pytest.raises(errors.RuntimeRefused) as caught:
        await runtime.create(make_spec())
    assert caught.value.details["privilege"] == "Datastore.AllocateSpace"
    assert caught.value.details["path"] == "/storage/local"


async def test_a_clone_of_a_template_and_of_a_container(lab: Lab) -> None:
    runtime = await lab.open()
    fixed = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:09,ip=10.9.9.9/24,type=veth"
    source = lab.pve.add_container("pve2", net0=fixed, tags="prod", description="the original")
    with pytest.raises(errors.InvalidRequest):  # two containers would have one address
        await runtime.create(make_spec(image="", proxmox={"clone": source}))
    spec = make_spec(image="", proxmox={"clone": source, "ip": "10.9.9.10/24"}, memory=64 * 2**20)
    made = await runtime.create(spec)
    clone = lab.pve.containers[int(made.runtime_id or 0)]
    assert (clone.node, clone.config["tags"], clone.config["memory"]) == ("pve2", "flow-manager", 64)
    assert "ip=10.9.9.10/24" in clone.config["net0"]
    assert "hwaddr=BC:24:11:00:00:09" not in clone.config["net0"]
    assert lines_of(clone)[LABEL_ID] == spec.id
    assert lab.pve.containers[source].config["description"] == "the original"
    with pytest.raises(errors.ImageNotFound):
        await runtime.create(make_spec(image="", proxmox={"clone": 9999}))


@pytest.mark.parametrize(
    ("fields", "capability"),
    [
        ({"mounts": (Mount("/srv", "/data"),)}, "volumes"),  # type: ignore[arg-type]
        ({"networks": ("x",)}, "networks"),
        ({"pids": 5}, "limits"),
        ({"working_dir": "/x"}, "working_dir"),
        ({"ports": (PortBinding(80, "tcp", 8080),)}, "ports"),
        ({"stop_signal": "SIGINT"}, "signals"),
    ],
)
async def test_what_it_has_not_is_unsupported_up_front(lab: Lab, fields: dict[str, Any], capability: str) -> None:
    runtime = await lab.open()
    with pytest.raises(errors.Unsupported) as caught:
        await runtime.create(make_spec(**fields))
    assert caught.value.details["capability"] == capability
    assert not lab.pve.containers


@pytest.mark.parametrize("environment", [{"A.B": "1"}, {"A": "two\nlines"}])
async def test_an_environment_that_the_server_would_refuse_is_refused_with_the_reason(
    lab: Lab, environment: dict[str, str]
) -> None:
    runtime = await lab.open()
    with pytest.raises(errors.InvalidRequest) as caught:
        await runtime.create(make_spec(environment=environment))
    assert caught.value.details["fields"][0]["path"].startswith("environment.")


async def test_a_create_that_is_given_up_while_its_task_runs_leaves_nothing(make_lab: Callable[..., Any]) -> None:
    lab: Lab = await make_lab(task_time=0.4)
    runtime = await lab.open()
    creating = asyncio.create_task(runtime.create(make_spec()))

    async def ordered() -> bool:
        return bool(lab.pve.calls()["POST /nodes/{node}/lxc"])

    await until(ordered, "the server was told")
    creating.cancel()
    await asyncio.wait([creating])

    async def nothing() -> bool:
        return not lab.pve.containers and await runtime.list() == []

    await until(nothing, "what was made is removed")


@pytest.mark.parametrize("why", ["protected", "not-allowed"])
async def test_what_can_not_be_removed_is_not_killed_for_nothing(lab: Lab, why: str) -> None:
    vmid = lab.pve.add_container(running=True, **({"protection": 1} if why == "protected" else {}))
    runtime = await lab.open(lab.settings(LEAST if why == "protected" else NARROW))
    id = await lab.adopted(runtime, vmid)
    with pytest.raises(errors.RuntimeRefused, match=r"protection|VM\.Allocate"):
        await runtime.remove(id, force=True)
    assert lab.pve.containers[vmid].running


async def test_a_clone_never_gets_its_originals_address_on_any_card(lab: Lab) -> None:
    vmid = lab.pve.add_container(net1="name=eth1,bridge=vmbr0,ip=10.9.0.5/24")
    runtime = await lab.open()
    with pytest.raises(errors.InvalidRequest, match="net1"):
        await runtime.create(make_spec(proxmox={"clone": vmid}))
    assert list(lab.pve.containers) == [vmid]
