"""What the proxy says when it can't forward: `application/problem+json` (RFC 9457), with the flow's state and when to come back.

`type` is `about:blank`, so `title` is the status's own phrase (RFC 9457, section 4.2.1); programs read `code`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Protocol

from flow_manager.contract.models import FlowState
from flow_manager.errors import ContainerNotFound, FlowManagerError, Internal, WakeTimeout
from flow_manager.proxy.told import words
from flow_manager.util import strict_json

Headers = list[tuple[bytes, bytes]]

CONTENT_TYPE = b"application/problem+json"
# Of an error's details these alone are for strangers …
TOLD = ("dependency", "exit_code", "waited_for", "timeout", "desired")
# … and this where the runtime's own words may be read, too: it may name sockets, paths and ids.
FRANK = (*TOLD, "reason")
# A detail is a sentence or two; a runtime's own words may be pages.
MAX_DETAIL = 1000


class AboutFlow(Protocol):
    """What is said of a flow; a Watcher is one."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> FlowState: ...

    def retry_after(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal. `retry_after` in whole seconds, at least 1; None where waiting doesn't help."""

    status: int
    code: str
    detail: str
    flow: str | None = None
    flow_state: FlowState | None = None
    retry_after: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase

    def about(self, flow: AboutFlow, *, retry: bool = False) -> Problem:
        """The same, with the flow's name and state; `retry` adds its own guess of when to come back, where none is given."""
        retry_after = flow.retry_after() if retry and self.retry_after is None else self.retry_after
        return replace(self, flow=flow.name, flow_state=flow.state, retry_after=retry_after)

    def headers(self) -> Headers:
        """Without Content-Length, which belongs to whoever frames the response."""
        headers = [(b"Content-Type", CONTENT_TYPE), (b"Cache-Control", b"no-store")]
        if self.retry_after is not None:
            headers.append((b"Retry-After", b"%d" % max(1, self.retry_after)))
        if self.flow_state is not None:
            headers.append((b"X-Flow-State", self.flow_state.encode("ascii")))
        return headers

    def body(self) -> bytes:
        members = {
            **self.extra,
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": readable(self.detail),
            "code": self.code,
            "flow": self.flow,
            "flow_state": self.flow_state,
            "retry_after": self.retry_after,
        }
        return strict_json.dumps_bytes({name: value for name, value in members.items() if value is not None})


def of_error(error: Exception, flow: AboutFlow, *, frank: bool = False) -> Problem:
    """Why a wake failed: 504 when it took too long, 404 when the flow is gone, else 503; never a trace, nor an unknown detail.
    `frank`: in the runtime's own words, which are for operators."""
    if not isinstance(error, FlowManagerError):
        return Problem(500, Internal.code, "the request could not be handled").about(flow)
    extra = {name: _plain(error.details[name]) for name in (FRANK if frank else TOLD) if name in error.details}
    detail = error.message if frank else words(error)
    if isinstance(error, ContainerNotFound):
        return Problem(404, error.code, detail)
    status = 504 if isinstance(error, WakeTimeout) else 503
    stopped = error.details.get("desired") == "stopped"
    problem = Problem(status, error.code, detail, retry_after=_whole_seconds(error.details), extra=extra)
    return problem.about(flow, retry=not stopped)


def readable(text: str, limit: int = MAX_DETAIL) -> str:
    """One line that any JSON reader takes: no control characters, no lone surrogates, not endless."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _whole_seconds(details: Mapping[str, Any]) -> int | None:
    value = details.get("retry_after")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return max(1, math.ceil(value))


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else readable(str(value))
