"""What a request to a flow that isn't ready gets: pure rules over its head.

Rules of an IdlePolicy's `probes`: every field that a rule gives must match, and a rule without a field matches nothing
(it would keep the flow asleep for ever). `*` stands for any text and `?` for one character, in any of the first three.

- `method`: the whole method, in any case.
- `path`: the whole path without its query: `/healthz`, or `/health/*` for what is below.
- `user_agent`: in any case; without `*` or `?` it may stand anywhere: `UptimeRobot`, `kube-probe`.
- `source`: the client's address or a network: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal
from urllib.parse import unquote

from flow_manager.contract.models import IdlePolicy, Probe

Kind = Literal["reserved", "favicon", "probe", "prefetch", "outside", "page", "hold"]

RESERVED = "/.flow"
# What browsers ask for on their own: for a tab, a home screen or a tile, and Chrome's developer tools for a project.
_ICON = re.compile(
    r"/(?:.*/)?(?:favicon(?:-\d+x\d+)?\.(?:ico|png|svg)|apple-touch-icon(?:-[a-z0-9-]+)?\.png"
    r"|android-chrome-\d+x\d+\.png|mstile-\d+x\d+\.png|browserconfig\.xml)\Z"
    r"|/\.well-known/appspecific/com\.chrome\.devtools\.json\Z"
)
# Some word of each of these: to tell nearly all other requests apart at no cost.
_ICON_WORDS = (b"icon", b"chrome", b"mstile", b"browserconfig")
# Safari fetches icons by a helper of the system that does not call itself a browser.
_BROWSERS = ("mozilla/", "cfnetwork/")
# Rules are few; a thousand flows have perhaps ten of them each.
REMEMBERED_RULES = 4096


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's head. `source`: the client's address, None when it isn't known."""

    method: str
    target: str
    headers: Sequence[tuple[bytes, bytes]] = ()
    source: str | None = None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def values(self, name: bytes) -> list[str]:
        """Of each header line of that name (lower case), in order."""
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == name]

    def value(self, name: bytes) -> str:
        """All lines of that name as one (RFC 9110, section 5.2); empty when there is none."""
        return ", ".join(self.values(name))

    def query(self, name: str) -> str:
        """The first value of that name in the query, decoded; empty when there is none."""
        for pair in self.target.partition("?")[2].split("&"):
            key, _, value = pair.partition("=")
            if key == name:
                return unquote(value.replace("+", " "))
        return ""


def classify(asked: Asked, policy: IdlePolicy | None) -> Kind:
    """Reserved: the manager's own. Favicon, probe: answered truthfully, never waking, never use. Prefetch: doesn't wake
    either; whoever then comes does. Outside: not for the policy's `start_endpoint`, so it doesn't wake. Page: a person looks.
    Hold: waits for readiness and is forwarded."""
    if is_reserved(asked.path):
        return "reserved"
    if is_favicon(asked):
        return "favicon"
    if policy is not None and matches_probe(asked, policy.probes):
        return "probe"
    if is_prefetch(asked):
        return "prefetch"
    if policy is not None:
        if policy.start_endpoint is not None and not is_below(asked.path, policy.start_endpoint):
            return "outside"
        if policy.no_loading_page:
            return "hold"
    return "page" if wants_page(asked) else "hold"


def counts_as_use(asked: Asked, policy: IdlePolicy | None) -> bool:
    """Whether it keeps a ready flow awake: not the manager's own paths, a browser's icon, or what a probe rule names."""
    if is_reserved(asked.path) or is_favicon(asked):
        return False
    return policy is None or not matches_probe(asked, policy.probes)


def is_reserved(path: str) -> bool:
    return path == RESERVED or path.startswith(RESERVED + "/")


def is_reserved_target(target: bytes) -> bool:
    """The same of a target with its query. It is asked for every request that is forwarded."""
    return target.startswith(b"/.flow") and is_reserved(target.partition(b"?")[0].decode("latin-1"))


def is_below(path: str, endpoint: str) -> bool:
    """The endpoint itself or a path under it; `/start/../x` is not, whoever resolves the dots later."""
    plain = posixpath.normpath("/" + unquote(path).lstrip("/"))
    base = posixpath.normpath("/" + endpoint.lstrip("/"))
    return plain == base or plain.startswith(base.rstrip("/") + "/")


