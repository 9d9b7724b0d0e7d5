"""A pytest plugin: the real Docker engine that tests marked `docker` run against.

The engine is the reachable one (DOCKER_HOST, the usual socket, the shared private one of `scripts/engine.py ensure`); as
root on Linux a private one is started otherwise, and removed at the end. With FLOW_MANAGER_REQUIRE_ENGINE=1 (as in CI) a
missing engine is a failure; elsewhere its tests are skipped, loudly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))
import engine as engine_script  # noqa: E402  (by path: scripts are no package)
import engine_api  # noqa: E402
import images  # noqa: E402
import service_image  # noqa: E402

REQUIRED = "FLOW_MANAGER_REQUIRE_ENGINE"
BUSYBOX_IMAGE = images.BUSYBOX
PYTHON_IMAGE = images.PYTHON
SERVICE_IMAGE = service_image.NAME


class NoEngine(UserWarning):
    """Tests were skipped because there is no Docker engine."""


def _missing(reason: str) -> None:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, and {reason}", pytrace=False)
    # `-W error` makes warnings failures; this one is meant to be seen, not to fail.
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(NoEngine(f"SKIPPING every test that needs Docker: {reason}"), stacklevel=2)
    pytest.skip(f"NO DOCKER ENGINE: {reason}", allow_module_level=True)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[str]:
    """The DOCKER_HOST of an engine that has the test images."""
    own: engine_script.PrivateEngine | None = None
    try:
        host = engine_script.find()
        if host is None:
            if os.environ.get("DOCKER_HOST"):
                raise engine_script.EngineUnavailable(f"nothing answers at {os.environ['DOCKER_HOST']}")
            engine_script.prepare()
            engine_script.sweep()
            own = engine_script.PrivateEngine(f"tests-pid{os.getpid()}")
            host = own.start()
        images.ensure(host)
    except (engine_script.EngineUnavailable, images.ImageNotMade, engine_api.EngineError) as exc:
        if own is not None:
            own.stop()
        _missing(str(exc))
        raise
    try:
        yield host
    finally:
        if own is not None:
            own.stop()


@pytest.fixture(scope="session")
def docker_compose() -> list[str]:
    """The command that runs compose: Debian's `docker-compose` (installed where that can be done), else the CLI's plugin."""
    if shutil.which("docker-compose") is None:
        plugin = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True)
        if plugin and plugin.returncode == 0:
            return ["docker", "compose"]
        images.install("docker-compose")
    if shutil.which("docker-compose") is None:
        _missing("docker-compose is not installed")
    return ["docker-compose"]


@contextmanager
def private_engines() -> Iterator[Callable[[], engine_script.PrivateEngine]]:
    """Starts engines that nobody else has, to be killed and frozen at will; they are gone at the end."""
    started: list[engine_script.PrivateEngine] = []

    def start() -> engine_script.PrivateEngine:
        private = engine_script.PrivateEngine(f"one-{uuid.uuid4().hex[:8]}-pid{os.getpid()}")
        started.append(private)
        try:
            engine_script.prepare()
            private.start()
            images.ensure(private.host, images.BUSYBOX)
        except (engine_script.EngineUnavailable, images.ImageNotMade) as exc:
            _missing(str(exc))
        return private

    try:
        yield start
    finally:
        for private in started:
            private.stop()


@pytest.fixture
def private_docker_engine() -> Iterator[Callable[[], engine_script.PrivateEngine]]:
    with private_engines() as start:
        yield start
