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
    ConsoleMessage,
    Error,
    Locator,
    Page,
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
FAULTS = re.compile(
    "Content Security Policy|^Error (in watch callback|executing js_on_load|executing custom JS"
    "|evaluating template)"
)
"""What the console tells of faults in our scripts: Gradio catches what they throw, and writes it
there beside troubles of its own, such as a stream that ends when its page is left."""


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
        self.page.on("console", self._hear)
        self.url = url
        self._receipts: str | None = None
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def _hear(self, message: ConsoleMessage) -> None:
        """What the page's policy refused, and what our scripts threw, are faults, too."""
        if FAULTS.search(message.text):
            self.faults.append(message.text)

    def open(self) -> None:
        """Come to the page, or come again, until it shows what the server says."""
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
        self.page.wait_for_selector("#chat .pane[data-receipts]")
        self._note()

    def type(self, text: str) -> None:
        self.page.fill(BOX, text)

    def write(self, label: str, text: str) -> None:
        """Fill a field of the side; an accordion that was just opened makes its fields a moment
        later once more, and what was typed by then would be lost."""
        field = self.field(label)
        for _ in range(20):
            field.fill(text)
            self.page.wait_for_timeout(300)
            if field.input_value() == text:
                return
        raise AssertionError(f"{label} does not keep what is typed")

    def field(self, label: str) -> Locator:
        """A field of the side by its label, which may go on with a sentence that explains it."""
        return self.side.get_by_label(
            re.compile(rf"^\s*{re.escape(label)}(\s+[A-Z0-9].*)?\s*$", re.S)
        )

    def unfold(self, accordion: str, label: str) -> None:
        """Open an accordion of the side, and wait until its fields stay."""
        self.side.get_by_role("button", name=accordion).click()
        self.settle(label)

    def settle(self, label: str) -> None:
        """Wait until the field is the same one for half a second; see `write`."""
        field = self.field(label)
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
        self._note()
        self.page.focus(BOX)
        self.page.keyboard.press("Enter")

    def _note(self) -> None:
        """Remember how much the server had answered before what comes now; None where an answer is
        under way, so that its end is waited for."""
        self._receipts = self.page.locator("#chat .pane").evaluate(
            """pane => pane.matches('.busy, :has(.pending)') ? null : pane.dataset.receipts"""
        )

    def wait(self) -> None:
        """Until what was asked for last is answered, and the answer is complete."""
        done = "#chat .pane:not(.busy):not(:has(.pending))"
        if self._receipts is not None:
            done += f":not([data-receipts='{self._receipts}'])"
        self.page.locator(done).wait_for(timeout=REPLY_MS)
        self._note()

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
        self._note()
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
    try:
        yield person
        assert person.faults == []
    finally:
        person.close()
