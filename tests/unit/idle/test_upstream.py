from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest

from flow_manager.contract.models import ContainerConfig
from flow_manager.idle.upstream import (
    Candidate,
    candidates,
    flow_port,
    moved,
    networks_here,
    no_way,
    on_link,
    parse_route,
    parse_route_6,
)
from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.docker.observe import observe


def seen(**changes: object) -> Observation:
    return Observation(**{"id": "abcdefghijkl", "runtime_id": "f00", "name": "web", "state": "running", **changes})  # type: ignore[arg-type]


def test_a_container_is_reached_by_its_own_addresses_first_and_by_its_published_port_last() -> None:
    found = candidates(seen(addresses=("10.1.0.3", "fd00::2"), ports={"80/tcp": 32768}), 80, "docker")
    assert found == (Candidate("10.1.0.3", 80), Candidate("fd00::2", 80), Candidate("127.0.0.1", 32768, True))


def test_another_ports_publication_is_no_way_to_this_port() -> None:
    observation = seen(addresses=("10.1.0.3",), ports={"80/tcp": 32768, "9000/udp": 32769})
    assert candidates(observation, 9000, "docker") == (Candidate("10.1.0.3", 9000),)


@pytest.mark.parametrize(
    ("published_on", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("192.168.7.1", "192.168.7.1")],
)
def test_a_port_published_on_all_addresses_is_reached_on_loopback(published_on: str, reached: str) -> None:
    found = candidates(seen(ports={"80/tcp": 8000}), 80, "docker", published_on=published_on)
    assert found == (Candidate(reached, 8000, True),)


@pytest.mark.parametrize("kind", ["process", "memory"])
def test_a_process_is_reached_on_loopback_at_the_port_that_was_chosen_for_it(kind: str) -> None:
    assert candidates(seen(ports={"80/tcp": 40123}), 80, kind) == (
        Candidate("127.0.0.1", 40123),
        Candidate("::1", 40123),
    )


def test_a_process_without_a_chosen_port_is_reached_where_it_says() -> None:
    assert candidates(seen(), 5432, "process")[0] == Candidate("127.0.0.1", 5432)


@pytest.mark.parametrize("observation", [None, seen()])
def test_nothing_known_is_no_candidate(observation: Observation | None) -> None:
    assert candidates(observation, 80, "docker") == ()


def test_a_flow_without_a_port_has_no_candidate() -> None:
    assert candidates(seen(addresses=("10.1.0.3",)), None, "docker") == ()


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "localhost", "", "evil"]
)
def test_an_address_that_is_no_containers_own_is_never_tried(address: str) -> None:
    assert candidates(seen(addresses=(address,)), 80, "docker") == ()


@pytest.mark.parametrize(
    ("config", "observation", "port"),
    [
        ({"port": 9000, "ports": {"80": 0}}, seen(exposed=(70,)), 9000),
        ({"ports": {"8080": 0, "443/tcp": 1, "53/udp": 0}}, seen(exposed=(70,)), 443),
        ({"ports": {"53/udp": 0}}, seen(exposed=(70, 71)), 70),
        ({}, seen(ports={"53/udp": 1, "8080/tcp": 5, "90/tcp": 2}, exposed=(70,)), 90),
        ({}, seen(), None),
        ({}, None, None),
    ],
)
def test_where_a_flow_listens(config: dict[str, object], observation: Observation | None, port: int | None) -> None:
    assert flow_port(ContainerConfig.model_validate({"image": "web", **config}), observation) == port


@pytest.mark.parametrize(
    ("exposed", "found"),
    [
        (
            {"80/tcp": {}, "443/tcp": {}, "53/udp": {}, "x/tcp": {}, "70000/tcp": {}, "0/tcp": {}, "٣/tcp": {}},
            (80, 443),
        ),
        (None, ()),
        ([], ()),
        ({}, ()),
    ],
)
def test_the_ports_that_an_image_exposes_are_seen(exposed: object, found: tuple[int, ...]) -> None:
    data = {
        "Id": "f00",
        "State": {"Status": "created"},
        "Config": {"Labels": {"flow-manager.id": "abcdefghijkl"}, "ExposedPorts": exposed},
    }
    assert observe(data).exposed == found


