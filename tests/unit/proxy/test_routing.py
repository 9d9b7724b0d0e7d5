"""Which flow a Host means."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from flow_manager.proxy.parser import Refused
from flow_manager.proxy.routing import Routes


@dataclass(eq=False)
class Flow:
    name: str
    tenant: str = "default"
    hosts: tuple[str, ...] = ()


@dataclass
class Table:
    flows: list[Flow] = field(default_factory=list)
    generation: int = 0

    def watchers(self) -> list[Flow]:
        return self.flows

    def watcher(self, flow_id: str) -> Flow | None:
        return None


def routes(*flows: Flow, domains: tuple[str, ...] = ("localhost", "apps.example")) -> Routes:
    return Routes(Table(list(flows)), domains)  # type: ignore[arg-type]


WEB = Flow("web", hosts=("www.example", "Shop.Example"))


@pytest.mark.parametrize(
    "host",
    [
        b"web.localhost",
        b"WEB.LocalHost",
        b"web.localhost.",
        b"web.localhost:8081",
        b"web.localhost.:80",
        b"web.apps.example",
        b"www.example",
        b"shop.example:443",
    ],
)
def test_a_flow_is_found_by_its_name_in_each_domain_and_by_its_hosts(host: bytes) -> None:
    table = routes(WEB)
    assert table.find(host) is WEB
    assert table.find(host) is WEB


@pytest.mark.parametrize(
    "host",
    [b"web", b"localhost", b"other.localhost", b"x.web.localhost", b"127.0.0.1", b"[::1]:80", b"web.localhost.evil"],
)
def test_a_host_that_nobody_has_is_nobody(host: bytes) -> None:
    assert routes(WEB).find(host) is None


@pytest.mark.parametrize(
    "host",
    [
        b"a@evil",
        b"web.localhost@evil",
        b"web.localhost/",
        b"web.localhost/..",
        b"web localhost",
        b"web.localhost:",
        b"web.localhost:x",
        b"web.localhost:99999",
        b"web.localhost:80:80",
        b"web.localhost,evil",
        b"web..localhost",
        b".localhost",
        b"web.localhost#",
        b"web.localhost?",
        b"web%2elocalhost",
        b"w\xc3\xa4b.localhost",
        b"[::1",
        b"[evil]",
        b"http://web.localhost",
        b"-",
        b"a" * 300,
    ],
)
def test_a_host_that_is_no_name_is_refused(host: bytes) -> None:
    with pytest.raises(Refused) as refused:
        routes(WEB).find(host)
    assert refused.value.status == 400


def test_a_flow_can_not_take_another_ones_name_as_a_host_of_its_own() -> None:
    thief = Flow("thief", tenant="other", hosts=("web.localhost", "free.localhost"))
    table = routes(thief, WEB)
    assert table.find(b"web.localhost") is WEB
    assert table.find(b"free.localhost") is thief


def test_of_two_tenants_flows_with_one_name_the_default_tenants_is_served() -> None:
    other, third = Flow("web", tenant="a"), Flow("web", tenant="b")
    assert routes(other, WEB, third).find(b"web.localhost") is WEB
    assert routes(other, third).find(b"web.localhost") is None


def test_a_host_of_two_flows_stays_with_the_first() -> None:
    second = Flow("second", hosts=("www.example",))
    assert routes(WEB, second).find(b"www.example") is WEB


def test_the_table_follows_the_registry() -> None:
    table = Table([WEB])
    found = Routes(table, ["localhost"])  # type: ignore[arg-type]
    assert found.find(b"web.localhost") is WEB
    table.flows, table.generation = [], 1
    assert found.find(b"web.localhost") is None
