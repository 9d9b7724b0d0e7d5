"""The thin clients: what each verb sends, prints, and ends with."""

from __future__ import annotations

import json
import socket

import pytest

NOT_FOUND = {
    "error": True,
    "error_type": "memory_error",
    "code": "container_not_found",
    "message": "no flow container 'nope'",
    "details": {},
    "timestamp": "2026-01-19T10:30:00Z",
}


@pytest.mark.parametrize(
    ("arguments", "event", "fields"),
    [
        (["start", "a"], "start_container", {}),
        (["start", "--wait", "a"], "start_container", {"wait": "ready"}),
        (["stop", "a", "-t", "3", "-s", "SIGINT"], "stop_container", {"timeout": 3, "signal": "SIGINT"}),
        (["restart", "a", "--timeout", "0"], "restart_container", {"timeout": 0}),
        (["pause", "a"], "pause_container", {}),
        (["unpause", "a"], "unpause_container", {}),
        (["kill", "a"], "kill_container", {}),
        (["kill", "-s", "SIGUSR1", "a"], "kill_container", {"signal": "SIGUSR1"}),
        (["status", "a"], "get_status", {}),
        (["wake", "a"], "wake_container", {}),
        (["wake", "--no-wait", "a"], "wake_container", {"wait": False}),
        (["sleep", "a"], "sleep_container", {}),
    ],
)
def test_a_verb_is_its_event(service, run, arguments, event, fields) -> None:
    done = run("--url", service.url, *arguments)
    assert done.exit_code == 0, done.stderr
    sent = service.requests(event)[0]
    sent.pop("request_id", None)
    assert sent == {"container_id": "a", **fields}


def test_rm_says_of_what_others_made_that_it_goes_on(service, run) -> None:
    service.answers["get_container"] = {"error": False, "data": {"adopted": True}}
    service.answers["delete_container"] = {"error": False, "data": {"container_id": "a", "deleted": True}}
    assert run("rm", "a", "--url", service.url).stdout == "a let go of; its container goes on as it is\n"


def test_who_is_refused_for_a_token_is_told_how_to_give_one(service, run) -> None:
    service.answers["get_status"] = {**NOT_FOUND, "code": "unauthorized", "message": "a valid token is needed"}
    done = run("status", "a", "--url", service.url)
    assert done.exit_code == 1
    assert "--token" in done.stderr
    assert "FLOW_MANAGER_TOKEN" in done.stderr


def test_code_that_fails_is_told_with_its_exit_code_and_that_it_was_taken_back(service, run) -> None:
    details = {"exit_code": 3, "rolled_back": True}
    told = {"code": "container_stopped", "message": "the flow is exited", "details": details}
    service.answers["update_container"] = {**NOT_FOUND, **told}
    done = run("update", "a", "/srv/code", "--url", service.url)
    assert done.exit_code == 1
    assert "exit code: 3\n  the older code is back" in done.stderr


def test_rm_deletes_and_force_is_said(service, run) -> None:
    service.answers["delete_container"] = {"error": False, "data": {"container_id": "abcdefghijkl", "deleted": True}}
    assert run("rm", "-f", "a", "--url", service.url).stdout == "a deleted\n"
    assert service.requests("delete_container")[0]["force"] is True


@pytest.mark.parametrize("before", [True, False])
def test_the_shared_options_stand_before_and_after_the_verb(service, run, fake, before: bool) -> None:
    shared = ["--url", service.url, "--token", "t", "--json"]
    service.token = "t"
    done = run(*(shared if before else []), "status", *([] if before else shared), "a")
    assert json.loads(done.stdout) == fake.STATUS


def test_after_the_verb_wins_and_both_win_over_the_environment(service, run) -> None:
    nowhere = "http://127.0.0.1:1"
    assert run("--url", nowhere, "ps", "--url", service.url, "--json", FLOW_MANAGER_URL=nowhere).exit_code != 3
    assert run("ps", FLOW_MANAGER_URL=nowhere).exit_code == 3
    service.token = "t"
    assert run("status", "a", FLOW_MANAGER_URL=service.url, FLOW_MANAGER_TOKEN="t").exit_code == 0


def test_one_flow_that_is_refused_does_not_keep_the_next_from_its_turn(service, run, fake) -> None:
    def answer(request):
        return NOT_FOUND if request["container_id"] == "nope" else {"error": False, "data": fake.STATUS}

    service.answers["stop_container"] = answer
    done = run("stop", "nope", "a", "--url", service.url)
    assert (done.exit_code, done.stdout) == (1, "reports running\n")
    assert "container_not_found: no flow container 'nope'" in done.stderr


def test_a_refusal_is_status_1_with_the_services_words(service, run) -> None:
    service.answers["get_status"] = NOT_FOUND
    done = run("status", "nope", "--url", service.url)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "container_not_found: no flow container 'nope'\n")


