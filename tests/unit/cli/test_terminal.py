"""At a real terminal, and while it follows: colours are ours alone, and entries come as they happen."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import Any

PROGRAM = [sys.executable, "-m", "flow_manager"]


def at_a_terminal(*arguments: str, url: str) -> str:
    """What a terminal of 200 columns is sent."""
    master, slave = pty.openpty()
    environment = {**os.environ, "FLOW_MANAGER_URL": url, "COLUMNS": "200", "TERM": "xterm-256color"}
    process = subprocess.Popen([*PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    said = b""
    try:
        while select.select([master], [], [], 20)[0]:
            try:
                piece = os.read(master, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not piece:
                break
            said += piece
    finally:
        os.close(master)
        process.wait(10)
    return said.decode()


def test_a_table_has_colours_but_none_of_the_services_making(service: Any, fake: Any) -> None:
    evil = {**fake.INFO, "status": "paused", "image": "[red]x[/red]\x1b[2J\x9b1m", "name": "a"}
    service.answers["list_containers"] = {"error": False, "data": [evil]}
    said = at_a_terminal("ps", url=service.url)
    assert "[red]x[/red][2J1m" in said
    assert "\x1b[2J" not in said
    assert "\x9b" not in said
    assert "\x1b[33mpaused" in said


def test_following_shows_the_past_then_what_happens_across_a_lost_connection(service: Any, fake: Any) -> None:
    past = [fake.entry(1), fake.entry(2)]
    service.log.extend(past)
    service.answers["list_activity"] = {"error": False, "data": {"entries": past[::-1], "next": None}}
    process = subprocess.Popen(
        [*PROGRAM, "activity", "-f", "--url", service.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stdout is not None
    # Unbuffered: what a buffer has taken in, select no longer sees.
    out = process.stdout.fileno()
    waiting = b""

    def line() -> str:
        nonlocal waiting
        while b"\n" not in waiting:
            assert select.select([out], [], [], 20)[0], "nothing came"
            piece = os.read(out, 65536)
            assert piece, "it has ended"
            waiting += piece
        first, _, waiting = waiting.partition(b"\n")
        return first.decode().rstrip()

    try:
        assert line().endswith("entry 1")
        assert line().endswith("entry 2")
        service.wait(service.wait_for("subscribe_activity"))
        service.wait(service.happen(3))
        assert line().endswith("entry 3")
        service.wait(service.stop())
        service.log.append(fake.entry(4))
        service.wait(service.start())
        assert line().endswith("entry 4")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert b"connection lost" in err
    assert b"connected again" in err
    assert b"Traceback" not in err
    assert [request["after"] for request in service.requests("subscribe_activity")] == [2, 3]