@pytest.mark.parametrize(
    ("line", "network"),
    [
        ("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT", None),
        ("eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0", None),
        ("docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0", IPv4Network("172.17.0.0/16")),
        ("br-1\t802B4D64\t00000000\t0001\t0\t0\t0\tC0FFFFFF\t0\t0\t0", IPv4Network("100.77.43.128/26")),
        ("br-1\t802B4D64\t00000000\t0000\t0\t0\t0\tC0FFFFFF\t0\t0\t0", None),
        ("tun0\t0000000A\t0100000A\t0003\t0\t0\t0\t000000FF\t0\t0\t0", None),
        ("*\t0000000A\t00000000\t0201\t0\t0\t0\t000000FF\t0\t0\t0", None),
        ("", None),
        ("eth0\tzz\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0", None),
    ],
)
def test_a_network_that_this_machine_is_on_is_told_from_one_behind_a_gateway(
    line: str, network: IPv4Network | None
) -> None:
    if parse_route("lo\t0100007F\t0\t0001\t0\t0\t0\t000000FF") != IPv4Network("127.0.0.0/8"):
        pytest.skip("the table's addresses are in the machine's byte order; these lines are of a little-endian one")
    assert parse_route(line) == network


@pytest.mark.parametrize(
    ("destination", "length", "hop", "flags", "interface", "network"),
    [
        ("fd000000000000000000000000000000", "40", "0" * 32, "00000001", "br-1", IPv6Network("fd00::/64")),
        ("fd000000000000000000000000000000", "40", "fe80" + "0" * 27 + "1", "00000003", "eth0", None),
        ("fd000000000000000000000000000000", "40", "0" * 32, "00200200", "lo", None),
        ("fd000000000000000000000000000002", "80", "0" * 32, "80200001", "lo", None),
        ("0" * 32, "00", "0" * 32, "00000001", "eth0", None),
    ],
)
def test_the_same_for_ipv6(
    destination: str, length: str, hop: str, flags: str, interface: str, network: IPv6Network | None
) -> None:
    line = f"{destination} {length} {'0' * 32} 00 {hop} 00000100 00000001 00000000 {flags} {interface}"
    assert parse_route_6(line) == network
    assert parse_route_6(line[:40]) is None


def test_only_an_address_on_a_network_of_its_own_version_is_on_link() -> None:
    networks = (IPv4Network("172.17.0.0/16"), IPv6Network("fd00::/64"))
    assert on_link("172.17.3.4", networks)
    assert on_link("fd00::9", networks)
    assert not on_link("172.18.0.1", networks)
    assert not on_link("fd01::9", networks)


def test_this_machines_networks_can_be_read() -> None:
    assert all(network.prefixlen > 0 for network in networks_here())


def test_a_way_is_printed_as_people_write_it() -> None:
    assert str(Candidate("::1", 80)) == "[::1]:80"
    assert str(Candidate("10.0.0.1", 80)) == "10.0.0.1:80"


# --- an engine on another machine -------------------------------------------------------------------------------------

THERE = {"addresses": ("172.17.0.2",), "ports": {"80/tcp": 32768}, "engine_host": "10.0.0.7"}


@pytest.mark.parametrize(
    ("published_on", "reached"), [("0.0.0.0", "10.0.0.7"), ("::", "10.0.0.7"), ("10.9.9.9", "10.9.9.9")]
)
def test_a_flow_on_another_machine_is_reached_by_its_published_port_alone(published_on: str, reached: str) -> None:
    found = candidates(seen(**THERE), 80, "docker", published_on=published_on)
    assert found == (Candidate(reached, 32768, True),), "its own address may be somebody else's here"


def test_a_port_published_on_the_loopback_of_another_machine_is_not_here() -> None:
    assert candidates(seen(**THERE), 80, "docker", published_on="127.0.0.1") == ()
    assert "policy.publish_address to 0.0.0.0" in no_way(seen(**THERE), 80, published_on="127.0.0.1")


def test_what_others_published_there_is_tried_whatever_our_own_flows_do() -> None:
    found = candidates(seen(**THERE, adopted=True), 80, "docker", published_on="127.0.0.1")
    assert found == (Candidate("10.0.0.7", 32768, True),)


def test_without_a_way_there_it_is_said_what_is_missing() -> None:
    assert "'ports'" in no_way(seen(engine_host="10.0.0.7"), 80, published_on="0.0.0.0")
    assert candidates(seen(**{**THERE, "engine_host": ""}), 80, "docker", published_on="0.0.0.0") == ()
    assert "looked up" in no_way(seen(**{**THERE, "engine_host": ""}), 80, published_on="0.0.0.0")
    for observation in (None, seen(), seen(engine_host="10.0.0.7", state="exited")):
        assert no_way(observation, 80) == "no address is known at which port 80 could be reached"


def test_a_flow_that_moved_is_looked_for_where_it_is_now_and_else_where_it_was() -> None:
    old, new = Candidate("172.18.0.2", 80), Candidate("172.18.0.3", 80)
    assert moved(old.pair, (new, Candidate("127.0.0.1", 4000, via_forwarder=True))) == new.pair
    assert moved(old.pair, (new, old)) == old.pair
    assert moved(old.pair, ()) == old.pair
