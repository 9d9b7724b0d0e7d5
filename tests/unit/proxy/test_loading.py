"""The page: what it says, what it may load, and that nobody's text becomes code."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from flow_manager.contract.wake import WakeEvent
from flow_manager.proxy.loading import LoadingPage, View, digest, safe_target
from tests.unit.proxy.slow_fakes import AT

PAGE = LoadingPage.load()
NASTY = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "'><svg/onload=alert(1)>",
    "</title><script>alert(1)</script>",
    "</pre></section><iframe src=//evil.example>",
    "<!--<script>",
    "{{script}}{{data}}",
    "javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u2028\u2029</noscript><style>*{display:none}</style>",
    "a\r\n<meta http-equiv=refresh content='0;url=//evil.example'>",
    "</body></html><script>alert(1)</script>",
    "\x00<b onclick=alert(1)>",
]  # fmt: skip


class Document(HTMLParser):
    """Every element with its attributes, the text inside each, and what is code."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.text: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, found))
        name = found.get("id") or (f"{tag}:{found['type']}" if found.get("type") else tag)
        if tag not in ("meta", "link", "progress"):
            self._open.append((tag, name))

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            if self._open.pop()[0] == tag:
                break

    def handle_data(self, data: str) -> None:
        for _, name in self._open:
            self.text[name] = self.text.get(name, "") + data

    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(sorted(attributes))) for tag, attributes in self.elements]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def event(number: int, message: str = "starting", type: Any = "starting", error: str | None = None) -> WakeEvent:
    return WakeEvent(type=type, message=message, timestamp=AT + timedelta(seconds=number), id=number, error=error)


def view(text: str = "web", **changes: Any) -> View:
    values: dict[str, Any] = {
        "name": text,
        "mode": "waking",
        "now": AT + timedelta(seconds=3),
        "steps": [event(1, text), event(2, text, "waiting_ready", text)],
        "reason": text,
        "headline": text,
        "log_lines": [text, text],
        "target": "/a?b=1",
        **changes,
    }
    return View(**values)


def document(shown: View) -> Document:
    return Document(PAGE.render(shown).decode())


@pytest.mark.parametrize("mode", ["waking", "asleep", "failed", "refused"])
@pytest.mark.parametrize("text", NASTY)
def test_nobodys_text_becomes_an_element_an_attribute_or_code(text: str, mode: Any) -> None:
    harmless, nasty = document(view(mode=mode)), document(view(text, mode=mode))
    assert nasty.shape() == harmless.shape()
    assert nasty.text["script"] == harmless.text["script"]
    assert nasty.text["style"] == harmless.text["style"]
    assert nasty.all("form") == harmless.all("form")
    shown = "".join(character if character.isprintable() else " " for character in text)
    for place in ("name", "headline", "reason"):
        assert nasty.text[place] == shown
    assert nasty.text["lines"] == f"{shown}\n{shown}"
    assert json.loads(nasty.text["data"])["name"] == shown


@pytest.mark.parametrize("text", NASTY)
def test_the_data_block_has_no_character_that_could_end_it(text: str) -> None:
    source = PAGE.render(view(text)).decode()
    block = source.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert not set(block) & {"<", ">", "&", "\u2028", "\u2029"}


def test_the_policy_allows_exactly_the_code_that_is_in_the_page() -> None:
    policy = dict(part.split(" ", 1) for part in PAGE.policy.split("; "))
    shown = document(view())
    assert policy["script-src"] == f"'{digest(shown.text['script'])}'"
    assert policy["style-src"] == f"'{digest(shown.text['style'])}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["img-src"] == "data:"
    assert "unsafe" not in PAGE.policy


