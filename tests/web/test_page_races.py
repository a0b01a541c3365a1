"""What a person does faster than the page can follow, and what a slow network does to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from browser import Person
from conftest import wait_until
from fake_page import FakePage
from playwright.sync_api import Error, Route, expect

from multimodal.requests import TextRequest


def send_and_lose(
    person: Person, words: str, lose: Callable[[Route], None] = lambda route: None
) -> None:
    """Send a message whose first request is lost: it never arrives, or as `lose` says."""
    lost: list[Route] = []

    def take(route: Route) -> None:
        if lost or words not in (route.request.post_data or ""):
            route.continue_()
        else:
            lost.append(route)
            lose(route)

    person.page.route("**/queue/join*", take)
    with person.page.expect_request(lambda asked: words in (asked.post_data or "")):
        person.say(words)
    expect(person.page.locator("#chat .pending")).to_contain_text(words)


def expect_idle(person: Person) -> None:
    """Nothing is on its way, whether it was asked for before or after the page was opened."""
    idle = person.page.locator("#chat .pane:not(.busy):not(:has(.pending))")
    expect(idle).to_be_visible()


def test_a_message_whose_page_was_reloaded_before_it_was_sent_is_there_once(
    person: Person,
) -> None:
    send_and_lose(person, "words of no return")
    person.open()
    expect(person.said).to_have_count(1)
    expect(person.replies.last).to_contain_text("of no return")
    expect_idle(person)
    expect(person.box).to_have_value("")
    person.open()
    expect(person.said).to_have_count(1)
    expect(person.page.locator("#chat .pending")).to_have_count(0)


def test_a_message_whose_receipt_was_lost_is_there_once(person: Person, chat: FakePage) -> None:
    """The server has it, and the page is reloaded before it is told so."""
    pen = chat.pen()

    def lose(route: Route) -> None:
        route.fetch()
        with suppress(Error):  # where the page is left before, it is handled by that
            route.abort()

    send_and_lose(person, "told to nobody", lose)
    wait_until(lambda: chat.source.active == 1)
    person.open()
    pen.write("Heard.")
    expect(person.replies.last).to_contain_text("Heard.")
    pen.end()
    expect_idle(person)
    expect(person.said).to_have_count(1)
    expect(person.box).to_have_value("")


def test_a_message_that_got_lost_on_its_way_is_sent_again_and_there_once(
    person: Person,
) -> None:
    person.page.clock.install()
    send_and_lose(person, "lost on its way")
    person.page.clock.fast_forward(61_000)
    expect(person.said).to_have_count(1)
    expect(person.page.locator("#chat .pending")).to_have_count(0)
    expect(person.box).to_have_value("")
    expect(person.page.locator("#chat .alert p")).to_have_count(0)
    expect(person.replies.last).to_contain_text("lost on its way")


def test_of_two_chats_clicked_one_after_another_the_second_is_shown(person: Person) -> None:
    person.ask("about apples")
    person.new_chat()
    person.ask("about pears")
    person.new_chat()
    for _ in range(3):
        person.page.evaluate(
            """() => {
            const find = words => [...document.querySelectorAll('#conversations .open')]
                .find(node => node.textContent.includes(words));
            find('about apples').click();
            find('about pears').click();
            }"""
        )
        person.page.wait_for_timeout(700)
        expect(person.said.last).to_contain_text("about pears")
        person.new_chat()


def test_of_two_chats_that_are_answered_each_grows_while_it_is_looked_at(
    person: Person, chat: FakePage
) -> None:
    pens = {"about apples": chat.pen(), "about pears": chat.pen()}

    def script(request: TextRequest) -> object:
        return next(pen for words, pen in pens.items() if words in request.messages[-1].text)(
            request
        )

    chat.source.script = script
    for words in pens:
        person.new_chat()
        person.say(words)
        expect(person.said).to_have_count(1)
        pens[words].write("Well")
        expect(person.replies.last).to_contain_text("Well")
    for turn in range(3):
        for words, pen in pens.items():
            person.open_chat(words)
            pen.write(f" and {turn}")
            expect(person.replies.last).to_contain_text(f"and {turn}")
    for pen in pens.values():
        pen.end()
    person.wait()


def test_a_temperature_out_of_bounds_is_told_at_once_and_stops_no_stop(
    person: Person, chat: FakePage
) -> None:
    pen = chat.begin_answer(person, "hello", "Well ")
    person.unfold("Instructions and sampling", "Temperature")
    person.page.get_by_label("Temperature", exact=True).fill("3")
    person.stop_button.click()
    pen.write_until(lambda: not person.stop_button.is_visible())
    person.say("and now?")
    assert "3 cannot be used as the temperature" in person.complaint()
    expect(person.box).to_have_value("and now?")
    expect(person.said).to_have_count(1)
    person.do("Take back")
    expect(person.said).to_have_count(0)
    expect(person.box).to_have_value("hello\nand now?")


def test_what_is_set_for_a_chat_is_there_after_a_look_at_another(person: Person) -> None:
    person.ask("about apples")
    person.new_chat()
    person.ask("about pears")
    person.unfold("Instructions and sampling", "Temperature")
    person.write("Instructions", "You are a pirate.")
    person.open_chat("about apples")
    instructions = person.page.locator("#system textarea")
    expect(instructions).to_have_value("")
    person.open_chat("about pears")
    expect(instructions).to_have_value("You are a pirate.")
    person.box.focus()
    person.open()
    person.unfold("Instructions and sampling", "Temperature")
    expect(instructions).to_have_value("You are a pirate.")
