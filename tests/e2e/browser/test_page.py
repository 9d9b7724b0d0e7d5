"""The page before a person's eyes: a real browser, the real proxy, flows that wake as the test wants them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from flow_manager.errors import StartFailed
from flow_manager.testing import eventually
from tests.unit.proxy.slow_fakes import FakeFlow

if TYPE_CHECKING:
    from playwright.async_api import Page

    from tests.e2e.browser.conftest import Site, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


async def text_of(page: Page, selector: str) -> str:
    return (await page.text_content(selector)) or ""


async def until_mode(page: Page, mode: str) -> None:
    await page.wait_for_selector(f'body[data-mode="{mode}"]')


async def until_awake(page: Page, path: str) -> None:
    await page.wait_for_selector(f'h1:has-text("the flow\'s own page {path}")')


async def test_a_person_sees_each_step_and_then_the_flows_own_page(visitor: Visitor, site: Site) -> None:
    page = await visitor.page()
    answer = await page.goto(site.url("/a?b=1"))
    assert answer is not None and answer.status == 200
    assert await text_of(page, "h1") == "reports"
    assert site.flow.wakes == 1
    site.flow.history.add("waking_dep", "waking db")
    site.flow.history.add("waiting_ready", "waiting for tcp 80")
    await page.wait_for_selector("li:has-text('waiting for tcp 80')")
    steps = await page.locator("#steps li span").all_text_contents()
    assert steps == ["starting reports", "waking db", "waiting for tcp 80"]
    assert "s to go" in await text_of(page, "#left")
    assert 0 < float(await page.eval_on_selector("#bar", "bar => bar.value")) < 1
    assert (await text_of(page, "#steps li:first-child time")) == "+0.0 s"

    site.flow.finish()
    await until_awake(page, "/a?b=1")
    assert page.url == site.url("/a?b=1")
    assert site.seen == ["GET /a?b=1"]
    assert visitor.complaints == []
    assert all(address.startswith((site.url("/"), "data:")) for address in visitor.asked), visitor.asked


async def test_a_failure_says_why_and_trying_again_works(visitor: Visitor, site: Site) -> None:
    page = await visitor.page()
    await page.goto(site.url("/x"))
    site.flow.finish(StartFailed("the flow ended with exit code 3"))
    await until_mode(page, "failed")
    assert await text_of(page, "#reason") == "the flow ended with exit code 3"
    await page.wait_for_selector("pre:has-text('KeyError')")
    assert await text_of(page, "#lines") == "Traceback\nKeyError: 'URL'"
    assert await page.is_hidden("#bar")
    assert site.flow.wakes == 1, "a page that is left open tries nothing by itself"

    await page.click("button")
    await until_mode(page, "waking")
    assert await text_of(page, "#reason") == "" and await page.is_hidden("pre")
    assert site.flow.wakes == 2
    site.flow.finish()
    await until_awake(page, "/x")
    assert page.url == site.url("/x")
    assert visitor.complaints == []


async def test_trying_again_too_soon_counts_down(visitor: Visitor, site: Site) -> None:
    flow = site.flow
    flow.state, flow.error, flow.held_back = "error", "exit code 3", StartFailed("exit code 3", retry_after=2)
    page = await visitor.page()
    answer = await page.goto(site.url("/x"))
    assert answer is not None and answer.status == 503
    await until_mode(page, "failed")
    assert "exit code 3" in await text_of(page, "#reason")
    await page.click("button")
    await page.wait_for_selector("button:disabled:has-text('Try again in')")
    flow.held_back = None
    await page.wait_for_selector("button:enabled")
    await page.click("button")
    await eventually(lambda: flow.wakes == 1)
    flow.finish()
    await until_awake(page, "/x")


async def test_a_page_finds_out_by_itself_when_somebody_else_mended_it(visitor: Visitor, site: Site) -> None:
    page = await visitor.page()
    await page.goto(site.url("/x"))
    site.flow.finish(StartFailed("exit code 3"))
    await until_mode(page, "failed")
    site.flow.be_ready()
    await until_awake(page, "/x")


async def test_a_page_tells_that_its_flow_was_deleted_or_stopped(visitor: Visitor, site: Site) -> None:
    page = await visitor.page()
    await page.goto(site.url("/x"))
    site.flow.state, site.flow.desired = "napping", "stopped"
    await until_mode(page, "refused")
    assert "It is stopped." in await text_of(page, "#headline")
    site.registry.clear()
    site.registry.generation += 1
    await page.wait_for_selector("#headline:has-text('no such flow')")


async def test_a_person_reads_that_a_flow_is_stopped(visitor: Visitor, site: Site) -> None:
    site.flow.desired = "stopped"
    page = await visitor.page()
    answer = await page.goto(site.url("/x"))
    assert answer is not None and answer.status == 503
    assert "this flow is stopped" in await text_of(page, "#reason")
    assert await page.is_hidden("button") and site.flow.wakes == 0


async def test_the_page_works_where_events_do_not_get_through(visitor: Visitor, site: Site) -> None:
    page = await visitor.page()
    await page.route("**/.flow/wake-events*", lambda route: route.abort())
    await page.goto(site.url("/x"))
    site.flow.finish()
    await until_awake(page, "/x")


# --- without JavaScript -------------------------------------------------------------------------------------------------


async def test_without_a_program_the_page_looks_again_until_the_flow_is_ready(visitor: Visitor, site: Site) -> None:
    site.flow.expected_start = 1.0
    page = await visitor.page(java_script_enabled=False)
    await page.goto(site.url("/a?b=1&c=%20"))
    assert await page.is_visible("noscript p") and "looks again in 1 s" in await text_of(page, "noscript p")
    site.flow.history.add("waiting_ready", "waiting for tcp 80")
    await page.wait_for_selector("li:has-text('waiting for tcp 80')")
    site.flow.finish()
    await until_awake(page, "/a?b=1&c=%20")
    assert page.url == site.url("/a?b=1&c=%20")
    assert site.flow.wakes == 1


async def test_without_a_program_a_failure_is_read_and_tried_again_by_hand(visitor: Visitor, site: Site) -> None:
    site.flow.expected_start = 1.0
    page = await visitor.page(java_script_enabled=False)
    await page.goto(site.url("/x"))
    site.flow.finish(StartFailed("the flow ended with exit code 3"))
    await until_mode(page, "failed")
    assert "exit code 3" in await text_of(page, "#reason") and "KeyError" in await text_of(page, "#lines")
    looks = len(visitor.asked)
    await asyncio.sleep(2)
    assert len(visitor.asked) == looks and site.flow.wakes == 1, "a tab that is left open starts nothing"
    await page.click("button")
    await until_mode(page, "waking")
    assert site.flow.wakes == 2
    site.flow.finish()
    await until_awake(page, "/x")


# --- looks --------------------------------------------------------------------------------------------------------------

CONTRAST = """() => {
  const number = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = light(number(getComputedStyle(document.querySelector("main")).backgroundColor));
  const found = {};
  for (const one of ["h1", "#headline", "#left", "li span", "li time"]) {
    const ink = light(number(getComputedStyle(document.querySelector(one)).color));
    found[one] = (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05);
  }
  return [ground, found];
}"""


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
async def test_it_is_readable_by_day_and_by_night(visitor: Visitor, site: Site, scheme: Any, is_dark: bool) -> None:
    page = await visitor.page(color_scheme=scheme, viewport={"width": 360, "height": 640})
    await page.goto(site.url())
    await page.wait_for_selector("li time")
    ground, contrast = await page.evaluate(CONTRAST)
    assert (ground < 0.1) is is_dark
    assert all(ratio >= 4.5 for ratio in contrast.values()), contrast  # WCAG 2.2, 1.4.3
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visitor.complaints == []


# --- who would like to break in -------------------------------------------------------------------------------------------

NASTY = "</script><img src=x onerror='window.broken=1'><svg onload=window.broken=1>{{script}}"


@pytest.mark.parametrize("program", [True, False])
async def test_hostile_words_stay_words(visitor: Visitor, site: Site, program: bool) -> None:
    flow = site.flow
    flow.name, flow.hosts = NASTY, ("nasty.localhost",)
    flow.expected_start = 1.0
    page = await visitor.page(java_script_enabled=program)
    await page.goto(site.url("/?" + "a=%3C/script%3E", name="nasty"))
    assert await text_of(page, "h1") == NASTY
    flow.history.add("waiting_ready", NASTY)
    await page.wait_for_selector("li[data-type=waiting_ready]")
    flow.finish(StartFailed(NASTY))
    await until_mode(page, "failed")
    assert await text_of(page, "#reason") == NASTY
    assert await page.locator("img, svg").count() == 0
    if program:
        assert await page.evaluate("window.broken") is None
    assert visitor.complaints == []


async def test_a_foreign_page_can_neither_wake_a_flow_nor_read_how_it_is(visitor: Visitor, site: Site) -> None:
    other = FakeFlow(id="bbbbbbbbbbbb", name="other", clock=site.flow.clock, listens=site.flow.listens)
    other.be_ready()
    site.registry[other.id] = other
    site.registry.generation += 1
    page = await visitor.page()
    await page.goto(site.url("/", name="other"))
    async with page.expect_response("**/.flow/wake") as asked:
        await page.evaluate(
            "url => fetch(url, {method: 'POST', mode: 'no-cors'}).catch(() => 0)", site.url("/.flow/wake")
        )
    assert (await asked.value).status == 403
    assert site.flow.wakes == 0
    told = await page.evaluate("url => fetch(url).then(r => r.text(), () => 'refused')", site.url("/.flow/status"))
    assert told == "refused"
