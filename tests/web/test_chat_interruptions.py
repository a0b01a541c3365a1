"""The chat pane when one thing comes before another is done: typing before the page is ready, a
refused message before one that waits, a press of a button that goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import BOX, Person
from conftest import wait_until
from fake_page import FakePage
from fakes import picture
from playwright.sync_api import Page, Route, expect

KEY = """([selector, key, options]) => document.querySelector(selector).dispatchEvent(
    new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true, ...options}))"""
PASTE = """([selector, kinds]) => {
    const carried = new DataTransfer();
    for (const [kind, data] of kinds) {
        if (kind.startsWith('text/')) carried.setData(kind, data);
        else carried.items.add(new File([data], 'pasted.png', {type: kind}));
    }
    const event = new ClipboardEvent('paste',
        {clipboardData: carried, bubbles: true, cancelable: true});
    document.querySelector(selector).dispatchEvent(event);
    return event.defaultPrevented;
}"""


def hold(page: Page, pattern: str) -> Callable[[], None]:
    """Let no request to `pattern` through until what this returns is called."""
    held: list[Route] = []
    is_released = False

    def release() -> None:
        nonlocal is_released
        is_released = True
        for route in held:
            route.continue_()

    page.route(pattern, lambda route: route.continue_() if is_released else held.append(route))
    return release


# ---------------------------------------------------------------- before the page is ready


def test_what_is_done_before_the_page_is_ready_is_kept(person: Person, red: Path) -> None:
    page = person.page
    page.goto("about:blank")  # the requests of the first visit are over
    release = hold(page, "**/queue/join*")
    page.goto(person.url)
    page.fill(BOX, "sent early")
    page.keyboard.press("Enter")
    expect(page.locator("#chat .queue li")).to_have_count(1)
    page.set_input_files("#chat input.picker", str(red))
    expect(person.attachments).to_have_count(1)
    page.fill(BOX, "typed early")
    release()
    expect(person.said).to_have_count(1)
    expect(person.said.last).to_contain_text("sent early")
    person.wait()
    expect(page.locator(BOX)).to_have_value("typed early")
    expect(person.attachments).to_have_count(1)
    expect(page.locator("#composer .attachment.loading")).to_have_count(0)
    person.send()
    person.wait()
    expect(person.said.last.locator(".picture")).to_have_count(1)


# ---------------------------------------------------------------- messages that wait


def test_what_waits_is_not_sent_before_what_was_refused(
    person: Person, chat: FakePage, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture((64, 64), "red", "PNG")[:40])
    pen = chat.begin_answer(person, "the first", "An answer.")
    person.attach(broken)
    person.say("the second")
    person.say("the third")
    waiting = person.page.locator("#chat .queue li")
    expect(waiting).to_have_count(2)
    pen.end()
    assert "broken.png" in person.complaint()
    expect(person.box).to_have_value("the second")
    expect(waiting).to_have_count(1)
    expect(waiting).to_contain_text("Sent after what is in the message box")
    assert person.said.count() == 1, "the third was meant to follow the second"
    person.page.get_by_role("button", name="Remove broken.png").click()
    chat.echo()
    person.send()
    expect(person.said).to_have_count(3)
    expect(person.said.nth(1)).to_contain_text("the second")
    expect(person.said.nth(2)).to_contain_text("the third")
    person.wait()


def test_an_edit_sent_while_an_answer_is_written_says_why_it_waits(
    person: Person, chat: FakePage
) -> None:
    person.ask("one apple")
    pen = chat.pen()
    person.do("Edit")
    editor = person.page.get_by_label("Edit the message")
    person.say("meanwhile")
    expect(person.stop_button).to_be_visible()
    editor.fill("two apples")
    editor.press("Control+Enter")
    assert "An answer is being written" in person.complaint()
    expect(editor).to_have_value("two apples")
    pen.end()
    person.wait()


# ---------------------------------------------------------------- input methods and the clipboard


@pytest.mark.parametrize("options", [{"isComposing": True}, {"keyCode": 229}])
def test_keys_of_an_input_method_neither_send_nor_stop(
    person: Person, chat: FakePage, options: dict[str, Any]
) -> None:
    person.type("にほん")
    person.page.evaluate(KEY, [BOX, "Enter", options])
    expect(person.box).to_have_value("にほん")
    pen = chat.pen()
    person.send()
    pen.write("Once ")
    expect(person.replies.last).to_contain_text("Once")
    person.page.evaluate(KEY, [BOX, "Escape", options])
    expect(person.stop_button).to_be_enabled()
    pen.end()
    person.wait()
    assert "Stopped" not in person.reply()


def test_a_table_copied_with_its_picture_is_pasted_as_text(person: Person) -> None:
    kinds = [["text/plain", "a\tb"], ["image/png", "?"]]
    assert not person.page.evaluate(PASTE, [BOX, kinds]), "left to the browser"
    assert person.attachments.count() == 0
    assert person.page.evaluate(PASTE, [BOX, kinds[1:]])
    expect(person.attachments).to_have_count(1)


def test_the_sign_for_dropping_goes_when_the_drag_ends_unseen(person: Person) -> None:
    person.page.evaluate(
        """() => {
        const carried = new DataTransfer();
        carried.items.add(new File(['?'], 'a.png', {type: 'image/png'}));
        document.querySelector('#chat .log').dispatchEvent(
            new DragEvent('dragenter', {dataTransfer: carried, bubbles: true, cancelable: true}));
    }"""
    )
    expect(person.page.locator("#chat .drop")).to_be_visible()
    expect(person.page.locator("#chat .drop")).to_be_hidden()


def test_a_refused_upload_says_what_the_server_said(person: Person, red: Path) -> None:
    told = '{"detail": "More than 500 MB came from here within the hour. Wait a while."}'
    person.page.route("**/gradio_api/upload*", lambda route: route.fulfill(status=429, body=told))
    person.page.set_input_files("#chat input.picker", str(red))
    fault = person.page.locator("#composer .fault")
    expect(fault).to_have_text("More than 500 MB came from here within the hour. Wait a while.")


# ---------------------------------------------------------------- the focus


def holds_focus(person: Person) -> bool:
    return bool(person.page.evaluate("document.activeElement !== document.body"))


@pytest.mark.parametrize("name", ["Send", "Answer again", "Take back", "Dismiss", "Remove red.png"])
def test_a_button_that_goes_leaves_the_focus_on_the_page(
    person: Person, red: Path, name: str
) -> None:
    person.ask("hello")
    if name == "Dismiss":
        person.send()  # empty, so that there is something to dismiss
    else:
        person.attach(red)
        person.type("and this?")
    person.page.get_by_role("button", name=name, exact=True).last.press("Enter")
    person.page.wait_for_timeout(300)
    wait_until(lambda: holds_focus(person))
    person.page.locator("#chat .pane:not(.busy):not(:has(.pending))").wait_for()
    wait_until(lambda: holds_focus(person))


def test_the_focus_stays_on_the_page_when_an_answer_ends_by_itself(
    person: Person, chat: FakePage
) -> None:
    pen = chat.begin_answer(person, "hello", "Good day.")
    person.stop_button.focus()
    pen.end()
    person.wait()
    expect(person.stop_button).to_be_hidden()
    expect(person.box).to_be_focused()


def test_a_chat_chosen_on_a_phone_has_the_focus(phone: Person) -> None:
    phone.ask("hello")
    phone.page.get_by_role("button", name="Open the side panel").click()
    phone.side.locator("#conversations .open").first.click()
    wait_until(lambda: holds_focus(phone))
    assert phone.page.evaluate("!document.activeElement.closest('[inert]')")


# ---------------------------------------------------------------- the list of chats


def test_a_chat_is_not_made_anew_under_a_press(person: Person) -> None:
    person.ask("hello")
    row = person.side.locator("#conversations .open").first
    expect(row).to_contain_text("hello")
    kept = row.element_handle()
    assert kept is not None
    person.ask("and again")
    person.page.wait_for_timeout(500)
    assert kept.evaluate("node => node.isConnected")
