"""What each kind of request to a flow that isn't ready gets."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.contract.models import IdlePolicy, Probe
from flow_manager.proxy.classify import (
    Asked,
    classify,
    counts_as_use,
    is_below,
    matches_probe,
    may_be_favicon,
    wants_page,
)

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/150.0 Safari/537.36"
HELPER = "Safari/20619.1.26 CFNetwork/1568.200.51 Darwin/24.1.0"
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def ask(method: str = "GET", target: str = "/", source: str | None = "192.0.2.1", **headers: str) -> Asked:
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Asked(method, target, pairs, source)


KINDS = [
    ("a browser opens a page", ask(accept=HTML, user_agent=CHROME), "page"),
    ("a browser opens a page, and says what for", ask(Accept=HTML, Sec_Fetch_Dest="document", Sec_Fetch_Mode="navigate"), "page"),
    ("a browser submits a form by GET", ask(target="/search?q=1", accept=HTML, user_agent=CHROME), "page"),
    ("curl", ask(accept="*/*", user_agent="curl/8.0"), "hold"),
    ("a program that says nothing", ask(), "hold"),
    ("HEAD by a browser", ask("HEAD", accept=HTML), "hold"),
    ("POST of a form", ask("POST", accept=HTML, sec_fetch_dest="document"), "hold"),
    ("an API call with a body", ask("PUT", "/api/1", accept="application/json"), "hold"),
    ("a preflight", ask("OPTIONS", origin="http://a.example"), "hold"),
    ("a WebSocket", ask(connection="Upgrade", upgrade="websocket", accept=HTML), "hold"),
    ("an event stream", ask(accept="text/event-stream"), "hold"),
    ("fetch() that takes HTML", ask(accept=HTML, sec_fetch_dest="empty", sec_fetch_mode="cors"), "hold"),
    ("XMLHttpRequest that takes HTML", ask(accept="text/html, */*; q=0.01", x_requested_with="XMLHttpRequest"), "hold"),
    ("a frame", ask(accept=HTML, sec_fetch_dest="iframe", sec_fetch_mode="navigate"), "hold"),
    ("an image of another page", ask(target="/logo.png", accept="image/avif,*/*", sec_fetch_dest="image"), "hold"),
    ("a prefetch", ask(accept=HTML, sec_purpose="prefetch;prerender"), "prefetch"),
    ("a prefetch by its old name", ask(accept=HTML, purpose="prefetch"), "prefetch"),
    ("a prefetch of a script", ask(target="/app.js", accept="*/*", x_moz="prefetch"), "prefetch"),
    ("a form that says so", ask("POST", purpose="prefetch"), "hold"),
    ("a browser that refuses HTML", ask(accept="text/html;q=0, application/json"), "hold"),
    ("a browser's icon", ask(target="/favicon.ico", accept="image/*", user_agent=CHROME), "favicon"),
    ("an icon for the home screen", ask(target="/apple-touch-icon-120x120.png", user_agent=CHROME), "favicon"),
    ("an icon of a size", ask(target="/img/favicon-32x32.png?v=2", sec_fetch_dest="image"), "favicon"),
    ("an icon that Safari fetches by a helper", ask(target="/apple-touch-icon-precomposed.png", user_agent=HELPER), "favicon"),
    ("an icon that Safari looks for", ask("HEAD", "/apple-touch-icon.png", user_agent=HELPER), "favicon"),
    ("an icon for Android", ask(target="/android-chrome-192x192.png", user_agent=CHROME), "favicon"),
    ("a tile for Windows", ask(target="/mstile-150x150.png", user_agent=CHROME), "favicon"),
    ("the list of tiles", ask(target="/browserconfig.xml", user_agent=CHROME), "favicon"),
    ("Chrome's developer tools", ask(target="/.well-known/appspecific/com.chrome.devtools.json", user_agent=CHROME), "favicon"),
    ("another well-known path", ask(target="/.well-known/openid-configuration", user_agent=CHROME), "hold"),
    ("the icon for a program", ask(target="/favicon.ico", user_agent="curl/8.0"), "hold"),
    ("a page named like an icon", ask(target="/favicon.ico/edit", accept=HTML, user_agent=CHROME), "page"),
    ("the status", ask(target="/.flow/status"), "reserved"),
    ("the wake events", ask(target="/.flow/wake-events?x=1", accept="text/event-stream"), "reserved"),
    ("whatever else is below the reserved path", ask(target="/.flow/xyz", accept=HTML), "reserved"),
    ("a path that only begins like it", ask(target="/.flows", accept="*/*"), "hold"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "kind"), [row[1:] for row in KINDS], ids=[row[0] for row in KINDS])
def test_each_kind_of_request_gets_its_treatment(asked: Asked, kind: str) -> None:
    assert classify(asked, IdlePolicy()) == kind
    assert classify(asked, None) == kind
    assert kind != "favicon" or (may_be_favicon(asked.target.encode()) and not counts_as_use(asked, None))


def test_a_policy_may_forbid_the_page() -> None:
    assert classify(ask(accept=HTML), IdlePolicy(no_loading_page=True)) == "hold"


PROBES = [
    (Probe(path="/healthz"), ask(target="/healthz"), True),
    (Probe(path="/healthz"), ask(target="/healthz?verbose=1"), True),
    (Probe(path="/healthz"), ask(target="/healthz/live"), False),
    (Probe(path="/healthz"), ask(target="/healthzz"), False),
    (Probe(path="/health/*"), ask(target="/health/live/x"), True),
    (Probe(path="/health.live"), ask(target="/healthXlive"), False),
    (Probe(path="/v?/up"), ask(target="/v2/up"), True),
    (Probe(method="head"), ask("HEAD"), True),
    (Probe(method="HEAD"), ask("GET"), False),
    (Probe(user_agent="UptimeRobot"), ask(user_agent="Mozilla/5.0+(compatible; uptimerobot/2.0)"), True),
    (Probe(user_agent="kube-probe/*"), ask(user_agent="kube-probe/1.30"), True),
    (Probe(user_agent="kube-probe/*"), ask(user_agent="not kube-probe/1.30"), False),
    (Probe(user_agent="x"), ask(), False),
    (Probe(source="10.0.0.0/8"), ask(source="10.9.8.7"), True),
    (Probe(source="10.0.0.0/8"), ask(source="11.0.0.1"), False),
    (Probe(source="10.9.8.7"), ask(source="::ffff:10.9.8.7"), True),
    (Probe(source="10.9.8.7/8"), ask(source="10.1.1.1"), True),
    (Probe(source="fe80::/10"), ask(source="fe80::1%eth0"), True),
    (Probe(source="fe80::/10"), ask(source="10.0.0.1"), False),
    (Probe(source="10.0.0.0/8"), ask(source=None), False),
    (Probe(source="nonsense"), ask(source="10.0.0.1"), False),
    (Probe(method="GET", path="/up", user_agent="Kuma"), ask(target="/up", user_agent="Uptime-Kuma/1"), True),
    (Probe(method="GET", path="/up", user_agent="Kuma"), ask(target="/up", user_agent="curl"), False),
    (Probe(), ask(), False),
]


@pytest.mark.parametrize(("probe", "asked", "matches"), PROBES)
def test_a_probe_rule_matches_when_all_that_it_gives_does(probe: Probe, asked: Asked, matches: bool) -> None:
    assert matches_probe(asked, [probe]) is matches
    assert (classify(asked, IdlePolicy(probes=[probe])) == "probe") is matches
    assert counts_as_use(asked, IdlePolicy(probes=[probe])) is not matches


def test_any_of_several_rules_is_enough() -> None:
    assert matches_probe(ask(target="/b"), [Probe(path="/a"), Probe(path="/b")])


@given(path=st.text("ab", max_size=10), rule=st.text("ab*?", max_size=8))
def test_globs_match_as_the_shell_has_them(path: str, rule: str) -> None:
    assert matches_probe(ask(target=path), [Probe(path=rule)]) is fnmatch.fnmatchcase(path, rule)


def test_a_rule_made_of_stars_is_not_slow() -> None:
    began = time.perf_counter()
    assert not matches_probe(ask(target="/" + "a" * 8000), [Probe(path="/" + "*" * 50 + "b")])
    assert not matches_probe(ask(target="/" + "a" * 8000), [Probe(path="*a" * 20 + "*b")])
    assert time.perf_counter() - began < 1


ENDPOINTS = [
    ("/start", "/start", True),
    ("/start/", "/start", True),
    ("/start/now", "/start", True),
    ("/start/now", "/start/", True),
    ("/%73tart", "/start", True),
    ("/started", "/start", False),
    ("/", "/start", False),
    ("/start/../secret", "/start", False),
    ("/start/%2e%2e/secret", "/start", False),
    ("/x/../start", "/start", True),
    ("//start", "/start", True),
    ("/anything", "/", True),
]


@pytest.mark.parametrize(("path", "endpoint", "below"), ENDPOINTS)
def test_only_the_start_endpoint_and_what_is_below_it_wakes(path: str, endpoint: str, below: bool) -> None:
    assert is_below(path, endpoint) is below
    kind = classify(ask(target=path, accept="*/*"), IdlePolicy(start_endpoint=endpoint))
    assert kind == ("hold" if below else "outside")


def test_a_browser_at_the_start_endpoint_gets_the_page() -> None:
    assert classify(ask(target="/start?x=1", accept=HTML), IdlePolicy(start_endpoint="/start")) == "page"


def test_the_reserved_paths_come_before_every_rule() -> None:
    policy = IdlePolicy(start_endpoint="/start", probes=[Probe(path="*")])
    assert classify(ask(target="/.flow/status"), policy) == "reserved"


def test_icons_and_reserved_paths_never_count_as_use() -> None:
    assert not counts_as_use(ask(target="/favicon.ico", user_agent=CHROME), None)
    assert not counts_as_use(ask(target="/.flow/status"), None)
    assert counts_as_use(ask(), None)


@given(
    method=st.text(max_size=8),
    target=st.text(max_size=40),
    headers=st.lists(
        st.tuples(st.sampled_from([b"Accept", b"User-Agent", b"Sec-Purpose", b"Upgrade"]), st.binary(max_size=30)),
        max_size=4,
    ),
    source=st.one_of(st.none(), st.text(max_size=20)),
)
def test_no_head_is_too_odd_for_an_answer(
    method: str, target: str, headers: list[tuple[bytes, bytes]], source: str | None
) -> None:
    asked = Asked(method, target, headers, source)
    policy = IdlePolicy(start_endpoint="/x", probes=[Probe(path="/p*", source="10.0.0.0/8"), Probe(user_agent="a?")])
    assert classify(asked, policy) in ("reserved", "favicon", "probe", "outside", "page", "hold")
    assert isinstance(wants_page(asked), bool)
