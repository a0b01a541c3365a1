"""What stands beside the chat pane, in a real browser: chats, models, settings, memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser import BOX, Person, each_look, still, visit
from conftest import wait_until
from fake_page import FakePage
from playwright.sync_api import Browser, Locator, expect

from multimodal.web.chat_list import PAGE, UNDO_S
from multimodal.web.gauge import FETCH_BEGUN, FETCH_ENDED
from multimodal.weights import FetchProgress


def chats(person: Person) -> Locator:
    return person.page.locator("#conversations .open")


def named(person: Person, title: str) -> Locator:
    return person.page.locator("#conversations").get_by_role("button", name=title, exact=True)


def delete(person: Person, title: str) -> None:
    person.page.locator("#conversations li").filter(has_text=title).hover()
    person.page.get_by_role("button", name=f"Delete “{title}”").click()


def begin(person: Person, *questions: str) -> None:
    """A chat for each question; the last one stays open."""
    for index, question in enumerate(questions):
        if index:
            person.new_chat()
        person.ask(question)
        expect(named(person, question)).to_have_attribute("aria-current", "page")


# ---------------------------------------------------------------- deleting


def test_the_chat_that_is_deleted_is_the_one_whose_button_is_pressed(person: Person) -> None:
    begin(person, "one", "two", "three")
    delete(person, "one")
    expect(person.page.get_by_text("Deleted “one”", exact=True)).to_be_visible()
    named(person, "two").click()
    expect(person.said).to_have_text(re.compile("two"))
    person.open()
    expect(chats(person)).to_have_text(["three", "two"])


def test_a_deleted_chat_comes_back_whole(person: Person) -> None:
    begin(person, "keep me", "other")
    named(person, "keep me").click()
    expect(person.said).to_have_text(re.compile("keep me"))
    person.ask("and this")
    delete(person, "keep me")
    expect(person.said).to_have_count(0)
    expect(chats(person)).to_have_text(["other"])
    person.page.get_by_role("button", name="Undo").click()
    expect(chats(person)).to_have_text(["keep me", "other"])
    expect(person.said).to_have_count(2)
    expect(person.answers).to_have_count(2)
    person.open()
    expect(person.said).to_have_count(2)


def test_what_is_not_undone_is_deleted_in_the_store(person: Person, chat: FakePage) -> None:
    begin(person, "soon gone")
    owner = chat.owner()
    delete(person, "soon gone")
    expect(person.page.get_by_role("button", name="Undo")).to_be_visible()
    assert [row.title for row in chat.program.store.headings(owner)] == ["soon gone"]
    wait_until(lambda: chat.program.store.headings(owner) == [], UNDO_S + 60)
    expect(person.page.get_by_role("button", name="Undo")).to_have_count(0)


def test_another_tab_is_told_that_its_chat_was_deleted_and_loses_no_words(person: Person) -> None:
    begin(person, "shared")
    other = person.context.new_page()
    other.goto(person.url)
    other.locator("#chat .message.user").wait_for()
    delete(person, "shared")
    expect(person.said).to_have_count(0)
    other.fill(BOX, "more of it")
    other.keyboard.press("Enter")
    expect(other.locator("#chat .alert")).to_contain_text("This chat was deleted")
    person.page.get_by_role("button", name="Undo").click()
    expect(person.said).to_have_count(1)
    other.close()


# ---------------------------------------------------------------- the list


def test_the_list_stays_where_a_chat_below_the_fold_is_chosen(
    person: Person, chat: FakePage
) -> None:
    begin(person, "first")
    chat.keep_chats(60)
    person.open()
    expect(chats(person)).to_have_count(61)
    last = named(person, "chat 3")
    last.click()
    expect(last).to_have_attribute("aria-current", "page")
    person.page.wait_for_timeout(300)
    assert last.evaluate(
        """button => { const box = button.getBoundingClientRect();
        return document.elementFromPoint(box.x + 9, box.y + 9)?.closest('.open') === button; }"""
    ), "the chosen chat is not in sight"
    assert person.page.evaluate("document.querySelector('#sidebar').scrollTop") == 0


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_every_chat_can_be_reached(person: Person, chat: FakePage, way: str) -> None:
    begin(person, "newest")
    chat.keep_chats(PAGE + 2)
    person.ask("still the newest")
    person.open()
    expect(chats(person)).to_have_count(PAGE)
    older = person.page.get_by_role("button", name="Older chats")
    if way == "mouse":
        older.click()
    else:
        older.press("Enter")
    expect(chats(person)).to_have_count(PAGE + 3)
    expect(older).to_have_count(0)
    expect(named(person, "chat 2")).to_be_focused()
    named(person, "chat 0").click()
    expect(person.said).to_have_count(1)
    expect(person.said).to_have_text(re.compile("chat 0"))
    expect(chats(person)).to_have_count(PAGE + 3)


def test_a_new_chat_is_in_the_list_before_it_is_answered(person: Person, chat: FakePage) -> None:
    pen = chat.pen()
    person.say("still being answered")
    expect(named(person, "still being answered")).to_be_visible()
    expect(person.stop_button).to_be_visible()
    pen.write("Yes.")
    pen.end()
    person.wait()


def test_a_title_is_text(person: Person) -> None:
    begin(person, "<img src=x onerror=alert(1)>")
    expect(chats(person)).to_have_text(["<img src=x onerror=alert(1)>"])


def test_on_a_phone_the_side_closes_behind_what_was_chosen(phone: Person) -> None:
    side, page = phone.page.locator("#sidebar.open"), phone.page
    expect(side).to_have_count(0)
    phone.ask("one")
    for choose in (
        lambda: page.locator("#new").click(),
        lambda: named(phone, "one").click(),
        lambda: page.keyboard.press("Escape"),
    ):
        page.get_by_role("button", name="Open the side panel").click()
        expect(side).to_have_count(1)
        page.wait_for_timeout(400)  # it slides
        choose()
        expect(side).to_have_count(0)


# ---------------------------------------------------------------- the keyboard


def focused(person: Person) -> str:
    return str(
        person.page.evaluate(
            "() => { const at = document.activeElement;"
            " return at.getAttribute('aria-label')"
            " || at.textContent.replace('▼', '').trim(); }"
        )
    )


def tab_to(person: Person, name: str, most: int = 25) -> None:
    for _ in range(most):
        person.page.keyboard.press("Tab")
        if focused(person) == name:
            return
    raise AssertionError(f"{name} is not reached; the focus is at {focused(person)}")


def test_everything_beside_the_pane_is_reached_by_keyboard_alone(person: Person) -> None:
    begin(person, "one", "two", "three")
    page = person.page
    person.open()
    page.evaluate("document.activeElement.blur()")
    tab_to(person, "New chat")
    page.keyboard.press("Enter")
    expect(person.said).to_have_count(0)
    page.locator("#new").focus()
    page.keyboard.press("Tab")
    assert "Studio" in str(focused(person))
    page.keyboard.press("Tab")
    assert focused(person) in {"one", "two", "three"}
    page.keyboard.press("Home")
    assert focused(person) == "three"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert focused(person) == "one"
    page.keyboard.press("Enter")
    expect(person.said).to_have_text(re.compile("one"))
    page.locator("#new").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused(person) == "one", "the list is one stop, at the chat that is open"
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    page.keyboard.press("Enter")
    expect(chats(person)).to_have_count(3)
    expect(person.said).to_have_text(re.compile("one"))
    page.locator("#new").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused(person) == "Delete “one”"
    page.keyboard.press("Tab")
    assert focused(person) == "Model", "the other chats are no stops of their own"
    page.keyboard.press("Control+A")
    page.keyboard.type("SmolLM2")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model", exact=True)).to_have_value(re.compile("SmolLM2 135M"))
    tab_to(person, "Instructions and sampling")
    page.keyboard.press("Enter")
    expect(page.locator("#system textarea")).to_be_visible()


def test_a_closed_side_takes_no_focus(person: Person) -> None:
    page = person.page
    page.get_by_role("button", name="Close the side panel").click()
    opener = page.get_by_role("button", name="Open the side panel")
    expect(opener).to_have_attribute("aria-expanded", "false")
    page.wait_for_timeout(400)
    opener.focus()
    inside = "() => Boolean(document.activeElement.closest('#sidebar .sidebar-content'))"
    for _ in range(12):
        page.keyboard.press("Tab")
        assert not page.evaluate(inside), focused(person)


# ---------------------------------------------------------------- models


def test_the_model_menu_tells_task_size_and_state(person: Person) -> None:
    person.ask("hello")
    page = person.page
    menu = page.get_by_role("option")
    loaded = menu.filter(has_text=re.compile(r"SmolLM2 135M · text · 0\.95 GB · loaded"))
    for _ in range(20):  # the state is told with the memory, every two seconds
        page.get_by_label("Model", exact=True).click()
        page.wait_for_timeout(500)
        if loaded.count():
            break
        page.keyboard.press("Escape")
        page.locator("#new").focus()
    assert loaded.count() == 1
    hearing = menu.filter(has_text="Whisper base").inner_text()
    assert re.search(r"Whisper base · speech · 0\.59 GB · (ready|needs \d+ MB download)", hearing)


def test_choosing_models_leaves_no_error_in_the_console(person: Person) -> None:
    told: list[str] = []
    person.page.on("console", lambda m: told.append(m.text) if m.type == "error" else None)
    answers: list[tuple[str, int]] = []
    person.page.on("response", lambda r: answers.append((r.url, r.status)))
    for model in ("SmolLM2 135M", "Whisper base", "Auto", "SmolLM2 135M"):
        person.choose("Model", model)
        person.page.wait_for_timeout(700)
    person.page.locator("#new").click()
    person.page.wait_for_timeout(700)
    assert told == []
    assert [answer for answer in answers if answer[1] >= 400] == []


def test_the_page_speaks_no_command_line(person: Person) -> None:
    page = person.page
    person.unfold("What fits?", "Set of models")
    person.write("Budget", "lots")
    page.keyboard.press("Enter")
    wrong = page.locator(".fit-wrong")
    expect(wrong).to_have_text("“lots” is no size. Write one such as 12GB.")
    assert "--" not in page.locator("#sidebar").inner_text()


# ---------------------------------------------------------------- the first start

HEARD = """() => {
  window.heard = [];
  const status = document.querySelector('#fetch-status[role=status]');
  const live = '[aria-live]:not([aria-live=off]), [role=status], [role=alert], [role=log]';
  new MutationObserver((changes) => {
    for (const { target } of changes) {
      const node = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
      if (node?.closest(live)) window.heard.push(node.closest(live).textContent.trim());
    }
  }).observe(document.body, { childList: true, subtree: true, characterData: true });
  return Boolean(status);
}"""
"""Whatever is read aloud from now on; and whether the place to say it in is there already."""


def test_a_download_is_shown_as_it_goes_and_said_twice(
    person: Person, chat: FakePage, request: pytest.FixtureRequest
) -> None:
    progress, name = chat.program.fetching.progress, "smollm2-135m-instruct"
    request.addfinalizer(progress.clear)
    assert person.page.evaluate(HEARD)
    shown = person.page.locator("#fetching .fetching")
    for done in (10, 20, 30):
        note = "the hub: it does not answer; going on with the package index"
        progress[name] = FetchProgress(name, done * 10**6, 10**8, "fetching", note)
        expect(shown).to_contain_text(f"{done} of 100 MB")
        expect(shown.get_by_text(note)).to_be_visible()
    bar = person.page.get_by_role("progressbar", name=re.compile("SmolLM2 135M"))
    expect(bar).to_have_attribute("value", "30.0")
    assert person.barriers() == []
    progress.clear()
    expect(shown).to_have_count(0)
    person.page.wait_for_function(f"() => window.heard.includes('{FETCH_ENDED}')")
    heard = [said for said in person.page.evaluate("window.heard") if said]
    assert list(dict.fromkeys(heard)) == [FETCH_BEGUN, FETCH_ENDED]


# ---------------------------------------------------------------- for everybody

TATES = ["empty", "answered", "side", "settings", "fits"]
STATES = ["empty", "answered", "side", "settings", "fits"]


def bring(person: Person, state: str) -> None:
    page = person.page
    if state in {"answered", "side"}:
        person.ask("What is photosynthesis?")
    if state in {"side", "settings", "fits"}:
        person.open_side()
    if state == "side":
        page.locator("#conversations .delete").first.click()
        expect(page.get_by_role("button", name="Undo")).to_be_visible()
    elif state == "settings":
        person.unfold("Instructions and sampling", "Instructions")
    elif state == "fits":
        person.unfold("What fits?", "Set of models")
        page.get_by_role("button", name="Work it out").click()
        page.locator("section.fit").wait_for()


@each_look(still(1280), still(390))
@pytest.mark.parametrize("state", STATES)
def test_nothing_of_the_page_keeps_anybody_out(
    browser: Browser, server: FakePage, state: str, look: dict[str, Any]
) -> None:
    width = look["viewport"]["width"]
    with visit(browser, server.url, **look) as person:
        bring(person, state)
        person.page.wait_for_timeout(300)
        assert person.barriers() == []
        targets = "#sidebar :is(button, input, textarea)"
        assert person.small_targets(targets, ".wrap, label") == []
        assert person.page.evaluate("document.documentElement.scrollWidth") <= width
        assert person.page.locator("h1").count() == 1
