"""The whole service with process flows, for a browser to visit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_manager.app import Service
from flow_manager.settings.models import Settings
from tests.e2e.conftest import Client


@dataclass
class House:
    service: Service
    client: Client

    async def create(self, name: str, **config: Any) -> None:
        await self.client.ok("create_container", image="local", name=name, **config)

    async def explain(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = await self.client.ok("explain_container", container_id=name)
        return told

    async def is_asleep(self, name: str) -> bool:
        return bool((await self.explain(name))["flow_state"] == "napping")

    def url(self, name: str, path: str = "/") -> str:
        return f"http://{name}.localhost:{self.service.proxy_port}{path}"


@asynccontextmanager
async def open_house(root: Path) -> AsyncIterator[House]:
    """Everything is ended on leaving, the flows' processes too."""
    settings = Settings.model_validate(
        {
            "port": 0,
            "proxy_port": 0,
            "runtime": "process",
            "adopt": False,
            "state_dir": root / "state",
            "sockets_dir": root / "s",
            "log": {"level": "WARNING"},
        }
    )
    async with Service(settings) as service:
        client = await Client().connect(service.url)
        try:
            yield House(service, client)
        finally:
            await client.close()
