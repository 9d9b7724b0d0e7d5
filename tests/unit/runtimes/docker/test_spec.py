from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_manager.runtimes.base import FlowSpec, Mount, PortBinding
from flow_manager.runtimes.docker.spec import container_body, network_name, on_engines_host

BARE = FlowSpec(id="abcdefghijkl", name="web", container_name="web", tenant="default", instance="lab", image="alpine:3")


def body(network: str | None = "flow-manager-lab", **fields: Any) -> dict[str, Any]:
    spec = FlowSpec(**{**{name: getattr(BARE, name) for name in BARE.__dataclass_fields__}, **fields})
    return container_body(
        spec, network=network, attempt="create-1", sockets_dir=Path("/run/fm"), state_dir=Path("/var/fm"),
        sockets_host_dir=Path("/srv/sockets"), state_host_dir=Path("/srv/state"),
    )  # fmt: skip


def test_it_carries_its_own_truth_in_labels_that_a_client_cannot_change() -> None:
    made = body(labels={"team": "blue", "flow-manager.id": "stolen"})
    assert made["Labels"] == {
        "team": "blue",
        "flow-manager.id": "abcdefghijkl",
        "flow-manager.name": "web",
        "flow-manager.instance": "lab",
        "flow-manager.tenant": "default",
        "flow-manager.attempt": "create-1",
    }


def test_binds_are_never_used_since_they_make_missing_folders_on_the_host() -> None:
    made = body(
        mounts=(Mount(Path("/data/in"), "/in", True), Mount(Path("/data/out"), "/out")),
        channel_folder=Path("/run/fm/abcdefghijkl"),
        code_folder=Path("/var/fm/code/abcdefghijkl"),
    )
    assert "Binds" not in made["HostConfig"]
    assert [
        (mount["Type"], mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in made["HostConfig"]["Mounts"]
    ] == [
        ("bind", "/data/in", "/in", True),
        ("bind", "/data/out", "/out", False),
        ("bind", "/srv/sockets/abcdefghijkl", "/run/flow", True),
        ("bind", "/srv/state/code/abcdefghijkl", "/flow", False),
    ]
    assert {mount["BindOptions"]["Propagation"] for mount in made["HostConfig"]["Mounts"]} == {"rprivate"}


def test_it_is_built_from_nothing() -> None:
    made = body(network=None)
    assert set(made) == {"Image", "Env", "Labels", "Tty", "OpenStdin", "StopTimeout", "ExposedPorts", "HostConfig"}
    assert set(made["HostConfig"]) == {"Init", "Mounts", "PortBindings", "RestartPolicy", "SecurityOpt", "LogConfig"}
    assert made["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]
    assert made["HostConfig"]["Init"] is True
    assert made["HostConfig"]["LogConfig"]["Config"]["max-size"] == "10m"


def test_limits_are_the_engines_units_and_swap_is_none() -> None:
    host = body(memory=64 * 2**20, cpus=0.5, pids=32)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        67108864,
        67108864,
        500_000_000,
        32,
    )


def test_ports_are_published_on_the_given_address_and_zero_is_the_engines_choice() -> None:
    made = body(ports=(PortBinding(80, "tcp", 8080), PortBinding(53, "udp", 0, "0.0.0.0")))
    assert made["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "0.0.0.0", "HostPort": ""}],
    }
    assert set(made["ExposedPorts"]) == {"80/tcp", "53/udp"}


def test_a_terminal_has_an_open_input() -> None:
    made = body(tty=True, command=("sh",), working_dir="/w", stop_signal="SIGINT", stop_timeout=2.5)
    assert (made["Tty"], made["OpenStdin"], made["Cmd"], made["WorkingDir"]) == (True, True, ["sh"], "/w")
    assert (made["StopSignal"], made["StopTimeout"]) == ("SIGINT", 3)


def test_the_managers_variables_win() -> None:
    env = body(environment={"A": "b=c", "FLOW_ID": "stolen", "EMPTY": ""}, code_folder=Path("/var/fm/code/x"))["Env"]
    assert sorted(env) == [
        "A=b=c",
        "EMPTY=",
        "FLOW_CODE=/flow",
        "FLOW_ID=abcdefghijkl",
        "FLOW_SOCKET=/run/flow/abcdefghijkl.sock",
    ]


def test_it_joins_its_network_under_its_name() -> None:
    made = body()
    assert made["HostConfig"]["NetworkMode"] == "flow-manager-lab"
    assert made["NetworkingConfig"] == {"EndpointsConfig": {"flow-manager-lab": {"Aliases": ["web"]}}}


def test_each_tenant_has_a_network() -> None:
    assert network_name("lab", "default") == "flow-manager-lab"
    assert network_name("lab", "blue") == "flow-manager-lab-blue"


@pytest.mark.parametrize(
    ("path", "outside", "wanted"),
    [
        ("/run/fm/x", None, "/run/fm/x"),
        ("/run/fm/x", "/host/s", "/host/s/x"),
        ("/run/fm/x/y", "/host/s", "/host/s/x/y"),
        ("/run/fmx/y", "/host/s", "/run/fmx/y"),
        ("/elsewhere", "/host/s", "/elsewhere"),
    ],
)
def test_paths_are_the_engines_hosts(path: str, outside: str | None, wanted: str) -> None:
    assert on_engines_host(Path(path), Path("/run/fm"), Path(outside) if outside else None) == wanted
