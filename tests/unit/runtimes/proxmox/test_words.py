"""The pure parts: what stands in descriptions, what rows, errors, addresses and task ids say, and what a create is made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager import errors
from flow_manager.contract.proxmox import ProxmoxOptions
from flow_manager.runtimes.proxmox.addresses import of_config, of_interfaces
from flow_manager.runtimes.proxmox.description import MAX_DESCRIPTION, read_description, write_description
from flow_manager.runtimes.proxmox.errors import Subject, task_failure, translate
from flow_manager.runtimes.proxmox.failure import CallFailed, of_answer
from flow_manager.runtimes.proxmox.identity import Judge
from flow_manager.runtimes.proxmox.known import Known, Written, flow_name, written
from flow_manager.runtimes.proxmox.resources import row, tags_of, usage
from flow_manager.runtimes.proxmox.sources import Sources, choose, stem
from flow_manager.runtimes.proxmox.spec import cloned_net, merged_env
from flow_manager.runtimes.proxmox.tasks import succeeded
from flow_manager.runtimes.proxmox.transport import parse_url, words_of
from flow_manager.runtimes.proxmox.upid import parse_upid
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.ids import lxc_flow_id

UPID = "UPID:pve1:000004B1:00001000:691F2B3C:vzstart:100:flow@pve!t1:"
VOLUME = "local:vztmpl/x.tar"
NOW = datetime(2026, 1, 1, tzinfo=UTC)

# --- descriptions -----------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda key: not key.startswith("flow-manager.")), st.text(max_size=40)
    )
)
def test_labels_come_back_from_a_description_as_they_were(labels: dict[str, str]) -> None:
    # The server gives descriptions back with a newline more.
    assert read_description(write_description(labels) + "\n") == labels


def test_owners_write_their_lines_as_people_do() -> None:
    text = "# My notes\r\n\r\nFlow-Manager:\r\n- idle-timeout=5m\r\n* port = 80\r\nflow-manager.hosts=a.example\\\r\nnonsense\r\nflow-manager:\r\nport=81\r\n"
    assert read_description(text) == {
        "flow-manager.idle-timeout": "5m",
        "flow-manager.port": "80",
        "flow-manager.hosts": "a.example",
    }


@pytest.mark.parametrize(
    "text", ["", "port=80", "flow-manager", "flow-manager:\n", 'flow-manager:\nlabel."x=1\na="b\n']
)
def test_what_is_no_line_of_ours_is_left_out(text: str) -> None:
    assert read_description(text) == {}


def test_more_than_a_description_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=str(MAX_DESCRIPTION)):
        write_description({"a": "x" * MAX_DESCRIPTION})


# --- whose is it ------------------------------------------------------------------------------------------------------

OWN = {"flow-manager.id": "aaaabbbbcccc", "flow-manager.instance": "me", "flow-manager.vmid": "100"}


@pytest.mark.parametrize(
    ("tags", "labels", "claimed", "expected"),
    [
        (["flow-manager"], OWN, False, ("aaaabbbbcccc", False)),
        ([], OWN, False, ("aaaabbbbcccc", False)),
        (["flow-manager"], {**OWN, "flow-manager.vmid": "101"}, False, None),  # a copy of one of ours
        (["flow-manager"], {**OWN, "flow-manager.instance": "other"}, True, None),
        (["flow-manager"], {}, False, (lxc_flow_id("lab", 100), True)),
        (["x"], {}, False, None),
        (["x"], {}, True, (lxc_flow_id("lab", 100), True)),
        (["flow-manager"], {"flow-manager.enable": "False"}, False, None),
    ],
)
def test_a_container_is_ours_adopted_or_nothing_to_us(
    tags: list[str], labels: dict[str, str], claimed: bool, expected: tuple[str, bool] | None
) -> None:
    found = Judge("lab", "me", True).identity(100, tags, labels, claimed=claimed)
    assert (None if found is None else (found.flow_id, found.adopted)) == expected


def test_without_adoption_only_a_named_one_is_taken_on() -> None:
    judge = Judge("lab", "me", False)
    assert judge.identity(100, ["flow-manager"], {}, claimed=False) is None
    assert judge.identity(100, [], {}, claimed=True) is not None


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_says_what_it_can() -> None:
    found = row({"type": "lxc", "vmid": "101", "node": "n", "status": "running", "tags": "A;b,c", "uptime": -1})
    assert found is not None
    assert (found.vmid, found.status, found.tags, found.uptime) == (101, "running", {"a", "b", "c"}, None)


@pytest.mark.parametrize("data", [None, [], {"type": "qemu", "vmid": 1, "node": "n"}, {"type": "lxc"}, {"vmid": 100}])
def test_what_is_no_container_is_no_row(data: Any) -> None:
    assert row(data) is None


@pytest.mark.parametrize("status", ["unknown", "suspended", None, 5])
def test_a_status_that_is_not_known_is_no_news(status: Any) -> None:
    found = row({"vmid": 100, "status": status}, node="n")
    assert found is not None
    assert found.status == "unknown"


def test_use_is_counted_in_cores_and_never_negative() -> None:
    data = {"vmid": 100, "node": "n", "status": "running", "cpu": 0.25, "maxcpu": 2, "mem": 5, "maxmem": 9}
    found = row(data)
    assert found is not None
    assert usage(found).cpu_percent == 50.0
    negative = row({**data, "cpu": -0.001})
    assert negative is not None
    assert usage(negative).cpu_percent == 0.0
    stopped = row({**data, "status": "stopped"})
    assert stopped is not None
    assert usage(stopped).memory_bytes is None


# --- one container's moments ------------------------------------------------------------------------------------------


def known() -> Known:
    identity = Judge("lab", "me", True).identity(100, ["flow-manager"], {}, claimed=False)
    assert identity is not None
    return Known(100, "n", identity, Written("web", {}))


def test_the_moment_of_a_start_stays_what_it_was_however_late_its_uptime_is_told() -> None:
    one = known()
    one.saw("running", NOW, 1000.0, None)
    for late in (0, 3, 10):
        one.saw("running", NOW + timedelta(seconds=20), 1020.0, 20 - late)
        assert one.started_at == NOW


def test_an_uptime_that_is_too_short_is_another_run() -> None:
    one = known()
    one.saw("running", NOW, 1000.0, 0)
    later = NOW + timedelta(hours=1)
    assert one.another_run(4600.0, 5)
    one.saw("running", later, 4600.0, 5)
    assert one.started_at == later - timedelta(seconds=5)


def test_a_wall_clock_that_is_set_is_no_other_run() -> None:
    one = known()
    one.saw("running", NOW, 1000.0, 0)
    one.saw("running", NOW + timedelta(days=400), 1060.0, 60)
    assert one.started_at == NOW


def test_addresses_of_the_config_are_kept_until_the_interfaces_have_one_of_ipv4() -> None:
    one = known()
    one.config = written({"net0": "name=eth0,bridge=vmbr0,ip=10.0.0.5/24,ip6=auto"}, {}, 100)
    one.addresses = ("fd00::5",)
    assert (one.located, one.observation().addresses) == (False, ("10.0.0.5", "fd00::5"))
    one.addresses = ("10.0.0.5", "fd00::5")
    assert one.located
    one.config = written({"net0": "name=eth0,bridge=vmbr0,ip6=auto"}, {}, 100)
    one.addresses = ("fd00::5",)
    assert (one.located, one.observation().addresses) == (True, ("fd00::5",))


@pytest.mark.parametrize(
    ("hostname", "name"), [("Web.example.org", "web"), ("CT100", "ct100"), ("a_b", "a_b"), ("x", "x")]
)
def test_a_flow_is_called_by_the_first_label_of_the_hostname(hostname: str, name: str) -> None:
    assert flow_name(hostname) == name


# --- addresses --------------------------------------------------------------------------------------------------------


def test_addresses_are_those_that_lead_in() -> None:
    def one(name: str, *addresses: str) -> dict[str, Any]:
        return {"name": name, "ip-addresses": [{"ip-address": address} for address in addresses]}

    data = [
        one("lo", "127.0.0.1"),
        one("docker0", "172.17.0.1"),
        one("br-abc", "172.18.0.1"),
        one("veth1", "10.0.0.9"),
        one("eth0", "fe80::1", "2001:db8::5", "10.0.0.5", "junk"),
        {"name": "eth1", "inet": "10.0.1.5/24", "inet6": "fe80::2/64"},  # before 9
        None,
    ]
    assert of_interfaces(data) == ("10.0.0.5", "10.0.1.5", "2001:db8::5")
    assert of_interfaces(None) == ()


def test_fixed_addresses_come_in_the_order_of_the_interfaces() -> None:
    config = {"net10": "name=b,ip=10.0.10.1/24", "net2": "name=a,ip=10.0.2.1/24,ip6=auto", "net0": "name=c,ip=dhcp"}
    assert of_config(config) == ("10.0.2.1", "10.0.10.1")


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words", "operation", "expected"),
    [
        (401, "Authentication failed!", None, errors.RuntimeUnavailable),
        (401, "", None, errors.RuntimeUnavailable),
        (403, "Permission check failed (/vms/102, VM.PowerMgmt)", None, errors.RuntimeRefused),
        (403, "mount point type bind is only allowed for root@pam", None, errors.RuntimeRefused),
        (500, "Configuration file 'nodes/pve1/lxc/999.conf' does not exist", None, errors.ContainerNotFound),
        (500, "Configuration file 'nodes/pve1/lxc/999.conf' does not exist", "start", errors.ContainerNotFound),
        (500, "CT 100 already exists on node 'pve1'", "create", errors.NameConflict),
        (500, "CT is locked (backup)", "start", errors.Conflict),
        (500, "can't lock file '/run/lock/lxc/pve-config-102.lock' - got timeout", "stop", errors.Conflict),
        (500, "unable to destroy CT 102 - container is running", None, errors.ContainerRunning),
        (500, "CT 100 not running", None, errors.ContainerStopped),
        (500, "VM 100 not running", None, errors.ContainerStopped),
        (500, "startup for container '102' failed", "start", errors.StartFailed),
        (500, "container did not stop", "stop", errors.StopFailed),
        (500, "tar: write error: No space left on device", "create", errors.NoSpace),
        (500, "volume 'local:vztmpl/x.tar' does not exist", "create", errors.ImageNotFound),
        (500, "storage 'nope' does not exist", "create", errors.RuntimeRefused),
        (595, "Connection refused", None, errors.RuntimeUnavailable),
        (596, "", "start", errors.RuntimeUnavailable),
        (0, "no answer in time", None, errors.RuntimeUnavailable),
        (400, "Parameter verification failed.", None, errors.RuntimeRefused),
    ],
)
def test_the_servers_words_become_our_errors(
    status: int, words: str, operation: str | None, expected: type[errors.FlowManagerError]
) -> None:
    error = translate(CallFailed(status, words), Subject("abc", operation=operation))
    assert type(error) is expected
    if isinstance(error, errors.RuntimeFailure):
        assert error.kind == "proxmox"
        assert error.error_type == "proxmox_api_error"


def test_refused_parameters_are_named() -> None:
    failed = of_answer(400, "Parameter verification failed.", {"rootfs": "unable to parse volume ID 'x'"})
    assert "rootfs: unable to parse" in translate(failed).message
    assert of_answer(401, "", {"errors": b""}).fields == {}


def test_only_what_may_have_arrived_is_lost() -> None:
    assert CallFailed(596, "x").lost
    assert CallFailed(0, "x").lost
    assert not CallFailed(0, "x", sent=False).lost
    assert not of_answer(500, "x", None).lost


def test_a_failed_task_is_told_in_its_own_words() -> None:
    error = task_failure("startup for container '102' failed; exec: nope: not found", Subject("abc", operation="start"))
    assert "nope" in error.details["reason"]


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (b'{"data":null,"message":"CT 100 already running\\n"}', "CT 100 already running", "CT 100 already running"),
        (b'{"data":null}', "CT 100 already running", "CT 100 already running"),
        (b'{"data":null,"message":"told"}', "", "told"),
        (b"", "Authentication failed!", "Authentication failed!"),
        (b"<html>", None, ""),
    ],
)
def test_the_words_are_the_messages_or_the_reason_phrases(body: bytes, reason: str | None, words: str) -> None:
    assert words_of(body, reason) == words


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_is_known_by_its_id() -> None:
    task = parse_upid(UPID)
    assert (task.node, task.type, task.id, task.user, task.started) == (
        "pve1",
        "vzstart",
        "100",
        "flow@pve!t1",
        0x691F2B3C,
    )


@pytest.mark.parametrize("text", [None, "", "UPID:", "UPID:a:b:c", UPID[:-1], UPID.replace("691F2B3C", "zz")])
def test_what_is_no_task_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_upid(text)


def test_ok_and_warnings_are_success_and_nothing_else() -> None:
    assert succeeded("OK")
    assert succeeded("WARNINGS: 3")
    assert not any(succeeded(status) for status in (None, "", "unexpected status", "OKAY?", "ok"))


# --- what it is made of -----------------------------------------------------------------------------------------------

VOLUMES = [
    "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
    "local:vztmpl/debian-12-standard_12.10-1_amd64.tar.zst",
    "nas:vztmpl/nginx_1.27.tar",
    "nas:vztmpl/nginx_latest.tar",
    "nas:vztmpl/app.tar",
]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("debian-12-standard", VOLUMES[1]),
        ("debian-12-standard_12.7-1_amd64", VOLUMES[0]),
        ("debian-12-standard_12.7-1_amd64.tar.zst", VOLUMES[0]),
        ("nginx:1.27", VOLUMES[2]),
        ("docker.io/library/nginx:1.27", VOLUMES[2]),
        ("nginx", VOLUMES[3]),
        ("nas:vztmpl/app.tar", VOLUMES[4]),
        ("app", VOLUMES[4]),
        ("nginx:9", None),
        ("deb", None),
    ],
)
def test_a_word_means_a_template(word: str, expected: str | None) -> None:
    assert choose(word, VOLUMES) == expected


def test_the_stem_of_a_volume() -> None:
    assert stem("a:vztmpl/x.y.tar.gz") == "x.y"
    assert stem("plain") == "plain"


def test_a_clone_keeps_its_own_hardware_address_and_not_the_originals_ip() -> None:
    source = "name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=AA,ip=10.0.0.5/24,ip6=fd00::5/64,gw6=fd00::1,type=veth"
    with pytest.raises(errors.InvalidRequest):
        cloned_net(source, ProxmoxOptions(clone=100))
    assert (
        cloned_net(source, ProxmoxOptions(clone=100, ip="dhcp")) == "name=eth0,bridge=vmbr0,hwaddr=AA,ip=dhcp,type=veth"
    )
    assert cloned_net("name=eth0,ip=dhcp", ProxmoxOptions(clone=100)) is None


def test_the_images_variables_stay_and_ours_win() -> None:
    assert merged_env("A=1\0B=2", {"B": "3", "C": "x=y"}) == "A=1\0B=3\0C=x=y"


# --- settings and requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://pve1:8006", ("pve1", 8006, None)),
        ("https://pve1", ("pve1", 8006, None)),
        ("https://pve1:8006/api2/json", ("pve1", 8006, None)),
        ("https://proxy.example:443/pve/api2/json/", ("proxy.example", 443, "pve")),
        ("https://[fd00::1]:8006", ("[fd00::1]", 8006, None)),
    ],
)
def test_an_address_may_be_written_in_several_ways(url: str, parts: tuple[Any, ...]) -> None:
    found = parse_url(url)
    assert (found.host, found.port, found.prefix) == parts


@pytest.mark.parametrize(
    "options",
    [
        {"vmid": 100, "clone": 101},
        {"vmid": 100, "storage": "local"},
        {"vmid": 99},
        {"node": "../x"},
        {"node": "a/b"},
        {"storage": "a/b"},
        {"template": "local:vztmpl/../../etc/passwd"},
        {"template": "/etc/passwd"},
        {"ip": "10.0.0.1"},
        {"ip": "x/24"},
        {"gateway": "10.0.0.1"},
        {"bridge": "vmbr0,hwaddr=1"},
        {"pool": "a b"},
    ],
)
def test_a_place_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ProxmoxOptions(**options)


def test_defaults_keep_within_twenty_calls_a_minute() -> None:
    assert 60 / RuntimeSettings().interval <= 20


def test_a_task_of_an_odd_user_is_asked_for_by_a_path_that_means_it() -> None:
    task = parse_upid("UPID:pve1:000004B1:00001000:691F2B3C:vzstart:100:a#b?c%d@pve!t1:")
    assert task.path == "nodes/pve1/tasks/UPID:pve1:000004B1:00001000:691F2B3C:vzstart:100:a%23b%3Fc%25d@pve!t1:"
    assert parse_upid(UPID).path == f"nodes/pve1/tasks/{UPID}"


@pytest.mark.parametrize("written", ["a;flow-manager", "a,Flow-Manager", "flow-manager a", "flow-manager;"])
def test_tags_are_read_as_people_write_them_into_files(written: str) -> None:
    assert "flow-manager" in tags_of({"tags": written})


async def test_a_volume_that_is_named_is_looked_for_on_the_nodes_own_storages() -> None:
    """`local` is another storage on each node."""

    class Client:
        async def get(self, path: str, **_: object) -> list[dict[str, str]]:
            if path.endswith("/storage"):
                return [{"storage": "local"}]
            return [{"volid": VOLUME}] if "/pve2/" in path else []

    sources = Sources(Client())  # type: ignore[arg-type]
    assert await sources.find(VOLUME, ["pve1", "pve2"]) == ("pve2", VOLUME)
    assert await sources.find(f"{VOLUME}.xz", ["pve1", "pve2"]) == ("pve1", f"{VOLUME}.xz")
    assert await sources.find(VOLUME, ["pve1"]) == ("pve1", VOLUME)
