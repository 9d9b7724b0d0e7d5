from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from flow_manager.observability.bridge import BRIDGED, Bridge, SameLines


class Told:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str, BaseException | None, int]] = []
        self.now = 0.0
        self.bridge = Bridge(lambda *line: self.lines.append(line), lambda: self.now)


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    made.bridge.open()
    yield made
    made.bridge.close()


def test_warnings_of_the_libraries_come_through_and_their_small_talk_does_not(told: Told) -> None:
    for name in BRIDGED:
        logger = logging.getLogger(f"{name}.part")
        logger.info("small talk")
        logger.warning("look at %s", "this")
    assert [(level, name, text) for level, name, text, _, _ in told.lines] == [
        ("WARNING", f"{name}.part", "look at this") for name in BRIDGED
    ]


def test_a_warning_of_a_module_of_ours_comes_through_too(told: Told) -> None:
    logging.getLogger("flow_manager.runtimes.docker.terminal").warning("processes could not be ended")
    logging.getLogger("flow_manager.runtimes.docker.terminal").info("a terminal ended")
    assert [line[:3] for line in told.lines] == [
        ("WARNING", "flow_manager.runtimes.docker.terminal", "processes could not be ended")
    ]


def test_an_exception_comes_along(told: Told) -> None:
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("failed")
    assert isinstance(told.lines[0][3], ValueError)


def test_a_storm_of_the_same_line_is_one_a_second_and_counted(told: Told) -> None:
    logger = logging.getLogger("asyncio")
    for n in range(5000):
        told.now = n / 1000  # five seconds
        # As asyncio does it when descriptors run out: the same first line, then what differs.
        logger.error(
            "socket.accept() out of system resource\nsocket: <socket fd=%s>", n, exc_info=OSError(24, "EMFILE")
        )
    assert len(told.lines) == 5
    assert [held for *_, held in told.lines] == [0, 999, 999, 999, 999]


def test_different_lines_do_not_hold_each_other_back(told: Told) -> None:
    logger = logging.getLogger("asyncio")
    for n in range(10):
        logger.error("error %s", n)
    assert len(told.lines) == 10


def test_a_line_that_cannot_be_formatted_harms_nobody(told: Told) -> None:
    told.bridge.emit(logging.LogRecord("aiohttp", logging.WARNING, __file__, 1, "%s and %s", ("one",), None))
    assert told.lines[0][2] == "%s and %s"


def test_the_emfile_line_of_asyncio_itself_is_held_back(told: Told) -> None:
    loop = asyncio.new_event_loop()
    for _ in range(100):
        loop.call_exception_handler(
            {"message": "socket.accept() out of system resource", "exception": OSError(24, "x"), "socket": object()}
        )
    loop.close()
    assert len(told.lines) == 1


def test_what_is_remembered_is_bounded_and_forgets_the_oldest() -> None:
    same = SameLines(known=3)
    assert [same.pass_or_hold(key, 0.0) for key in "abcd"] == [0, 0, 0, 0]
    assert same.pass_or_hold("d", 0.5) is None
    assert same.pass_or_hold("a", 0.5) == 0
    assert len(same._last) == 3