def is_favicon(asked: Asked) -> bool:
    """An icon that a browser fetches by itself. A program that asks for the file wants the file."""
    if asked.method not in ("GET", "HEAD") or not _ICON.match(asked.path):
        return False
    agent = asked.value(b"user-agent").lower()
    return bool(asked.value(b"sec-fetch-dest")) or any(name in agent for name in _BROWSERS)


def may_be_favicon(target: bytes) -> bool:
    """No: it is none. Yes: `is_favicon` knows. It is asked for every request that is forwarded."""
    icon, chrome, tile, config = _ICON_WORDS
    return icon in target or chrome in target or tile in target or config in target


def wants_page(asked: Asked) -> bool:
    """A person's browser opens a page: GET, HTML accepted, a whole document and not a part of one, and not ahead of time."""
    if asked.method != "GET" or not _accepts_html(asked.value(b"accept")):
        return False
    if asked.value(b"upgrade") or asked.value(b"x-requested-with"):
        return False
    # Browsers that say what for (Fetch Metadata): a frame would refuse the page, a script would take it for its answer.
    if asked.value(b"sec-fetch-dest") not in ("", "document") or asked.value(b"sec-fetch-mode") not in ("", "navigate"):
        return False
    return not is_prefetch(asked)


def is_prefetch(asked: Asked) -> bool:
    """Fetched because somebody may come: Sec-Purpose (Fetch standard), and its older names Purpose and X-Moz. A browser that
    is told 503 forgets it, and asks anew when somebody does come; else each link that it guesses at would start a flow."""
    if asked.method not in ("GET", "HEAD"):
        return False
    return any("prefetch" in asked.value(name).lower() for name in (b"sec-purpose", b"purpose", b"x-moz"))


def matches_probe(asked: Asked, probes: Sequence[Probe]) -> bool:
    return any(_matches(asked, probe) for probe in probes)


def _matches(asked: Asked, probe: Probe) -> bool:
    given = (probe.method, probe.path, probe.user_agent, probe.source)
    if all(field is None for field in given):
        return False
    if probe.method is not None and not _pattern(probe.method.upper()).match(asked.method.upper()):
        return False
    if probe.path is not None and not _pattern(probe.path).match(asked.path):
        return False
    if probe.user_agent is not None:
        text = probe.user_agent.lower()
        anywhere = text if "*" in text or "?" in text else f"*{text}*"
        if not _pattern(anywhere).match(asked.value(b"user-agent").lower()):
            return False
    return probe.source is None or _is_from(asked.source, probe.source)


class _Glob:
    """A text with `*` and `?`. Matched part by part from the left, so that no rule, `*a*a*a*b` neither, gets slow."""

    __slots__ = ("_first", "_last", "_middle")

    def __init__(self, text: str) -> None:
        parts = [re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", text)]
        self._first = re.compile(parts[0] if len(parts) > 1 else parts[0] + r"\Z", re.DOTALL)
        self._middle = tuple(re.compile(part, re.DOTALL) for part in parts[1:-1])
        self._last = re.compile(parts[-1] + r"\Z", re.DOTALL) if len(parts) > 1 else None

    def match(self, text: str) -> bool:
        found = self._first.match(text)
        for part in self._middle:
            found = part.search(text, found.end()) if found is not None else None
        if found is None or self._last is None:
            return found is not None
        return self._last.search(text, found.end()) is not None


@lru_cache(maxsize=REMEMBERED_RULES)
def _pattern(text: str) -> _Glob:
    return _Glob(text)


@lru_cache(maxsize=REMEMBERED_RULES)
def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _is_from(source: str | None, rule: str) -> bool:
    network = _network(rule)
    if network is None or source is None:
        return False
    try:
        address = ip_address(source.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:10.0.0.7, as a dual-stack listener shows it
    return (mapped or address) in network


def _accepts_html(accept: str) -> bool:
    """`text/html` (or XHTML) by name and not with `q=0`: `*/*` is what every program says."""
    for part in accept.lower().split(","):
        kind, _, parameters = part.partition(";")
        if kind.strip() in ("text/html", "application/xhtml+xml") and not _is_refused(parameters):
            return True
    return False


def _is_refused(parameters: str) -> bool:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return re.fullmatch(r"0(?:\.0{0,3})?", value.strip()) is not None
    return False
