"""The page that a person sees while a flow wakes, and when it can't: one document that loads nothing else.

It reads without JavaScript: what is known is written into it, and it looks again at `/.flow/wait`, which never wakes. So a
tab that is left open doesn't start a broken flow again and again. Nothing that a flow or a client chose is ever code: text
is escaped in the document, a `<script type="application/json">` carries it to the program, which sets `textContent` alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, Literal
from urllib.parse import quote

from flow_manager.contract.models import FlowState
from flow_manager.contract.wake import WakeEvent
from flow_manager.proxy.problems import Headers, readable
from flow_manager.util import strict_json

Mode = Literal["waking", "asleep", "failed", "refused"]

WAIT_PATH = "/.flow/wait"
WAKE_PATH = "/.flow/wake"
# Seconds between looks without JavaScript: near the end of a usual start, but neither a hammer nor a nap.
MIN_REFRESH, MAX_REFRESH = 1, 10
DEFAULT_REFRESH = 3
# A target longer than this comes back as "/": it stands in the page and in the next request's line.
MAX_TARGET = 2000
HEADLINES: Mapping[Mode, str] = {
    "waking": "Waking up…",
    "asleep": "It is asleep.",
    "failed": "It could not be woken.",
    "refused": "It is not running.",
}
_TITLES: Mapping[Mode, str] = {"waking": "Waking ", "asleep": "", "failed": "Failed: ", "refused": ""}
_SLOT = re.compile(r"\{\{(\w+)\}\}")
_TARGET = re.compile(r"/(?:[!-\[\]-~]*)\Z")
_CODE_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows. `to`: where to go when it is ready, None to load the very same address again. `after`: the
    newest wake event that belongs to the past. Times in seconds; `log_lines` None: whether to ask for them is `show_logs`."""

    name: str
    mode: Mode
    now: datetime
    steps: Sequence[WakeEvent] = ()
    expected: float | None = None
    reason: str = ""
    headline: str | None = None
    to: str | None = None
    target: str = "/"
    after: int | None = None
    show_logs: bool = False
    log_lines: Sequence[str] = ()

    @property
    def began(self) -> datetime | None:
        return self.steps[0].timestamp if self.steps else None


class LoadingPage:
    """The template, read once, and the headers that hold for every page made of it."""

    def __init__(self, template: str, style: str, script: str) -> None:
        self._parts = _SLOT.split(template)
        self._style = style
        self._script = script
        self.policy = "; ".join(
            (
                "default-src 'none'",
                f"script-src '{digest(script)}'",
                f"style-src '{digest(style)}'",
                "connect-src 'self'",
                "img-src data:",
                "form-action 'self'",
                "frame-ancestors 'none'",
                "base-uri 'none'",
            )
        )

    @classmethod
    def load(cls) -> LoadingPage:
        """From the package's own files."""
        assets = resources.files("flow_manager.proxy") / "assets"
        return cls(*((assets / f"loading.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")))

    def headers(self, state: FlowState, retry_after: int | None = None) -> Headers:
        headers = [
            (b"Content-Type", b"text/html; charset=utf-8"),
            (b"Cache-Control", b"no-store"),
            (b"Content-Security-Policy", self.policy.encode("ascii")),
            (b"X-Content-Type-Options", b"nosniff"),
            # Not `no-referrer`: a browser would then send `Origin: null` with the retry's form.
            (b"Referrer-Policy", b"same-origin"),
            (b"X-Robots-Tag", b"noindex"),
            (b"X-Flow-State", state.encode("ascii")),
        ]
        if retry_after is not None:
            headers.append((b"Retry-After", b"%d" % max(1, retry_after)))
        return headers

    def render(self, view: View) -> bytes:
        to = quote(view.target, safe="")
        values = {
            "style": self._style,
            "script": self._script,
            "title": html.escape(_TITLES[view.mode] + readable(view.name)),
            "name": html.escape(readable(view.name)),
            "mode": view.mode,
            "headline": html.escape(readable(view.headline or HEADLINES[view.mode])),
            "left": html.escape(_time_to_go(view)),
            "steps": "".join(_step(event, view.began) for event in view.steps),
            "reason": html.escape(readable(view.reason)),
            "action": f"{WAKE_PATH}?to={to}",
            "button": "Wake it" if view.mode == "asleep" else "Try again",
            "lines": html.escape("\n".join(readable(line) for line in view.log_lines)),
            "refresh": "",
            "hint": "",
            "data": _as_data(view),
        }
        if view.mode == "waking":
            pause = _refresh_pause(view)
            values["refresh"] = (
                f'<noscript><meta http-equiv="refresh" content="{pause};url={WAIT_PATH}?to={to}"></noscript>'
            )
            values["hint"] = f"<p>This page looks again in {pause} s.</p>"
        # Filled in one pass, so that a name like {{script}} stays a name.
        filled = (values[part] if index % 2 else part for index, part in enumerate(self._parts))
        return "".join(filled).encode("utf-8")


def digest(code: str) -> str:
    """What a Content-Security-Policy calls an inline script or style by (CSP Level 3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")


def safe_target(text: str) -> str:
    """A path on this very host to go back to; "/" for anything else: `//evil`, `/\\evil` and `https:…` leave the host."""
    if len(text) > MAX_TARGET or not _TARGET.match(text) or text.startswith(("//", "/.flow/")) or text == "/.flow":
        return "/"
    return text


def _refresh_pause(view: View) -> int:
    """What is left of a usual start, within bounds."""
    if view.expected is None:
        return DEFAULT_REFRESH
    spent = (view.now - view.began).total_seconds() if view.began is not None else 0.0
    return min(MAX_REFRESH, max(MIN_REFRESH, math.ceil(view.expected - spent)))


def _time_to_go(view: View) -> str:
    if view.mode != "waking" or view.expected is None:
        return ""
    spent = (view.now - view.began).total_seconds() if view.began is not None else 0.0
    left = math.ceil(view.expected - spent)
    return f"About {left} s to go" if left > 0 else "Taking longer than usual"


def _step(event: WakeEvent, began: datetime | None) -> str:
    """As the page's program makes them; the time since the first, in seconds."""
    # The reason of a failure has a place of its own.
    words = "failed" if event.type == "error" else readable(event.message)
    since = (event.timestamp - began).total_seconds() if began is not None else 0.0
    when = event.timestamp.isoformat(timespec="milliseconds")
    return (
        f'<li data-type="{event.type}" data-id="{event.id}"><span>{html.escape(words)}</span>'
        f'<time datetime="{when}">+{max(0.0, since):.1f} s</time></li>'
    )


def _as_data(view: View) -> str:
    data: dict[str, Any] = {
        "name": readable(view.name),
        "now": view.now.isoformat(timespec="milliseconds"),
        "began": view.began.isoformat(timespec="milliseconds") if view.began is not None else None,
        "expected": view.expected,
        "to": view.to,
        "after": view.after,
        "logs": view.show_logs,
    }
    return strict_json.dumps(data).translate(_CODE_ESCAPES)
