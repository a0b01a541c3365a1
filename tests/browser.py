"""A person at the page, driven through Debian's Chromium."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserType,
    Error,
    Locator,
    Page,
    TimeoutError,
    expect,
    sync_playwright,
)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
REPLY_MS = 60_000
BOX = "#composer textarea"


def launch(chromium: BrowserType, *more: str) -> Browser:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    return chromium.launch(executable_path=path, args=[*ARGUMENTS, *more])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Known to every test through `pytest_plugins` in conftest.py."""
    with sync_playwright() as playwright:
        opened = launch(playwright.chromium)
        yield opened
        opened.close()


class Person:
    """One person with a browser of their own."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        size = {"width": 1280, "height": 800}
        self.context = browser.new_context(**{"viewport": size, "locale": "en-US", **context})
        self.page: Page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self._hear(message.text))
        self.url = url
        self.open()

    def _hear(self, told: str) -> None:
        """What the page's policy refused is a fault, too."""
        if "Content Security Policy" in told:
            self.faults.append(told)

    def open(self) -> None:
        try:
            self.page.goto(self.url)
        except Error as error:  # the page reloads itself when its server is back
            if "ERR_ABORTED" not in error.message:
                raise
            self.page.goto(self.url)
        self.page.wait_for_selector("#composer textarea")
        self.page.wait_for_selector("#gauge .gauge", state="attached")  # the side may be closed
        # The page has said who this is, so what is sent now has an owner.
        self.page.wait_for_function("() => localStorage.getItem('multimodal-chat') !== null")

    def type(self, text: str) -> None:
        self.page.fill(BOX, text)

    def write(self, field: str, text: str) -> None:
        """Fill a field of the side; an accordion that was just opened makes its fields a moment
        later once more, and what was typed by then would be lost."""
        for _ in range(20):
            self.page.fill(field, text)
            self.page.wait_for_timeout(300)
            if self.page.locator(field).input_value() == text:
                return
        raise AssertionError(f"{field} does not keep what is typed")

    def unfold(self, accordion: str, field: str) -> None:
        """Open an accordion of the side, and wait until its fields stay."""
        self.side.get_by_role("button", name=accordion).click()
        self.settle(field)

    def settle(self, label: str) -> None:
        """Wait until the field is the same one for half a second; see `write`."""
        field = self.page.get_by_label(label, exact=True)
        field.wait_for()
        for _ in range(20):
            before = field.element_handle()
            self.page.wait_for_timeout(500)
            if before is not None and before.evaluate("element => element.isConnected"):
                return
        raise AssertionError(f"{label} is made anew again and again")

    def choose(self, label: str, option: str) -> None:
        """Take the first option of a dropdown that begins so, by its words."""
        field = self.page.get_by_label(label, exact=True)
        field.click()
        self.page.get_by_role("option").filter(has_text=option).first.click()
        expect(field).to_have_value(re.compile(re.escape(option)))

    def search(self, label: str, words: str) -> None:
        """Take an option of a dropdown by typing; no mouse."""
        self.page.get_by_label(label, exact=True).focus()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(words)
        self.page.keyboard.press("Enter")

    def attach(self, *paths: Path) -> None:
        """Choose files for the next message, and wait until they are uploaded."""
        before = self.attachments.count()
        self.page.set_input_files("#chat input.picker", [str(path) for path in paths])
        self.attachments.nth(before + len(paths) - 1).wait_for()
        self.page.wait_for_function(
            "() => !document.querySelector('#composer .attachment.loading')"
        )

    def send(self) -> None:
        self.page.focus(BOX)
        self.page.keyboard.press("Enter")

    def wait(self) -> None:
        """Until the reply is complete: nothing is on its way and the stop button is gone."""
        with contextlib.suppress(TimeoutError):  # an answer may come faster than this looks
            self.page.locator("#chat .pane.busy").wait_for(timeout=5_000)
        self.page.locator("#chat .pane:not(.busy):not(:has(.pending))").wait_for(timeout=REPLY_MS)

    def ask(self, text: str = "", *files: Path) -> str:
        """Send a message and return the whole reply."""
        if files:
            self.attach(*files)
        if text:
            self.type(text)
        self.send()
        self.wait()
        return self.reply()

    def reply(self) -> str:
        """The newest words of the assistant: the answer, and what is noted below it."""
        self.answers.last.wait_for()
        said = self.answers.last.locator("> .body, > .note")
        return "\n".join(filter(None, said.all_inner_texts()))

    @property
    def side(self) -> Locator:
        return self.page.locator("#sidebar")

    @property
    def answers(self) -> Locator:
        return self.page.locator("#chat .message.assistant")

    @property
    def replies(self) -> Locator:
        """The words of the answers, as far as they are written."""
        return self.page.locator("#chat .message.assistant > .body")

    @property
    def routes(self) -> Locator:
        return self.page.locator("#chat .route")

    def route(self) -> str:
        """The words on the newest route card, opened."""
        if self.routes.last.get_attribute("open") is None:
            self.routes.last.locator("summary").click()
        return re.sub(r"\s+", " ", self.routes.last.inner_text())

    @property
    def said(self) -> Locator:
        """The person's messages that the server has stored."""
        return self.page.locator("#chat .message.user:not(.pending)")

    @property
    def attachments(self) -> Locator:
        return self.page.locator("#composer .attachment")

    @property
    def stop_button(self) -> Locator:
        return self.page.locator("#composer .stop")

    def do(self, action: str) -> None:
        """Press a button of the newest message that has it, by its name."""
        button = self.page.locator("#chat .message").get_by_role("button", name=action, exact=True)
        button.last.scroll_into_view_if_needed()
        button.last.click()

    def complaint(self) -> str:
        """What the pane says against a message."""
        shown = self.page.locator("#chat .alert p")
        shown.wait_for(timeout=20_000)
        return re.sub(r"\s+", " ", shown.inner_text())

    def small_targets(self, selector: str, frame: str = "*") -> list[list[object]]:
        """What can be pressed and is smaller than 24 pixels (WCAG 2.5.8): its name, width and
        height. What is pressed is the nearest `frame` around it, else the element itself."""
        found: list[list[object]] = self.page.evaluate(
            """([selector, frame]) => [...document.querySelectorAll(selector)]
            .filter(node => node.checkVisibility({visibilityProperty: true}))
            .map(node => [node.getAttribute('aria-label') || node.textContent.trim() || node.type,
                (node.closest(frame) ?? node).getBoundingClientRect()])
            .filter(([, box]) => box.width && (box.width < 24 || box.height < 24))
            .map(([name, box]) => [name, box.width, box.height])""",
            [selector, frame],
        )
        return found

    def close(self) -> None:
        self.context.close()


@contextlib.contextmanager
def visit(browser: Browser, url: str, **context: Any) -> Iterator[Person]:
    """A person at `url`, where nothing may go wrong in their browser."""
    person = Person(browser, url, **context)
    yield person
    assert person.faults == []
    person.close()
