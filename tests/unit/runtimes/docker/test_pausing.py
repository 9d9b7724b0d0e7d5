from __future__ import annotations

from typing import Any, cast

import pytest

from flow_manager.runtimes.base import LABEL_ID, LABEL_INSTANCE
from flow_manager.runtimes.docker import ending
from flow_manager.runtimes.docker.client import Answer, EngineClient
from flow_manager.runtimes.docker.containers import Containers
from flow_manager.runtimes.docker.ending import Ending

FLOW = "aaaabbbbcccc"


class Engine:
    """Takes every order, and says of its one container what is next in `says`; the last again and again."""

    def __init__(self, *says: str) -> None:
        self.says = list(says)
        self.orders: list[str] = []

    async def call(self, method: str, path: str, **_options: Any) -> Answer:
        if method == "POST":
            self.orders.append(path.rpartition("/")[2])
            return Answer(204, None, {})
        status = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        return Answer(
            200,
            {
                "Id": "c1",
                "Name": "/web",
                "State": {"Status": status, "StartedAt": "2026-01-01T00:00:01Z", "ExitCode": 0},
                "Config": {"Image": "busybox", "Labels": {LABEL_ID: FLOW, LABEL_INSTANCE: "i"}},
            },
            {},
        )


@pytest.mark.parametrize(
    ("says", "state"),
    [
        (("paused",), "paused"),
        (("running", "running", "paused"), "paused"),
        (("running",), "running"),
        (("exited",), "exited"),
        (("running", "exited"), "exited"),
    ],
)
async def test_a_pause_is_believed_when_it_is_seen_and_waited_for_no_longer_than_a_second(
    monkeypatch: pytest.MonkeyPatch, says: tuple[str, ...], state: str
) -> None:
    monkeypatch.setattr(ending, "PAUSE_WAITS", (0, 0, 0, 0))
    engine = Engine("running", *says)
    containers = Containers(cast(EngineClient, engine), "i")
    await containers.observe("c1")
    known = containers.handle(FLOW)
    assert known is not None
    assert (await Ending(containers, timeout=5).pause(known)).state == state
    assert engine.orders == ["pause"]
