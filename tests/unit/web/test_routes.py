"""The control port's plain HTTP, without Socket.IO."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from flow_manager.errors import RuntimeUnavailable
from flow_manager.settings.models import Settings
from flow_manager.web.routes import build_app


class Readiness:
    def __init__(self) -> None:
        self.error: Exception | None = None

    async def __call__(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
async def client(tmp_path: Path, readiness: Readiness) -> AsyncIterator[TestClient]:
    app = build_app(
        Settings(state_dir=tmp_path, sockets_dir=Path("/tmp/fm")),
        ready=readiness,
        describe=lambda: {"service": "flow-manager", "instance": "<i>"},
        metrics=lambda: "up 1\n",
    )

    async def fails(_request):
        raise RuntimeError("a secret of the inside")

    app.router.add_get("/fails", fails)
    async with TestClient(TestServer(app)) as running:
        yield running


async def test_health_readiness_and_metrics_answer(client):
    assert await (await client.get("/healthz")).json() == {"status": "alive"}
    assert await (await client.get("/readyz")).json() == {"status": "ready"}
    response = await client.get("/metrics")
    assert (await response.text(), response.content_type) == ("up 1\n", "text/plain")


async def test_what_is_not_ready_says_why(client, readiness):
    readiness.error = RuntimeUnavailable("the engine does not answer", kind="docker")
    response = await client.get("/readyz")
    assert (response.status, response.content_type) == (503, "application/problem+json")
    body = await response.json()
    assert (body["code"], body["detail"]) == ("runtime_unavailable", "the engine does not answer")


async def test_readiness_has_a_deadline(client, readiness):
    readiness.error = TimeoutError()
    assert (await client.get("/readyz")).status == 503


async def test_the_front_page_is_json_for_programs_and_html_for_people(client):
    assert (await (await client.get("/")).json())["endpoints"]["/socket.io"]
    response = await client.get("/", headers={"Accept": "text/html"})
    text = await response.text()
    assert response.content_type == "text/html"
    assert "&lt;i&gt;" in text
    assert "<i>" not in text
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("POST", "/healthz", 405), ("GET", "/fails", 500)]
)
async def test_an_error_is_a_problem_without_a_trace(client, method, path, status):
    response = await client.request(method, path)
    assert (response.status, response.content_type) == (status, "application/problem+json")
    body = await response.json()
    assert body["status"] == status
    assert "secret" not in str(body)
    assert "Traceback" not in str(body)
    if status == 405:
        assert response.headers["Allow"] == "GET,HEAD"


async def test_the_contract_is_served(client):
    assert (await (await client.get("/asyncapi.json")).json())["asyncapi"] == "3.0.0"
