"""Thumbs and versions in a real browser: by mouse, by keyboard, by touch, and after a reload."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from browser import BOX, Person, place_of, visit
from fake_page import FakePage
from playwright.sync_api import Browser, Locator, expect
from text_requests import turns_of

from multimodal.errors import BackendError

LONG = "\n\n".join(f"Reason {number} is a long one." for number in range(30))


def thumb(answer: Locator, name: str) -> Locator:
    return answer.get_by_role("button", name=name)


def versions(answer: Locator) -> Locator:
    return answer.get_by_role("group", name="Versions of this answer")


def turn(answer: Locator, way: str) -> Locator:
    return answer.get_by_role("button", name=f"{way} version")


def redo(person: Person, chat: FakePage, text: str) -> None:
    chat.say(text)
    person.do("Answer again")
    person.wait()


def rated(answer: Locator) -> list[bool]:
    """Whether each thumb is pressed, the one that points up first."""
    return [
        thumb(answer, name).get_attribute("aria-pressed") == "true"
        for name in ("Good answer", "Bad answer")
    ]


@pytest.fixture
def answer(person: Person, chat: FakePage) -> Locator:
    """The newest answer, which has two versions."""
    chat.say("An apple.")
    person.ask("Name a fruit.")
    redo(person, chat, "A pear.")
    return person.answers.last


# ---------------------------------------------------------------- thumbs


def test_thumbs_are_given_changed_and_taken_off_and_are_there_after_a_reload(
    person: Person,
) -> None:
    person.ask("Name a fruit.")
    answer = person.answers.last
    up, down = thumb(answer, "Good answer"), thumb(answer, "Bad answer")
    assert rated(answer) == [False, False]
    for pressed, shown in ((up, [True, False]), (down, [False, True]), (down, [False, False])):
        person.do(pressed.get_attribute("aria-label") or "")
        person.wait()
        assert rated(answer) == shown
        person.open()
        expect(answer).to_contain_text("Name a fruit.")
        assert rated(answer) == shown


def test_thumbs_are_given_by_keyboard_and_keep_the_focus(person: Person) -> None:
    person.ask("Name a fruit.")
    answer = person.answers.last
    person.page.focus(BOX)
    for _ in range(20):
        person.page.keyboard.press("Shift+Tab")
        if thumb(answer, "Good answer").evaluate("button => button === document.activeElement"):
            break
    up = thumb(answer, "Good answer")
    expect(up).to_be_focused()
    for key, pressed in (("Enter", "true"), ("Space", "false"), ("Space", "true")):
        person.page.keyboard.press(key)
        person.wait()
        expect(up).to_have_attribute("aria-pressed", pressed)
        expect(up).to_be_focused()
    person.open()
    assert rated(answer) == [True, False]


def test_an_early_answer_is_rated_while_another_is_written_and_says_so_unasked(
    person: Person, chat: FakePage
) -> None:
    person.ask("Name a fruit.")
    pen = chat.begin_answer(person, "And another?", "Well")
    early = person.answers.first
    early.hover()
    thumb(early, "Good answer").click()
    pen.write(" then")
    expect(person.replies.last).to_contain_text("then")
    expect(thumb(person.answers.last, "Good answer")).to_be_hidden()
    pen.end()
    person.wait()
    assert rated(early) == [True, False]
    person.page.focus(BOX)
    person.page.mouse.move(5, 5)
    expect(thumb(early, "Good answer")).to_have_css("opacity", "1")
    expect(thumb(early, "Bad answer")).to_have_css("opacity", "0")


def test_what_has_nothing_to_show_has_no_thumbs(person: Person, chat: FakePage) -> None:
    chat.source.script = lambda request: [BackendError("The engine is out of paper.")]
    person.ask("Name a fruit.")
    expect(person.answers.last).to_contain_text("out of paper")
    expect(thumb(person.answers.last, "Good answer")).to_be_hidden()
    expect(thumb(person.answers.last, "Bad answer")).to_be_hidden()


def test_a_thumb_that_cannot_be_kept_is_let_go_again(person: Person, chat: FakePage) -> None:
    person.ask("Name a fruit.")
    database = chat.program.settings.data / "conversations.sqlite3"
    for before, after in (("versions", "elsewhere"), ("elsewhere", "versions")):
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(f"ALTER TABLE {before} RENAME TO {after}")
        if after == "elsewhere":
            person.do("Good answer")
            assert "cannot be reached" in person.complaint()
            assert rated(person.answers.last) == [False, False]
    person.do("Good answer")
    person.wait()
    assert rated(person.answers.last) == [True, False]


# ---------------------------------------------------------------- versions


def test_both_answers_of_a_redo_are_there_and_the_chosen_one_is_read_later(
    person: Person, chat: FakePage, answer: Locator
) -> None:
    expect(versions(answer)).to_contain_text("2/2")
    assert person.reply() == "A pear."
    person.do("Previous version")
    expect(versions(answer)).to_contain_text("1/2")
    assert person.reply() == "An apple."
    person.open()
    expect(versions(answer)).to_contain_text("1/2")
    assert person.reply() == "An apple."
    person.ask("And why?")
    assert turns_of(chat.source.requests[-1])[1] == ("assistant", "An apple.")
    early = person.answers.first
    expect(versions(early)).to_be_visible()
    turn(early, "Next").click()
    expect(early).to_contain_text("A pear.")
    expect(person.said).to_have_count(2)
    person.ask("And now?")
    assert turns_of(chat.source.requests[-1])[1] == ("assistant", "A pear.")


def test_each_version_has_its_own_thumb_and_its_own_route_card(
    person: Person, chat: FakePage, answer: Locator
) -> None:
    person.do("Bad answer")
    person.wait()
    chat.say("A plum.")
    person.do("Redo with Qwen2.5 Coder 0.5B")
    person.wait()
    expect(versions(answer)).to_contain_text("3/3")
    assert rated(answer) == [False, False]
    assert "Qwen2.5 Coder 0.5B" in person.route()
    person.do("Previous version")
    expect(versions(answer)).to_contain_text("2/3")
    assert rated(answer) == [False, True]
    assert "SmolLM2 135M" in person.route()
    person.open()
    assert rated(answer) == [False, True]


def test_versions_are_turned_by_keyboard_and_the_focus_stays(
    person: Person, answer: Locator
) -> None:
    previous, following = turn(answer, "Previous"), turn(answer, "Next")
    previous.focus()
    person.page.keyboard.press("Enter")
    expect(versions(answer)).to_contain_text("1/2")
    expect(previous).to_be_focused()
    expect(previous).to_have_attribute("aria-disabled", "true")
    expect(person.page.locator("#chat .status")).to_have_text("Version 1 of 2")
    person.page.keyboard.press("Enter")  # there is none before the first
    person.page.keyboard.press("Tab")
    expect(following).to_be_focused()
    person.page.keyboard.press("Space")
    expect(versions(answer)).to_contain_text("2/2")
    expect(following).to_be_focused()
    assert person.reply() == "A pear."
    assert person.page.locator("#chat .alert").inner_text() == ""


def test_what_is_pressed_stays_under_the_pointer(person: Person, chat: FakePage) -> None:
    chat.say(LONG)
    person.ask("Why?")
    chat.say("Because.")
    person.ask("And why that?")
    redo(person, chat, LONG)
    person.ask("And why else?")
    middle = person.answers.nth(1)
    middle.hover()
    person.page.mouse.wheel(0, -1)
    turn(middle, "Previous").evaluate("button => button.scrollIntoView({ block: 'center' })")
    for way, place in (("Previous", "1/2"), ("Next", "2/2")):
        before = place_of(turn(middle, way))
        turn(middle, way).click()
        expect(versions(middle)).to_contain_text(place)
        person.page.wait_for_timeout(300)
        assert abs(place_of(turn(middle, way))["y"] - before["y"]) <= 2


def test_a_redo_that_is_stopped_at_once_gives_the_answer_back(
    person: Person, chat: FakePage, answer: Locator
) -> None:
    pen, pane = chat.pen(), person.page.locator("#chat .pane")
    person.do("Answer again")
    person.stop_button.wait_for()
    told = pane.get_attribute("data-receipts") or ""
    person.stop_button.click()
    expect(pane).not_to_have_attribute("data-receipts", told)  # the server knows
    pen.end()
    person.wait()
    expect(versions(answer)).to_contain_text("2/2")
    assert person.reply() == "A pear."


def test_a_redo_that_fails_says_why_and_the_answers_before_are_a_press_away(
    person: Person, chat: FakePage, answer: Locator
) -> None:
    chat.source.script = lambda request: [BackendError("The engine is out of paper.")]
    person.do("Answer again")
    person.wait()
    assert person.reply() == "The engine is out of paper."
    expect(versions(answer)).to_contain_text("3/3")
    person.do("Previous version")
    expect(versions(answer)).to_contain_text("2/2")
    assert person.reply() == "A pear."


def test_on_a_phone_versions_and_thumbs_are_tapped(browser: Browser, server: FakePage) -> None:
    look = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with visit(browser, server.url, **look) as person:
        server.say("An apple.")
        person.ask("Name a fruit.")
        redo(person, server, "A pear.")
        answer = person.answers.last
        turn(answer, "Previous").tap()
        expect(versions(answer)).to_contain_text("1/2")
        thumb(answer, "Bad answer").tap()
        expect(thumb(answer, "Bad answer")).to_have_attribute("aria-pressed", "true")
        row = answer.locator(".actions")
        assert place_of(row)["height"] < 60, "it is one line"
        for button in row.get_by_role("button").all():
            place = place_of(button)
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= 390
            assert min(place["width"], place["height"]) >= 36
