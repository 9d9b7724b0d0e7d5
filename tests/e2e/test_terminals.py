"""Terminals through the whole service, on each runtime, with a plain Socket.IO client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import PATIENCE, Client, Platform, running

INTERRUPT = b"\x03"


class Screen:
    """What one client was shown of a terminal, in order."""

    def __init__(self, client: Client, terminal_id: str) -> None:
        self.client = client
        self.id = terminal_id

    def pieces(self) -> list[tuple[int, bytes]]:
        shown = [event for event in self.client.events("terminal_output") if event["terminal_id"] == self.id]
        return [(event["offset"], event["data"]) for event in shown]

    def text(self) -> bytes:
        return b"".join(data for _, data in self.pieces())

    def end(self) -> int:
        offset, data = self.pieces()[-1]
        return offset + len(data)

    async def shows(self, words: bytes) -> None:
        try:
            await self.client.until(lambda: words in self.text())
        except TimeoutError:
            raise AssertionError(f"{words!r} is not in {self.text()[-2000:]!r}") from None

    async def type(self, data: bytes | str) -> None:
        assert await self.client.ok("terminal_input", terminal_id=self.id, data=data) == {}

    async def insists(self, line: bytes, answer: bytes) -> None:
        """Type a line until it is answered: what is typed while an interrupt is on its way is lost, as on any terminal."""
        async with asyncio.timeout(PATIENCE):
            while answer not in self.text():
                await self.type(line)
                await asyncio.sleep(0.3)

    async def closed(self) -> int | None:
        def told() -> list[Any]:
            return [event for event in self.client.events("terminal_closed") if event["terminal_id"] == self.id]

        code: int | None = (await self.client.until(told))[0]["exit_code"]
        return code


async def attached(client: Client, flow: str, **fields: Any) -> Screen:
    opened = await client.ok("attach_container", container_id=flow, **fields)
    return Screen(client, opened["terminal_id"])


async def flow_of(client: Client, platform: Platform, **fields: Any) -> str:
    made = await client.ok("create_container", **{**platform.sleeper, "start": True, **fields})
    return str(made["id"])


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_terminal_is_typed_in_resized_interrupted_and_left(
    platform: Platform, connect: Callable[..., Any], transport: str
) -> None:
    async with running(platform.settings()) as service:
        client: Client = await connect(service, transports=[transport])
        await client.ok("subscribe_activity")
        flow = await flow_of(client, platform)
        screen = await attached(client, flow, cols=99, rows=33)
        await screen.type("stty size\r")
        await screen.shows(b"33 99")
        await client.ok("terminal_resize", terminal_id=screen.id, cols=51, rows=21)
        await screen.type(b"stty size\r")
        await screen.shows(b"21 51")
        # A shell takes what is typed before its command has the terminal for its own.
        await screen.type(b"cat\r" if platform.kind == "memory" else b"echo re''ady; cat\r")
        await screen.shows(b"cat\r\n" if platform.kind == "memory" else b"ready\r\n")
        await screen.type(b"over and over\r")
        await client.until(lambda: screen.text().count(b"over and over") == 2)
        await screen.type(INTERRUPT)
        await screen.insists(b"echo he''re\r" if platform.kind != "memory" else b"echo here\r", b"here\r\n")
        await screen.type(b"exit 7\r")
        assert await screen.closed() == 7
        await client.until(lambda: "terminal_closed" in client.activity())
        entries = {entry["type"]: entry for entry in client.events("activity")}
        opened, closed = entries["terminal_opened"], entries["terminal_closed"]
        assert (opened["actor"], closed["actor"], closed["details"]["exit_code"]) == ("local", "local", 7)
        assert "over and over" not in str(client.events("activity"))
        offsets = screen.pieces()
        assert [offset for offset, _ in offsets[1:]] == [offset + len(data) for offset, data in offsets[:-1]]
