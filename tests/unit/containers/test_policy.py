"""What a client may ask for: every way round the rules that others have found is tried here."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from flow_manager.containers.policy import Policy
from flow_manager.contract.models import ContainerConfig
from flow_manager.errors import (
    FlowManagerError,
    ImageNotAllowed,
    InvalidRequest,
    NotAllowed,
    PathNotAllowed,
    Unsupported,
)
from flow_manager.runtimes.base import Capabilities, FlowSpec
from flow_manager.settings.models import PolicySettings

DOCKER = SimpleNamespace(
    name="docker",
    kind="docker",
    capabilities=Capabilities(images=True, volumes=True, networks=True, tty=True, limits=True),
)
PROCESS = SimpleNamespace(name="process", kind="process", capabilities=Capabilities())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "data").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "state").mkdir()
    return tmp_path / "root"


def judge(
    root: Path,
    config: dict[str, Any],
    *,
    runtime: Any = DOCKER,
    tenant: str = "default",
    name: str = "web",
    **settings: Any,
) -> FlowSpec:
    policy = Policy(
        PolicySettings(**{"volume_roots": (root,), "code_roots": (root,), **settings}),
        instance="i",
        private=(root.parent / "state",),
    )
    return policy.spec(
        ContainerConfig.model_validate({"image": "alpine", **config}),
        flow_id="aaaaaaaaaaaa",
        name=name,
        tenant=tenant,
        runtime=runtime,
        channel_folder=Path("/c/aaaaaaaaaaaa"),
        code_folder=None,
    )


def test_a_volume_below_a_root_is_mounted_by_its_real_path(root: Path) -> None:
    (root / "link").symlink_to("data")
    spec = judge(root, {"volumes": {str(root / "link"): "/data:ro"}})
    assert [(m.source, m.target, m.read_only) for m in spec.mounts] == [(root / "data", "/data", True)]


@pytest.mark.parametrize(
    "escape", ["../outside", "data/../../outside", "way-out", "way-out/etc", "/", "/etc", "//etc", "/proc/self/root"]
)
def test_no_path_leads_out_of_the_roots(root: Path, escape: str) -> None:
    (root / "way-out").symlink_to("/")
    path = escape if escape.startswith("/") else f"{root}/{escape}"
    with pytest.raises(PathNotAllowed) as refused:
        judge(root, {"volumes": {path: "/data"}})
    assert refused.value.details["path"] == path
    with pytest.raises(PathNotAllowed):
        Policy(PolicySettings(code_roots=(root,)), instance="i", private=()).code_source(path)


def test_no_roots_means_no_volumes(root: Path) -> None:
    with pytest.raises(PathNotAllowed, match=r"policy\.volume_roots, which allows no folder"):
        judge(root, {"volumes": {str(root / "data"): "/data"}}, volume_roots=())
    with pytest.raises(PathNotAllowed, match=r"outside the folders that policy\.volume_roots allows"):
        judge(root, {"volumes": {str(root.parent / "outside"): "/data"}})


@pytest.mark.parametrize(("name", "container"), [("web", "web"), ("w", "flow-")])
def test_a_name_that_no_engine_takes_is_the_flow_s_alone(root: Path, name: str, container: str) -> None:
    spec = judge(root, {}, name=name)
    assert spec.name == name
    assert spec.container_name.startswith(container)


@pytest.mark.parametrize(
    "path", ["/", "/etc", "/proc", "/sys/fs", "/dev", "/run", "/var/run/docker.sock", "/var/lib/docker"]
)
def test_even_a_root_of_everything_gives_no_way_to_the_host(root: Path, path: str) -> None:
    with pytest.raises(PathNotAllowed):
        judge(root, {"volumes": {path: "/data"}}, volume_roots=(Path("/"),))


def test_the_managers_own_state_is_never_mounted(root: Path) -> None:
    for path in (root.parent / "state", root.parent):
        with pytest.raises(PathNotAllowed):
            judge(root, {"volumes": {str(path): "/data"}}, volume_roots=(root.parent,))


def test_a_socket_is_never_mounted(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "engine.sock"))
        with pytest.raises(PathNotAllowed):
            judge(root, {"volumes": {str(root / "engine.sock"): "/data"}})


def test_a_volume_that_does_not_exist_is_said_so(root: Path) -> None:
    with pytest.raises(InvalidRequest):
        judge(root, {"volumes": {str(root / "absent"): "/data"}})


def test_a_name_that_no_file_can_have_is_nothing_that_is_there(root: Path) -> None:
    name = str(root / ("n" * 300))
    with pytest.raises(InvalidRequest):
        judge(root, {"volumes": {name: "/data"}})
    policy = Policy(PolicySettings(code_roots=(root,)), instance="i", private=())
    with pytest.raises(InvalidRequest):
        policy.code_source(name)
    with pytest.raises(PathNotAllowed):
        policy.code_source(f"{root}/a\0b")


@pytest.mark.parametrize(
    ("patterns", "image", "allowed"),
    [
        (("*",), "alpine:3", True),
        ((), "alpine", False),
        (("team/*",), "team/app:1", True),
        (("team/*",), "other/app", False),
        (("team/*",), "evil/team/app", False),
    ],
)
def test_images_are_held_against_the_allowed_ones(
    root: Path, patterns: tuple[str, ...], image: str, allowed: bool
) -> None:
    if allowed:
        assert judge(root, {"image": image}, images=patterns).image == image
    else:
        with pytest.raises(ImageNotAllowed):
            judge(root, {"image": image}, images=patterns)


def test_networks_need_an_allowance(root: Path) -> None:
    with pytest.raises(NotAllowed):
        judge(root, {"networks": ["host"]})
    assert judge(root, {"networks": ["backend"]}, networks=("backend",)).networks == ("backend",)


@pytest.mark.parametrize(
    ("config", "capability"),
    [({"tty": True}, "tty"), ({"networks": ["n"]}, "networks"), ({"volumes": {"/x": "/y"}}, "volumes")],
)
def test_what_a_runtime_cannot_do_is_said_up_front(root: Path, config: dict[str, Any], capability: str) -> None:
    with pytest.raises(Unsupported) as refused:
        judge(root, {"image": "local", **config}, runtime=PROCESS)
    assert refused.value.details["capability"] == capability
    assert refused.value.error_type == "process_error"


def test_the_container_has_the_flows_name_in_the_default_tenant_alone(root: Path) -> None:
    assert judge(root, {}).container_name == "web"
    assert judge(root, {}, tenant="acme").container_name == "flow-aaaaaaaaaaaa"


def test_wishes_that_must_survive_are_labels(root: Path) -> None:
    spec = judge(root, {"labels": {"team": "a"}, "hosts": ["a.example"], "port": 80, "idle": {"idle_timeout": "5m"}})
    assert spec.labels == {
        "team": "a",
        "flow-manager.hosts": "a.example",
        "flow-manager.port": "80",
        "flow-manager.idle": '{"idle_timeout":300.0}',
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"privileged": True},
        {"cap_add": ["SYS_ADMIN"]},
        {"HostConfig": {}},
        {"image": "a b"},
        {"image": "http://x/y"},
        {"image": "-x"},
        {"name": "Web"},
        {"name": "-a"},
        {"name": "a" * 64},
        {"environment": {"A=B": "c"}},
        {"environment": {"A": "b\x00c"}},
        {"environment": {"FLOW_ID": "x"}},
        {"environment": {"A": 1}},
        {"volumes": {"relative": "/x"}},
        {"volumes": {"/x": "/y/../z"}},
        {"volumes": {"/x": "/y:rshared"}},
        {"volumes": {"/x": "/"}},
        {"volumes": {"/x": "/run/flow"}},
        {"volumes": {"/x": "/flow/sub"}},
        {"volumes": {"/x": "/proc/1"}},
        {"volumes": {"/x": "/data", "/y": "/data/"}},
        {"ports": {"80": 8000, "81": 8000}},
        {"ports": {"0": 1}},
        {"ports": {"70000": 1}},
        {"ports": {"80": 70000}},
        {"ports": {"80/icmp": 1}},
        {"ports": {"80": "80"}},
        {"resources": {"memory": -1}},
        {"resources": {"memory": "lots"}},
        {"resources": {"cpus": 0}},
        {"resources": {"pids": 1.5}},
        {"labels": {"flow-manager.id": "x"}},
        {"labels": {"": "x"}},
        {"hosts": ["Bad Host"]},
        {"hosts": ["a@b"]},
        {"working_dir": "relative"},
        {"command": "sh -c ls"},
        {"command": ["a\x00b"]},
        {"tty": "yes"},
        {"idle": {"idle_timeout": -1}},
        {"idle": {"stop_method": "freeze"}},
    ],
)
def test_what_is_not_in_the_contract_never_reaches_the_policy(bad: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, FlowManagerError)):
        ContainerConfig.model_validate({"image": "alpine", **bad})
