from __future__ import annotations

import pytest

from flow_manager.containers.labels import MAX_TOLD, read_labels
from flow_manager.contract.models import Dependency, HttpReadiness, IdlePolicy, Probe, Readiness


def prefixed(labels: dict[str, str]) -> dict[str, str]:
    return {f"flow-manager.{name}": value for name, value in labels.items()}


def test_the_label_alone_wakes_on_demand_and_never_sleeps() -> None:
    wishes = read_labels({"flow-manager.enable": "true", "com.docker.compose.service": "web"})
    assert (wishes.name, wishes.hosts, wishes.port, wishes.tenant) == (None, [], None, "default")
    assert wishes.idle == IdlePolicy()
    assert wishes.idle.idle_timeout == 0
    assert wishes.unreadable == ()


POLICIES = [
    ({"idle-timeout": "5m"}, {"idle_timeout": 300}),
    ({"idle-timeout": "90"}, {"idle_timeout": 90}),
    ({"idle-timeout": "1h30m"}, {"idle_timeout": 5400}),
    ({"stop-method": "pause"}, {"stop_method": "pause"}),
    ({"stop-signal": "sigint"}, {"stop_signal": "SIGINT"}),
    ({"stop-timeout": "30s"}, {"stop_timeout": 30}),
    ({"wake-timeout": "2m"}, {"wake_timeout": 120}),
    (
        {"depends-on": "db:healthy, cache,seed:completed"},
        {
            "depends_on": [
                Dependency(container="db", condition="healthy"),
                Dependency(container="cache"),
                Dependency(container="seed", condition="completed"),
            ]
        },
    ),
    ({"start-endpoint": "/app"}, {"start_endpoint": "/app"}),
    ({"no-loading-page": "true"}, {"no_loading_page": True}),
    ({"no-loading-page": "0"}, {"no_loading_page": False}),
    (
        {"probes": "GET /healthz, /ready, HEAD, source=10.0.0.0/8, GET / user-agent=kube-probe 1.2"},
        {
            "probes": [
                Probe(method="GET", path="/healthz"),
                Probe(path="/ready"),
                Probe(method="HEAD"),
                Probe(source="10.0.0.0/8"),
                Probe(method="GET", path="/", user_agent="kube-probe 1.2"),
            ]
        },
    ),
    ({"ready-http": "80/healthz"}, {"ready": Readiness(http=HttpReadiness(port=80, path="/healthz"))}),
    ({"ready-http": "8080"}, {"ready": Readiness(http=HttpReadiness(port=8080, path="/"))}),
    ({"ready-tcp": "5432"}, {"ready": Readiness(tcp=5432)}),
    ({"ready-delay": "2s"}, {"ready": Readiness(delay=2)}),
    ({"ready-tcp": "5432", "ready-delay": "2s"}, {"ready": Readiness(tcp=5432, delay=2)}),
    ({"ready-channel": "false"}, {}),
]


@pytest.mark.parametrize(("labels", "fields"), POLICIES, ids=[str(labels) for labels, _ in POLICIES])
def test_each_field_of_the_policy_has_its_label(labels: dict[str, str], fields: dict[str, object]) -> None:
    wishes = read_labels(prefixed(labels))
    assert wishes.unreadable == ()
    assert wishes.idle == IdlePolicy(**fields)  # type: ignore[arg-type]


def test_every_field_of_the_policy_can_be_set_by_a_label() -> None:
    """A new field without a label would be out of reach for compose services."""
    reachable = {field for labels, fields in POLICIES for field in fields}
    assert reachable == set(IdlePolicy.model_fields)
    assert {name for _, fields in POLICIES for ready in [fields.get("ready")] if isinstance(ready, Readiness)
            for name in ready.model_fields_set} == set(Readiness.model_fields) - {"channel"}  # fmt: skip


def test_names_hosts_port_and_tenant_are_read() -> None:
    wishes = read_labels(
        prefixed({"name": "web", "hosts": "Shop.example., www.shop.example", "port": "8080", "tenant": "blue"})
    )
    assert wishes.name == "web"
    assert wishes.hosts == ["shop.example", "www.shop.example"]
    assert (wishes.port, wishes.tenant) == (8080, "blue")


UNREADABLE = [
    ("idle-timeout", "soon", "not a duration"),
    ("idle-timeout", "-5", "not a duration"),
    ("idle-timeout", "9999999999", "less than or equal"),
    ("stop-method", "hibernate", "pause"),
    ("stop-signal", "TERM; rm", "pattern"),
    ("depends-on", "db:sometimes", "started"),
    ("start-endpoint", "app", "pattern"),
    ("no-loading-page", "maybe", "true or false"),
    ("probes", "get /x", "a probe is a method"),
    ("probes", "user-agent=", "every request"),
    ("ready-http", "/healthz", "a port and a path"),
    ("ready-http", "99999/x", "65535"),
    ("ready-tcp", "postgres", "65535"),
    ("ready-tcp", "٥٤", "65535"),
    ("ready-channel", "true", "no channel"),
    ("ready-delay", "a while", "not a duration"),
    ("name", "Web_1", "DNS label"),
    ("port", "0", "65535"),
    ("hosts", "a b", "not a host name"),
    ("idle", "{}", "label of its own"),
    ("idle-timout", "5m", "did you mean flow-manager.idle-timeout?"),
    ("nonsense-altogether", "1", "no such label"),
]


@pytest.mark.parametrize(
    ("label", "value", "reason"), UNREADABLE, ids=[f"{label}={value}" for label, value, _ in UNREADABLE]
)
def test_a_label_that_cannot_be_read_is_told_of_and_the_rest_applies(label: str, value: str, reason: str) -> None:
    wishes = read_labels({**prefixed({"wake-timeout": "7", "port": "81"}), f"flow-manager.{label}": value})
    assert [found.label for found in wishes.unreadable] == [label]
    assert reason in wishes.unreadable[0].reason
    assert wishes.idle == IdlePolicy(wake_timeout=7)
    assert wishes.port == (None if label == "port" else 81)


def test_one_bad_host_does_not_take_the_good_ones_with_it() -> None:
    wishes = read_labels(prefixed({"hosts": "good.example,-bad-,fine.example"}))
    assert wishes.hosts == ["good.example", "fine.example"]
    assert [(found.label, found.value) for found in wishes.unreadable] == [("hosts", "-bad-")]


def test_a_tenant_that_cannot_be_told_is_nobody() -> None:
    """Else a flow would be shown to those it is hidden from."""
    wishes = read_labels(prefixed({"tenant": "Blue Team"}))
    assert wishes.tenant is None
    assert wishes.unreadable[0].label == "tenant"


def test_what_is_told_of_a_long_value_is_short() -> None:
    wishes = read_labels(prefixed({"idle-timeout": "x" * 100_000}))
    assert len(wishes.unreadable[0].value) <= MAX_TOLD + 1
    assert len(str(wishes.unreadable[0])) < 300
