"""Doctor: each thing that can be wrong is found, with a remedy, and nothing is changed by looking."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from flow_manager.cli.doctor import folders, machine
from flow_manager.cli.doctor.docker import docker, judged
from flow_manager.cli.doctor.finding import Finding
from flow_manager.cli.engine import Engine, EngineSaid
from flow_manager.settings.models import Settings

VERSION = {"Version": "20.10.24", "ApiVersion": "1.41"}
INFO = {"Driver": "overlay2", "LiveRestoreEnabled": True, "Images": 3, "SecurityOptions": [], "Warnings": None}


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def only(findings: list[Finding], level: str) -> Finding:
    (found,) = [finding for finding in findings if finding.level == level]
    assert found.mend
    return found


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fm-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def engine(short: Path) -> Iterator[Callable[[dict[str, Any]], str]]:
    """An engine that says what the test wants, on a socket; gives its address."""
    servers: list[ThreadingUnixStreamServer] = []

    def start(answers: dict[str, Any]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.get(self.path.partition("?")[0], (404, {"message": "page not found"}))
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_arguments: Any) -> None:
                pass

        server = ThreadingUnixStreamServer(str(short / "docker.sock"), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"unix://{short}/docker.sock"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# --- Docker -----------------------------------------------------------------------------------------------------------


def test_a_good_engine_is_ok(engine) -> None:
    web = {"Names": ["/web"], "Labels": {"flow-manager.enable": "true"}}
    address = engine({"/version": (200, VERSION), "/info": (200, INFO), "/containers/json": (200, [web])})
    assert levels(docker({"DOCKER_HOST": address}, configured=None, needed=True)) == ["ok", "ok"]


@pytest.mark.parametrize(
    ("version", "info", "level", "text"),
    [
        ({"ApiVersion": "1.40"}, {}, "problem", "too old"),
        ({}, {"LiveRestoreEnabled": False}, "warning", "live-restore is off"),
        ({}, {"Driver": "vfs"}, "warning", "vfs"),
        ({}, {"Images": 0}, "warning", "no image"),
        ({}, {"Warnings": ["WARNING: No memory limit support"]}, "warning", "No memory limit"),
        ({}, {"SecurityOptions": ["name=userns"]}, "warning", "remapped"),
    ],
)
def test_what_an_engine_lacks_is_told_with_the_remedy(version, info, level: str, text: str) -> None:
    findings = judged(Engine("unix:///x"), VERSION | version, INFO | info)
    assert text in only(findings, level).text


@pytest.mark.parametrize(("needed", "level"), [(True, "problem"), (False, "warning")])
def test_no_engine_is_a_problem_only_where_one_is_wanted(short: Path, needed: bool, level: str) -> None:
    found = docker({"DOCKER_HOST": f"unix://{short}/none.sock"}, configured=None, needed=needed)
    assert "DOCKER_HOST" in only(found, level).mend or "Docker" in only(found, level).mend


def test_a_socket_that_nobody_listens_on_is_told_apart(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short / "dead.sock"))
    found = docker({"DOCKER_HOST": f"unix://{short}/dead.sock"}, configured=None, needed=True)
    assert "systemctl start docker" in only(found, "problem").mend


def test_an_engine_that_hangs_is_given_up(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_manager.cli.engine.TIMEOUT", 0.1)
    monkeypatch.setattr(Engine.get, "__kwdefaults__", {"timeout": 0.1})
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(short / "s.sock"))
        silent.listen()
        found = docker({"DOCKER_HOST": f"unix://{short}/s.sock"}, configured=None, needed=True)
    assert "hangs" in only(found, "problem").text


def test_a_refused_permission_names_the_group(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Engine, "get", refuse)
    (short / "docker.sock").touch()
    found = docker({"DOCKER_HOST": f"unix://{short}/docker.sock"}, configured=None, needed=True)
    assert "usermod -aG root" in only(found, "problem").mend


@pytest.mark.parametrize("answer", [(500, {"message": "broken"}), (200, [])])
def test_what_is_no_engine_is_told(engine, answer) -> None:
    address = engine({"/version": answer, "/info": answer})
    assert levels(docker({"DOCKER_HOST": address}, configured=None, needed=True)) == ["problem"]


# --- folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_made_at_the_start_or_can_not_be(short: Path) -> None:
    assert levels(folders.state(short / "a" / "b")) == ["ok"]
    assert not (short / "a").exists()
    (short / "file").touch()
    assert levels(folders.state(short / "file" / "x")) == ["problem"]


def test_a_file_where_a_folder_should_be_is_a_problem(short: Path) -> None:
    (short / "file").touch()
    assert "no folder" in only(folders.sockets(short / "file"), "problem").text


def test_a_folder_that_is_open_to_others_matters_while_the_service_runs(short: Path) -> None:
    short.chmod(0o755)
    assert "chmod 700" in only(folders.sockets(short, running=True), "warning").mend
    assert levels(folders.sockets(short, running=False)) == ["ok", "ok"]
    assert list(short.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_a_problem(short: Path) -> None:
    os.chown(short, 12345, 12345)
    assert "another user" in only(folders.state(short), "problem").text


def test_a_path_that_is_too_long_is_a_problem() -> None:
    assert "76" in only(folders.sockets(Path("/tmp") / ("x" * 80)), "problem").text


def test_who_holds_the_state_folder_is_told(short: Path) -> None:
    assert folders.lock_holder(short) is None
    with (short / "lock").open("w+") as lock:
        lock.write("4711\n")
        lock.flush()
        assert folders.lock_holder(short) is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert folders.lock_holder(short) == "4711"


async def test_a_real_store_is_sound_and_is_not_changed_by_looking(short: Path) -> None:
    from flow_manager.store.sql import SqlStore

    file = short / folders.STORE_FILE
    store = SqlStore(file)
    await store.open()
    await store.close()
    before = file.read_bytes()
    (found,) = folders.store(file)
    assert found.level == "ok"
    assert "schema" in found.text
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", ["garbage", "foreign"])
def test_a_store_that_is_damaged_or_anothers_is_a_problem(short: Path, content: str) -> None:
    file = short / folders.STORE_FILE
    if content == "garbage":
        file.write_bytes(b"this is no database" * 100)
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE a (b)")
        connection.close()
    only(folders.store(file), "problem")


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_a_problem_by_the_name_of_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        route = {"listen": f"127.0.0.1:{number}", "container": "db", "port": 5432}
        for about, changes in (
            ("port", {"port": number}),
            ("proxy_port", {"proxy_port": number}),
            ("tcp_routes", {"tcp_routes": [route]}),
            ("channel.tls_listen", {"channel": {"tls_listen": f"127.0.0.1:{number}"}}),
        ):
            here = {"state_dir": "/s", "sockets_dir": "/k", "port": 0, "proxy_port": 0}
            (finding,) = machine.ports(Settings.model_validate({**here, **changes}))
            assert (finding.level, finding.about) == ("problem", about)
            assert str(number) in finding.text
    assert levels(machine.port("127.0.0.1", number)) == ["ok"]


@pytest.mark.parametrize(
    ("controllers", "own", "level"),
    [
        (None, "0::/a", "warning"),
        ("cpu memory pids", "0::/a", "ok"),
        ("cpu", "0::/a", "warning"),
        ("cpu", "1:x:/", "warning"),
    ],
)
def test_limits_of_processes_need_a_delegated_cgroup(tmp_path: Path, controllers, own: str, level: str) -> None:
    (tmp_path / "own").write_text(own + "\n")
    root = tmp_path / "cgroup"
    (root / "a").mkdir(parents=True)
    if controllers is not None:
        (root / "cgroup.controllers").touch()
        (root / "a" / "cgroup.controllers").write_text(controllers)
        (root / "a" / "cgroup.subtree_control").touch()
    assert levels(machine.cgroups(root, tmp_path / "own")) == [level]


# --- the verb -----------------------------------------------------------------------------------------------------------


def test_the_verb_tells_all_as_json_and_ends_with_1_for_a_problem(run, short: Path, monkeypatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{short}/none.sock")
    common = ["--url", "http://127.0.0.1:1", "--state-dir", str(short / "state"), "--sockets-dir", str(short / "s")]
    bad = run("doctor", "--json", "--runtime", "docker", *common)
    told = json.loads(bad.stdout)
    assert (bad.exit_code, told["result"]) == (1, "problem")
    assert [finding["about"] for finding in told["findings"] if finding["level"] == "problem"] == ["Docker"]
    good = run("doctor", *common, FLOW_MANAGER_PORT="0")
    assert good.exit_code == 0
    assert "→ " in good.stdout


def test_settings_that_are_wrong_are_told_and_the_rest_is_looked_at(run) -> None:
    done = run("doctor", "--url", "http://127.0.0.1:1", FLOW_MANAGER_PORTT="1")
    assert done.exit_code == 1
    assert "the nearest is FLOW_MANAGER_PORT" in done.stdout
    assert "Python" in done.stdout


def test_a_running_service_is_asked_whether_it_is_ready(service) -> None:
    # The fake has no /readyz: whatever is not ready says so.
    assert levels(machine.service(service.url)) == ["problem"]
    assert levels(machine.service("http://127.0.0.1:1")) == ["ok"]


def container(name: str, **labels: str) -> dict[str, Any]:
    return {
        "Names": [f"/{name}"],
        "Labels": {f"flow-manager.{key.replace('_', '-')}": value for key, value in labels.items()},
    }


@pytest.mark.parametrize(
    ("listed", "levels", "text"),
    [
        ([], [], ""),
        ([container("web", enable="true", idle_timeout="5m")], ["ok"], "1 container(s)"),
        (
            [container("web", enable="true", idle_timout="5m")],
            ["warning"],
            "web: flow-manager.idle-timout=5m: there is no such",
        ),
        ([container("web", enable="yes")], ["warning"], "neither true nor false"),
        ([container("web", enable="false", nonsense="x")], [], ""),
        ([container("own", enable="true", id="abcdefghijkl", idle="{}")], [], ""),
        ([{"Names": None, "Labels": None}], ["warning"], "?"),
        (
            [container("one", enable="true", hosts="a.example,b.example"), container("two", id="x", hosts="a.example")],
            ["warning"],
            "one and two claim the host a.example",
        ),
    ],
)
def test_labels_that_cannot_be_read_are_told(listed: list[Any], levels: list[str], text: str) -> None:
    from flow_manager.cli.doctor.labels import judged as judged_labels

    found = judged_labels(listed)
    assert [finding.level for finding in found] == levels
    assert all(text in finding.text for finding in found)


class OneContainer:
    """An engine that has one, `web`."""

    def get(self, path: str) -> Any:
        if path != "/containers/web/json":
            raise EngineSaid(404, "No such container")
        return {"Config": {"Labels": None}}


@pytest.mark.parametrize(
    ("containers", "found"),
    [
        ([], []),
        (["web"], [("ok", "the 1 container(s) that settings name are there")]),
        (["web", "db"], [("warning", "there is no container db")]),
    ],
)
def test_a_container_that_settings_name_and_that_is_not_there_is_told(
    tmp_path: Path, containers: list[str], found: list[tuple[str, str]]
) -> None:
    from flow_manager.cli.doctor.flows import declared, on_docker
    from flow_manager.settings.models import Settings

    elsewhere = [{"container": "x", "runtime": "lab"}, {"vmid": 101, "runtime": "docker"}]
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path,
            "sockets_dir": tmp_path / "s",
            "flows": [*({"container": name} for name in containers), *elsewhere],
        }
    )
    told = declared(OneContainer(), on_docker(settings))  # type: ignore[arg-type]
    assert [(finding.level, finding.text) for finding in told] == found