def test_an_unknown_token_is_status_1(service, run) -> None:
    service.token = "t"
    done = run("ps", "--url", service.url, "--token", "wrong")
    assert done.exit_code == 1
    assert "unauthorized: the token is not known" in done.stderr
    assert "wrong" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["start"],
        ["stop", "a", "-t", "601"],
        ["send", "a", "not json"],
        ["send", "a", "[1]"],
        ["send", "a", '{"a": NaN}'],
        ["create"],
        ["create", "--file", "/nowhere.json"],
        ["create", "-v", "data:/data", "alpine"],
        ["create", "-v", "/data", "alpine"],
        ["create", "-p", "0.0.0.0:1:2", "alpine"],
        ["create", "-p", "http:80", "alpine"],
        ["create", "-e", "=x", "alpine"],
        ["create", "--depends-on", "db:awake", "alpine"],
        ["create", "--depends-on", ":healthy", "alpine"],
        ["create", "--ready-http", "http://x", "alpine"],
        ["create", "--ready-http", "0/x", "alpine"],
        ["idle", "a"],
        ["idle", "a", "--file", "/nowhere.json"],
        ["ps", "--url", "localhost:8080"],
        ["ps", "--url", "http://user:secret@localhost"],
        ["token", "create", "--scope", "root"],
        ["token", "create", "--name", "a b"],
        ["demo", "--runtime", "mainframe"],
    ],
)
def test_wrong_usage_is_status_2_and_nothing_is_sent(service, run, arguments) -> None:
    done = run(*arguments, FLOW_MANAGER_URL=service.url)
    assert done.exit_code == 2, done.stdout
    assert done.stderr
    assert "secret" not in done.stderr
    assert service.received == []


def test_nothing_that_listens_is_status_3_with_the_remedy(run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = run("ps", "--url", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert done.exit_code == 3
    assert "Connection refused" in done.stderr
    assert "flow-manager serve" in done.stderr


# --- ps ---------------------------------------------------------------------------------------------------------------


USED = {"cpu_percent": 12.5, "memory_bytes": 3 * 2**20, "memory_limit_bytes": None, "pids": 4}


def test_ps_shows_plain_columns_where_nobody_looks(service, run, fake) -> None:
    running = {**fake.INFO, "status": "running", "name": "web"}
    service.answers["list_containers"] = {"error": False, "data": [fake.INFO, running]}
    service.answers["get_status"] = {
        "error": False,
        "data": {**fake.STATUS, "health": "healthy", "resource_usage": USED},
    }
    done = run("ps", "--runtime", "memory", "--state", "running", "--label", "a=b", "--url", service.url)
    head, first, second = done.stdout.splitlines()
    assert head.split() == [
        "ID",
        "NAME",
        "RUNTIME",
        "STATE",
        "FLOW",
        "HEALTH",
        "IMAGE",
        "PORTS",
        "AGE",
        "CPU",
        "MEMORY",
    ]
    assert first.split()[:8] == [
        "abcdefghijkl", "reports", "memory", "created", "ready", "-", "python:3-alpine", "8000->80/tcp",
    ]  # fmt: skip
    assert second.split()[-2:] == ["12.5%", "3.0M"]
    assert second.split()[3:6] == ["running", "ready", "healthy"]
    assert service.requests("list_containers") == [{"runtime": "memory", "state": "running", "labels": {"a": "b"}}]


def test_what_a_flow_is_called_cannot_command_the_terminal(service, run, fake) -> None:
    evil = {**fake.INFO, "image": "x\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil", "name": "a\nb\x00\x7f"}
    service.answers["list_containers"] = {"error": False, "data": [evil]}
    plain = run("ps", "--url", service.url).stdout
    assert "x[2J]0;owned31mevil" in plain
    assert not any(ord(character) < 32 and character != "\n" for character in plain)
    assert len(plain.splitlines()) == 2
    as_json = run("ps", "--json", "--url", service.url).stdout
    assert not any(character in as_json for character in "\x1b\x9b\u202e\x7f\x00")
    assert json.loads(as_json) == [evil]


# --- create -----------------------------------------------------------------------------------------------------------


def test_create_takes_what_docker_run_takes(service, run, tmp_path) -> None:
    done = run(
        "create", "--url", service.url, "--name", "web", "-e", "A=1", "-e", "B", "-e", "NOT_SET", "-v", "/srv/x:/x:ro",
        "-p", "8080:80", "-p", "53/udp", "--label", "k=v=w", "-m", "256m", "--cpus", "0.5", "--pids", "9",
        "--network", "n", "--host", "a.example", "--port", "80", "--runtime", "docker", "--code", str(tmp_path),
        "-w", "/w", "--tty", "--start", "nginx:1", "sh", "-c", "echo hi", "--name", "x",
        B="two",
    )  # fmt: skip
    assert (done.exit_code, done.stdout) == (0, "abcdefghijkl\n"), done.stderr
    sent = service.requests("create_container")[0]
    assert sent.pop("request_id")
    assert sent == {
        "image": "nginx:1",
        "command": ["sh", "-c", "echo hi", "--name", "x"],
        "name": "web",
        "environment": {"A": "1", "B": "two"},
        "volumes": {"/srv/x": "/x:ro"},
        "ports": {"80": 8080, "53/udp": 0},
        "labels": {"k": "v=w"},
        "resources": {"memory": 256 * 2**20, "cpus": 0.5, "pids": 9},
        "networks": ["n"],
        "hosts": ["a.example"],
        "port": 80,
        "runtime": "docker",
        "code_path": str(tmp_path),
        "working_dir": "/w",
        "tty": True,
        "start": True,
    }


def test_two_dashes_before_the_command_are_no_part_of_it(service, run) -> None:
    assert run("create", "--url", service.url, "alpine", "--", "ls", "--", "-l").exit_code == 0
    assert service.requests("create_container")[0]["command"] == ["ls", "--", "-l"]
    assert run("create", "--url", service.url, "alpine", "--").exit_code == 0
    assert "command" not in service.requests("create_container")[1]


def test_create_reads_a_config_and_options_win_over_it(service, run, tmp_path) -> None:
    file = tmp_path / "flow.json"
    file.write_text('{"image": "alpine", "name": "a", "idle": {"idle_timeout": "5m"}}')
    assert run("create", "--file", str(file), "--name", "b", "--url", service.url).exit_code == 0
    sent = service.requests("create_container")[0]
    assert (sent["image"], sent["name"], sent["idle"]) == ("alpine", "b", {"idle_timeout": 300})
    assert run("create", "--file", "-", "--url", service.url, input='{"image": "busybox"}').exit_code == 0
    assert service.requests("create_container")[1]["image"] == "busybox"


def test_a_config_that_the_service_would_refuse_is_told_field_by_field(service, run) -> None:
    done = run("create", "--url", service.url, "--file", "-", input='{"image": "", "colour": 1, "name": "A B"}')
    assert done.exit_code == 1
    for field in ("image", "colour", "name"):
        assert f"{field}: " in done.stderr


# --- send and activity --------------------------------------------------------------------------------------------------


def test_send_prints_the_reply_as_json(service, run) -> None:
    delivery = {"message_id": "m", "delivered": True, "queued": False, "reply": {"answer": 42}}
    service.answers["send_message"] = {"error": False, "data": delivery}
    done = run("send", "a", "-", "--reply", "--timeout", "5", "--url", service.url, input='{"q": 1}')
    assert json.loads(done.stdout) == {"answer": 42}
    sent = service.requests("send_message")[0]
    assert (sent["message"], sent["expect_reply"], sent["timeout"]) == ({"q": 1}, True, 5)
    assert run("send", "a", "{}", "--url", service.url).stdout == "delivered\n"
    assert "wake" not in service.requests("send_message")[1]
    waits = {"message_id": "m", "delivered": False, "queued": True}
    service.answers["send_message"] = {"error": False, "data": waits}
    assert run("send", "a", "{}", "--wake", "--url", service.url).stdout == "queued\n"
    assert service.requests("send_message")[2]["wake"] is True


def pages(service, fake, count: int):
    """A log of `count` entries that is given out newest first, page by page."""

    def answer(request):
        cursors = [c for c in range(count, 0, -1) if c < (request.get("before") or count + 1)][: request["limit"]]
        following = cursors[-1] if cursors and cursors[-1] > 1 else None
        return {"error": False, "data": {"entries": [fake.entry(c) for c in cursors], "next": following}}

    service.answers["list_activity"] = answer


def test_activity_is_shown_oldest_first_over_as_many_pages_as_it_takes(service, run, fake) -> None:
    pages(service, fake, 1500)
    shown = run("activity", "--limit", "1200", "--url", service.url).stdout.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in shown] == [str(cursor) for cursor in range(301, 1501)]
    after = run("activity", "--after", "1498", "--url", service.url).stdout.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in after] == ["1499", "1500"]


