"""exec: what it asks for, what it passes on, and its exit status."""

from __future__ import annotations

import json
from typing import Any

import pytest

RESULT: dict[str, Any] = {"exit_code": 0, "stdout": "", "stderr": "", "truncated": False}


def gives(service: Any, **changes: Any) -> None:
    service.answers["exec_container"] = {"error": False, "data": {**RESULT, **changes}}


@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_what_follows_the_flow_is_the_command(service, run, dashes: list[str]) -> None:
    gives(service)
    assert run("exec", "--url", service.url, "web", *dashes, "ls", "-l", "--", "--json").exit_code == 0
    (sent,) = service.requests("exec_container")
    assert sent.pop("request_id")
    assert sent == {"container_id": "web", "command": ["ls", "-l", "--", "--json"], "timeout": 60.0}


def test_options_become_fields(service, run) -> None:
    gives(service)
    options = ["-e", "A=1", "--env", "HERE", "--env", "NOT_SET_HERE", "-w", "/srv", "--timeout", "2.5"]
    assert run("exec", "--url", service.url, *options, "web", "env", HERE="x").exit_code == 0
    (sent,) = service.requests("exec_container")
    assert (sent["environment"], sent["working_dir"], sent["timeout"]) == ({"A": "1", "HERE": "x"}, "/srv", 2.5)


def test_outputs_and_exit_status_are_the_commands_own(service, run) -> None:
    gives(service, exit_code=7, stdout="\x1b[1mout\n", stderr="err")
    done = run("exec", "--url", service.url, "web", "x")
    assert (done.exit_code, done.stdout, done.stderr) == (7, "\x1b[1mout\n", "err")


def test_json_prints_the_data_and_the_status_stays_the_commands(service, run) -> None:
    gives(service, exit_code=3, stdout="out")
    done = run("exec", "--json", "--url", service.url, "web", "x")
    assert (done.exit_code, json.loads(done.stdout)) == (3, {**RESULT, "exit_code": 3, "stdout": "out"})


def test_cut_output_is_told_beside_it(service, run) -> None:
    gives(service, stdout="y\n", truncated=True)
    done = run("exec", "--url", service.url, "web", "yes")
    assert done.stdout == "y\n" and "more output" in done.stderr and done.exit_code == 0


def test_a_refusal_is_told_with_one(service, run) -> None:
    service.answers["exec_container"] = {
        "error": True,
        "error_type": "state_error",
        "code": "timeout",
        "message": "the command had not ended after 1 s",
        "details": {},
    }
    done = run("exec", "--url", service.url, "web", "sleep", "9")
    assert done.exit_code == 1 and done.stderr == "timeout: the command had not ended after 1 s\n"


@pytest.mark.parametrize(
    "arguments",
    [["web"], ["web", "--"], ["-e", "=x", "web", "ls"], ["--timeout", "601", "web", "ls"]],
)
def test_wrong_usage_is_told_with_two(service, run, arguments: list[str]) -> None:
    assert run("exec", "--url", service.url, *arguments).exit_code == 2
    assert service.requests("exec_container") == []


@pytest.mark.parametrize(
    "arguments", [["-t", "0", "web", "ls"], ["-w", "srv", "web", "ls"], ["-e", "1=x", "web", "ls"]]
)
def test_what_the_contract_refuses_is_not_sent(service, run, arguments: list[str]) -> None:
    done = run("exec", "--url", service.url, *arguments)
    assert done.exit_code == 1 and done.stderr.startswith("invalid_request")
    assert service.requests("exec_container") == []
