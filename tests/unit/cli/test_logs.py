"""logs: what is asked for, and what is printed where."""

from __future__ import annotations

import json
import time

import pytest

from flow_manager.cli.logs import _shown, _since

LINES = [
    {"stream": "stdout", "text": "one \x1b[31mred\x1b[0m", "timestamp": "2026-01-19T10:30:00.000001Z"},
    {"stream": "stderr", "text": "oops", "timestamp": None},
]


def test_lines_go_to_the_stream_that_they_came_from(service, run) -> None:
    service.answers["get_logs"] = {"error": False, "data": {"lines": LINES}}
    done = run("logs", "a", "--url", service.url, "-t", "--tail", "5", "--since", "2026-01-19T10:00:00Z")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "2026-01-19T10:30:00.000001Z one \x1b[31mred\x1b[0m\n"
    assert done.stderr == "- oops\n"
    sent = service.requests("get_logs")[0]
    assert (sent["container_id"], sent["tail"]) == ("a", 5)
    assert sent["since"].startswith("2026-01-19T10:00:00")


def test_json_is_the_replys_data(service, run) -> None:
    service.answers["get_logs"] = {"error": False, "data": {"lines": LINES}}
    assert json.loads(run("logs", "a", "--json", "--url", service.url).stdout) == {"lines": LINES}


def test_following_ends_with_the_flow(service, run) -> None:
    async def answer(event, lines, ended=None, lost=0):
        await service.emit(
            "log_lines",
            {"subscription_id": "log-1", "container_id": "x", "lines": lines, "lost": lost, "ended": ended},
        )

    async def followed():
        # The first lines may be read before the reply is.
        await answer("log_lines", LINES[:1])
        await answer("log_lines", LINES[1:], lost=7)
        await answer("log_lines", [], ended="container_not_found")
        return {"error": False, "data": {"subscription_id": "log-1"}}

    service.answers["follow_logs"] = lambda _request: followed()
    done = run("logs", "-f", "a", "--url", service.url)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("one ")
    assert "oops" in done.stderr
    assert "7 lines are missing" in done.stderr


def test_a_wrong_time_is_the_services_word(service, run) -> None:
    done = run("logs", "a", "--since", "yesterday", "--url", service.url)
    assert done.exit_code == 1
    assert "since" in done.stderr


def test_how_long_ago_is_a_time() -> None:
    assert time.time() - 601 < float(_since("10m")) <= time.time() - 599
    assert _since("1768818600") == "1768818600"
    assert _since(None) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"), ("\x1b]0;title\x07x", "]0;titlex"), ("a\tb", "a       b")],
)
def test_at_a_terminal_only_colours_pass(text: str, shown: str) -> None:
    assert _shown(text, True) == shown
    assert _shown(text, False) == text