def test_activity_passes_its_filters_on(service, run, fake) -> None:
    pages(service, fake, 1)
    run("activity", "--container", "reports", "--type", "woke", "--type", "napped", "--url", service.url)
    assert service.requests("list_activity") == [{"container_id": "reports", "types": ["woke", "napped"], "limit": 100}]


def test_activity_as_json_is_the_replys_data(service, run, fake) -> None:
    pages(service, fake, 3)
    page = json.loads(run("activity", "--json", "--limit", "2", "--url", service.url).stdout)
    assert ([entry["cursor"] for entry in page["entries"]], page["next"]) == ([3, 2], 2)


# --- token ------------------------------------------------------------------------------------------------------------


def test_a_token_that_was_made_is_known_by_its_lines(run, tmp_path) -> None:
    from flow_manager.settings.load import load
    from flow_manager.util.tokens import token_matches

    done = run("token", "create", "--name", "ci", "--tenant", "lab", "--scope", "read")
    assert done.exit_code == 0
    token, _, toml = done.stdout.partition("\n")
    assert len(token) >= 43
    file = tmp_path / "settings.toml"
    file.write_text(toml)
    (known,) = load({}, {"HOME": "/h"}, file).auth.tokens
    assert token_matches(token, known.hash)
    assert (known.name, known.tenant, known.scopes) == ("ci", "lab", frozenset({"read"}))
    assert token not in toml


def test_two_tokens_are_never_the_same(run) -> None:
    made = {json.loads(run("token", "create", "--json").stdout)["token"] for _ in range(5)}
    assert len(made) == 5
