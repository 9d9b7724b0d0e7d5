"""Where the demo runs its flow: on Docker where an engine and an image with Python can be had, else as a process here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flow_manager.cli.engine import Engine, EngineSaid, candidates

IMAGE_VARIABLE = "FLOW_MANAGER_DEMO_IMAGE"
# Small, official, for every processor; tried first among the images that are there.
PULLED = "python:3-alpine"
KNOWN = (PULLED, "python:3-slim", "flow-manager-test/python:1")
PULL_STALL = 15.0
PULL_SECONDS = 35.0


@dataclass(frozen=True, slots=True)
class Place:
    """`reason` says in words why this one."""

    runtime: str
    image: str
    command: list[str]
    reason: str
    engine: Engine | None = None


def choose(wanted: str | None, environ: Mapping[str, str], say: Callable[[str], None]) -> Place:
    """Blocking, at most some 40 s (a pull). :raises LookupError: `docker` was wanted and can't be had."""
    if wanted == "process":
        return _process("it was asked for")
    engine = Engine(candidates(environ)[0])
    try:
        version = engine.get("/version")
        if not engine.local:
            raise LookupError(
                f"the engine at {engine.address} is on another machine, which can't mount a folder of this one"
            )
        image = _image(engine, environ, say)
    except LookupError as exc:
        reason = str(exc)
    except PermissionError:
        reason = f"{engine.address} may not be used by this user (see `flow-manager doctor`)"
    except (OSError, ValueError, EngineSaid) as exc:
        reason = f"no Docker engine answers at {engine.address} ({getattr(exc, 'strerror', None) or exc})"
    else:
        found = f"Docker {version.get('Version', '?')} answers at {engine.address} and has the image {image}"
        return Place("docker", image, ["python3", "/flow/main.py"], found, engine)
    if wanted == "docker":
        raise LookupError(reason)
    return _process(reason)


def _process(reason: str) -> Place:
    return Place("process", "local", [sys.executable, "main.py"], reason)


def _image(engine: Engine, environ: Mapping[str, str], say: Callable[[str], None]) -> str:
    asked = environ.get(IMAGE_VARIABLE)
    if asked:
        return asked if _present(engine, asked) else _pulled(engine, asked, say)
    for image in KNOWN:
        if _present(engine, image):
            return image
    for found in engine.get("/images/json") or []:
        for tag in found.get("RepoTags") or []:
            if tag.startswith("python:3"):
                return str(tag)
    return _pulled(engine, PULLED, say)


def _present(engine: Engine, image: str) -> bool:
    try:
        engine.get(f"/images/{image}/json")
    except EngineSaid as exc:
        if exc.status == 404:
            return False
        raise
    return True


def _pulled(engine: Engine, image: str, say: Callable[[str], None]) -> str:
    say(f"pulling {image} …")
    try:
        engine.pull(image, stall=PULL_STALL, deadline=time.monotonic() + PULL_SECONDS, progress=lambda _status: None)
    except (EngineSaid, OSError, ValueError) as exc:
        raise LookupError(f"Docker answers, but the image {image} can't be had ({exc or type(exc).__name__})") from None
    return image
