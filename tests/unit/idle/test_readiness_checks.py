from __future__ import annotations

from typing import Any

import pytest

from flow_manager.contract.models import IdlePolicy
from flow_manager.idle.readiness import describe
from flow_manager.idle.readiness_http import passes, request, status_of
from flow_manager.idle.readiness_tcp import Failed, is_own_echo, pause


def policy(**ready: Any) -> IdlePolicy:
    return IdlePolicy.model_validate({"ready": ready})


@pytest.mark.parametrize(
    ("asked", "has_health", "address", "words"),
    [
        (policy(http={"port": 8080, "path": "/healthz"}), True, ("10.0.0.2", 80), "HTTP GET :8080/healthz"),
        (policy(tcp=5432), True, None, "TCP :5432"),
        (policy(channel=True), True, None, "the flow's word `ready` on its channel"),
        (policy(delay="2s"), True, None, "2 s after the start"),
        (policy(tcp=1, delay=0.5), False, None, "TCP :1 and 0.5 s after the start"),
        (policy(channel=False, delay=0), True, None, "Docker health"),
        (policy(), False, ("10.0.0.2", 80), "TCP :80"),
        (IdlePolicy(), True, ("10.0.0.2", 80), "Docker health"),
        (None, True, ("10.0.0.2", 80), "Docker health"),
        (None, False, ("10.0.0.2", 5432), "TCP :5432"),
        (None, False, None, "running"),
    ],
)
def test_what_is_waited_for_is_chosen_in_order_and_said(
    asked: IdlePolicy | None, has_health: bool, address: tuple[str, int] | None, words: str
) -> None:
    assert describe(asked, has_health, address) == words


@pytest.mark.parametrize(("elapsed", "seconds"), [(0, 0.02), (1, 0.02), (2.5, 0.05), (5, 0.1), (500, 0.1)])
def test_the_pause_between_attempts_grows_with_the_time_that_the_start_takes(elapsed: float, seconds: float) -> None:
    assert pause(elapsed) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"", None),
        (b"HTT", None),
        (b"HTTP/1.1 200 OK", None),
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.0 404\n", 404),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", 302),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n", 204),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 503 x\r\n", 503),
        (b"HTTP/1.1 100 Continue\r\nHTTP/1.1 200 OK\r\n", None),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 101),
    ],
)
def test_the_final_status_of_an_answer_is_found(received: bytes, status: int | None) -> None:
    assert status_of(received) == status


@pytest.mark.parametrize(
    "received",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/2.0 200 OK\r\n",
        b"HTTP/1.1 000 nothing\r\n",
        b"HTTP/1.1 " + b"9" * 20000,
        b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 4000,
    ],
)
def test_what_is_no_http_is_refused(received: bytes) -> None:
    with pytest.raises(Failed):
        status_of(received)


def test_a_path_can_add_nothing_to_the_request() -> None:
    sent = request("/a b\r\nX-Evil: 1\r\n\r\nGET /ü?x=1&y=%20#z", "localhost:80")
    assert sent.count(b"\r\n") == 6
    assert sent.startswith(
        b"GET /a%20b%0D%0AX-Evil:%201%0D%0A%0D%0AGET%20/%C3%BC?x=1&y=%20%23z HTTP/1.1\r\nHost: localhost:80\r\n"
    )


@pytest.mark.parametrize(
    ("status", "good"), [(200, True), (204, True), (302, True), (101, False), (404, False), (503, False)]
)
def test_two_and_three_hundreds_are_ready(status: int, good: bool) -> None:
    assert passes(status) is good


def test_a_socket_that_is_joined_to_itself_is_known() -> None:
    assert is_own_echo(("127.0.0.1", 40000), ("127.0.0.1", 40000))
    assert is_own_echo(("::1", 40000, 0, 0), ("::1", 40000, 0, 0))
    assert not is_own_echo(("127.0.0.1", 40001), ("127.0.0.1", 40000))
