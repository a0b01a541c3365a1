"""Pages that were open when their server was started anew, or when their login ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import BOX, visit
from conftest import free_port
from fake_page import running_page
from playwright.sync_api import Browser, BrowserContext, Page, expect


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(locale="en-US")
    yield opened
    opened.close()


def log_in(page: Page) -> None:
    page.get_by_label("username").fill("ann")
    page.get_by_label("password").fill("right")
    page.get_by_role("button", name="Login").click()
    expect(page.locator(BOX)).to_be_visible()


def test_a_page_comes_back_to_its_login_form_when_the_server_was_started_anew(
    context: BrowserContext, tmp_path: Path
) -> None:
    port, page = free_port(), context.new_page()
    with running_page(tmp_path, port=port, auth="ann:right") as server:
        page.goto(server.url)
        log_in(page)
        page.wait_for_selector("#chat .pane[data-receipts]")  # it knows whose draft it is
        page.fill(BOX, "what was being written")
    with running_page(tmp_path, port=port, auth="ann:right"):
        expect(page.get_by_label("password")).to_be_visible()
        log_in(page)
        expect(page.locator(BOX)).to_have_value("what was being written")


def test_a_page_whose_login_ended_elsewhere_shows_its_login_form(
    context: BrowserContext, tmp_path: Path
) -> None:
    with running_page(tmp_path, auth="ann:right") as server:
        page, other = context.new_page(), context.new_page()
        page.goto(server.url)
        log_in(page)
        other.goto(server.url)
        expect(other.locator(BOX)).to_be_visible()
        # In a tab of its own: one that holds the page opens itself again when its login ends, and
        # that can break off this visit.
        context.new_page().goto(f"{server.url}/logout")
        expect(other.get_by_label("password")).to_be_visible()
        expect(page.get_by_label("password")).to_be_visible()
        log_in(page)


def test_a_page_that_asks_in_vain_is_not_opened_again_and_again(
    context: BrowserContext, tmp_path: Path
) -> None:
    with running_page(tmp_path) as server:
        page = context.new_page()
        visits: list[str] = []
        page.on("framenavigated", lambda frame: visits.append(frame.url))
        page.goto(server.url)
        expect(page.locator(BOX)).to_be_visible()
        headers = {"Page-Reload": "once", "Content-Type": "application/json"}
        page.route(
            "**/queue/join*",
            lambda route: route.fulfill(status=403, headers=headers, body='{"detail": "No."}'),
        )
        page.wait_for_timeout(8_000)
        assert len(visits) == 2, "once, and then no more"


def test_tabs_that_are_opened_together_for_the_first_time_share_their_chats(
    context: BrowserContext, tmp_path: Path
) -> None:
    with running_page(tmp_path) as server:
        tabs = [context.new_page(), context.new_page()]
        for tab in tabs:  # as a browser does that is started with several tabs
            tab.evaluate("url => { location.href = url; }", server.url)
        for tab in tabs:
            expect(tab.locator(BOX)).to_be_visible()
        tabs[0].wait_for_timeout(3_000)  # time for a tab to notice that the other has its cookie
        for tab in tabs:
            tab.wait_for_function("() => localStorage.getItem('multimodal-chat') !== null")
        for number, tab in enumerate(tabs):
            tab.fill(BOX, f"chat {number}")
            tab.keyboard.press("Enter")
            expect(tab.locator("#chat .message.assistant .body")).to_have_text(f"chat {number}")
        for tab in tabs:
            tab.reload()
            titles = tab.locator("#conversations .open")
            expect(titles).to_have_text(["chat 1", "chat 0"])


def test_a_tab_whose_session_is_of_another_cookie_opens_itself_again(
    browser: Browser, tmp_path: Path
) -> None:
    with running_page(tmp_path) as server, visit(browser, server.url) as person:
        assert person.ask("before") == "before"
        with person.page.expect_navigation():
            person.context.add_cookies(
                [{"name": "multimodal-browser", "value": "b" * 32, "url": server.url}]
            )
        expect(person.replies).to_have_text(["before"])
        assert person.ask("after") == "after"