def test_the_page_loads_nothing_and_has_no_code_in_attributes() -> None:
    shown = document(view())
    for tag, attributes in shown.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), f"<{tag}> {attributes}"
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:,").startswith("data:"), f"<{tag}> {attributes}"
    code = shown.text["script"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", code)
    assert not re.search(r"https?:", code + shown.text["style"])


def test_the_page_is_small() -> None:
    assert len(PAGE.render(view())) < 20_000


def test_the_headers_keep_the_page_out_of_caches_and_frames() -> None:
    headers = dict(PAGE.headers("napping"))
    assert headers[b"Cache-Control"] == b"no-store"
    assert headers[b"Content-Security-Policy"] == PAGE.policy.encode()
    assert headers[b"X-Content-Type-Options"] == b"nosniff"
    assert headers[b"X-Flow-State"] == b"napping"
    assert headers[b"Referrer-Policy"] == b"same-origin"
    assert b"Retry-After" not in headers
    assert dict(PAGE.headers("napping", 7))[b"Retry-After"] == b"7"


def test_without_a_program_it_reads_the_steps_and_looks_again() -> None:
    shown = document(view(expected=6.0, headline=None, target="/a?b=1&c=<>"))
    assert shown.text["headline"] == "Waking up…"
    assert shown.text["left"] == "About 4 s to go"
    assert [item["data-type"] for item in shown.all("li")] == ["starting", "waiting_ready"]
    assert shown.text["time"].split() == ["+0.0", "s+1.0", "s"]
    refresh = [item["content"] for item in shown.all("meta") if item.get("http-equiv") == "refresh"]
    assert refresh == ["4;url=/.flow/wait?to=%2Fa%3Fb%3D1%26c%3D%3C%3E"]
    assert "looks again in 4 s" in shown.text["noscript"]


@pytest.mark.parametrize(("expected", "pause"), [(None, 3), (0.1, 1), (3.5, 2), (600.0, 10)])
def test_it_looks_again_about_when_the_flow_should_be_ready(expected: float | None, pause: int) -> None:
    source = PAGE.render(view(expected=expected)).decode()
    assert f'content="{pause};url=' in source


@pytest.mark.parametrize("mode", ["asleep", "failed", "refused"])
def test_a_page_that_waits_for_nothing_does_not_look_again(mode: Any) -> None:
    assert b"http-equiv" not in PAGE.render(view(mode=mode))


def test_a_failure_says_why_and_offers_to_try_again() -> None:
    shown = document(view("web", mode="failed", reason="exit code 3", log_lines=["no such file"], headline=None))
    assert shown.text["headline"] == "It could not be woken."
    assert shown.text["reason"] == "exit code 3"
    assert shown.text["lines"] == "no such file"
    assert shown.text["button:submit"] == "Try again"
    assert shown.all("form") == [{"id": "again", "method": "post", "action": "/.flow/wake?to=%2Fa%3Fb%3D1"}]


def test_what_changes_is_read_aloud() -> None:
    shown = document(view())
    by_id = {attributes["id"]: attributes for _, attributes in shown.elements if attributes.get("id")}
    assert by_id["headline"]["role"] == "status"
    assert by_id["reason"]["role"] == "alert"
    assert by_id["steps"]["aria-live"] == "polite"
    assert by_id["bar"]["aria-label"]
    assert shown.all("html") == [{"lang": "en"}]


@pytest.mark.parametrize("target", ["/", "/a/b?c=d&e=%20#f", "/a//b", "/~x/'\"", "/.flows", "/a?to=//x"])
def test_a_path_of_this_host_is_gone_back_to(target: str) -> None:
    assert safe_target(target) == target


@pytest.mark.parametrize(
    "target",
    ["", "x", "//evil.example", "/\\evil.example", "\\\\evil", "https://evil.example", "javascript:alert(1)",
     "/a\r\nSet-Cookie: x=1", "/a b", "/\t/evil.example", "/ä", "/" + "a" * 3000, "/.flow/wait", "/.flow", "/a\\b"],
)  # fmt: skip
def test_whatever_could_leave_this_host_is_not_gone_to(target: str) -> None:
    assert safe_target(target) == "/"
