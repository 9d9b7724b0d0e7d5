from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flow_manager.errors import Conflict, SettingsRefused
from flow_manager.observability.system_log import SystemLogger, configure
from flow_manager.settings.models import LogSettings


class Hide:
    def mask_text(self, text: str) -> str:
        return text.replace('hunter"22', "***")


def records(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def json_log(out: io.StringIO, level: Any = "DEBUG") -> SystemLogger:
    return configure(LogSettings(level=level, format="json"), Hide(), stream=out)


def test_each_method_writes_its_fields(out: io.StringIO) -> None:
    log = json_log(out)
    log.log_container_operation("start", "abc", actor="alice", duration=0.25)
    log.log_socket_event("get_status", "sid-1", actor="alice", duration=0.001, outcome="ok")
    log.log_communication("abc", "in", kind="message", size=12)
    log.log_state_change("abc", before="created", after="running")
    log.log_notice("started", url="http://127.0.0.1")
    log.log_debug("looked", count=3)
    log.close()
    assert [{key: value for key, value in record.items() if key != "time"} for record in records(out)] == [
        {"level": "INFO", "message": "container operation", "container": "abc", "operation": "start", "actor": "alice",
         "duration": 0.25, "outcome": "ok"},
        {"level": "DEBUG", "message": "socket event", "event": "get_status", "sid": "sid-1", "actor": "alice",
         "duration": 0.001, "outcome": "ok"},
        {"level": "DEBUG", "message": "communication", "container": "abc", "direction": "in", "kind": "message", "size": 12,
         "outcome": "ok"},
        {"level": "INFO", "message": "state change", "container": "abc", "before": "created", "after": "running"},
        {"level": "INFO", "message": "started", "url": "http://127.0.0.1"},
        {"level": "DEBUG", "message": "looked", "count": 3},
    ]  # fmt: skip


def test_an_answer_is_a_warning_without_a_trace_and_a_fault_an_error_with_one(out: io.StringIO) -> None:
    log = json_log(out)
    log.log_container_operation("stop", "abc", outcome="failed", error=Conflict("a start is under way"))
    try:
        raise ValueError("a bug")
    except ValueError as exc:
        log.log_container_operation("stop", "abc", outcome="failed", error=exc)
        log.log_error("err-1", exc, reason="its own", operation="stop")
    log.close()
    answer, fault, error = records(out)
    assert (answer["level"], answer["code"], answer["reason"]) == ("WARNING", "conflict", "a start is under way")
    assert "trace" not in answer
    assert fault["level"] == "ERROR" and fault["trace"][-1] == "ValueError: a bug"
    assert (error["error_id"], error["reason"], error["level"]) == ("err-1", "its own", "ERROR")
    assert error["trace"][0].startswith("Traceback")


def test_nothing_said_by_users_is_formatted_masked_values_never_show_and_no_line_is_forged(out: io.StringIO) -> None:
    log = json_log(out)
    nasty = 'x {0} {container} %s hunter"22 \x1b[31m\n2026-01-19T10:30:00Z ERROR forged'
    log.log_container_operation(nasty, nasty, actor=nasty)
    log.log_debug("constant", reason=nasty)
    log.log_error("err-1", ValueError(nasty))
    log.close()
    assert len(out.getvalue().splitlines()) == 3
    assert "hunter" not in out.getvalue() and "\x1b" not in out.getvalue()
    assert records(out)[0]["container"].startswith("x {0} {container} %s *** \\x1b[31m\\n2026")


def test_below_its_level_nothing_is_written_and_little_is_spent(out: io.StringIO) -> None:
    log = json_log(out, "INFO")
    begun = time.perf_counter()
    for _ in range(10_000):
        log.log_socket_event("get_status", "sid", actor="alice", duration=0.1)
    took = (time.perf_counter() - begun) / 10_000
    log.close()
    print(f"a line below the level: {took * 1e6:.2f} µs")
    assert out.getvalue() == ""


def test_no_method_that_is_called_per_event_or_message_writes_above_debug(out: io.StringIO) -> None:
    log = json_log(out, "INFO")
    log.log_socket_event("x", "sid", outcome="failed")
    log.log_communication("abc", "out", outcome="failed")
    log.log_debug("x")
    log.close()
    assert out.getvalue() == ""


def test_the_libraries_logging_comes_in_masked_and_close_leaves_it_as_it_was(out: io.StringIO) -> None:
    before = logging.getLogger("aiohttp").propagate
    log = json_log(out)
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("aiohttp.server").error("Error %s", 'hunter"22 {x}')
    log.close()
    log.close()
    (record,) = records(out)
    assert (record["logger"], record["reason"], record["level"]) == ("aiohttp.server", "Error *** {x}", "ERROR")
    assert logging.getLogger("aiohttp").propagate is before
    assert not [thread for thread in threading.enumerate() if thread.name == "log-writer"]


def test_text_goes_to_standard_error_and_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "logs" / "flow.log"
    log = configure(LogSettings(file=path))
    log.log_notice("started", port=8080)
    log.close()
    assert capsys.readouterr().err == path.read_text()
    assert path.read_text().endswith("INFO    started port=8080\n")


def test_a_file_that_cannot_be_opened_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match=r"log\.file: .* choose a file"):
        configure(LogSettings(file=tmp_path))
    assert not [thread for thread in threading.enumerate() if thread.name == "log-writer"]


async def test_a_reader_that_does_not_read_never_holds_up_the_loop(tmp_path: Path) -> None:
    class Stuck(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.free = threading.Event()

        def write(self, text: str) -> int:
            assert self.free.wait(20)
            return super().write(text)

    stuck = Stuck()
    log = configure(LogSettings(), stream=stuck)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for n in range(20_000):
        log.log_notice("many", n=n)
    took = loop.time() - begun
    print(f"a line: {took / 20_000 * 1e6:.1f} µs of the loop")
    stuck.free.set()
    log.close()
    lines = stuck.getvalue().splitlines()
    (dropped,) = (line for line in lines if "log lines were dropped" in line)
    assert 10_000 < len(lines) < 12_000
    assert dropped.endswith(f"count={20_000 - len(lines) + 1}")


def test_the_process_ends_cleanly_and_says_nothing_at_exit() -> None:
    code = (
        "from flow_manager.observability.system_log import configure\n"
        "from flow_manager.settings.models import LogSettings\n"
        "configure(LogSettings()).log_notice('last words')\n"  # never closed
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert run.returncode == 0
    assert run.stderr.count("\n") <= 1 and "Traceback" not in run.stderr
