"""What a person does faster than the page can follow, and what a slow network does to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from browser import BOX, Person, visit
from conftest import wait_until
from fake_page import FakePage, running_page
from playwright.sync_api import Browser, Error, Route, expect

from multimodal.requests import TextRequest

SENT = re.compile(r"queue/join")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePage]:
    with running_page(tmp_path_factory.mktemp("page"), 20.0) as page:
        yield page


@pytest.fixture
def person(browser: Browser, chat: FakePage) -> Iterator[Person]:
    chat.echo()
    with visit(browser, chat.url) as person:
        yield person


def holds(words: str) -> Callable[[Route], bool]:
    """Whether a request of the page brings these words to the server."""
    return lambda route: words in (route.request.post_data or "")


def open_chat(person: Person, title: str) -> None:
    person.page.locator("#conversations").get_by_text(title).click()


def begin(person: Person, text: str) -> None:
    """A new chat with one answered message."""
    person.page.locator("#new").click()
    expect(person.said).to_have_count(0)
    person.ask(text)


def expect_idle(person: Person) -> None:
    """Nothing is on its way, whether it was asked for before or after the page was opened."""
    idle = person.page.locator("#chat .pane:not(.busy):not(:has(.pending))")
    expect(idle).to_be_visible(timeout=20_000)


def test_a_message_whose_page_was_reloaded_before_it_was_sent_is_there_once(
    person: Person,
) -> None:
    held: list[Route] = []
    is_sent = holds("of no return")

    def hold(route: Route) -> None:
        if is_sent(route):
            held.append(route)  # it never arrives
        else:
            route.continue_()

    person.page.route(SENT, hold)
    person.type("words of no return")
    person.send()
    expect(person.page.locator("#chat .pending")).to_contain_text("words of no return")
    wait_until(lambda: bool(person.page.wait_for_timeout(50)) or len(held) == 1, 10)
    person.page.unroute(SENT)
    person.open()
    expect(person.said).to_have_count(1, timeout=20_000)
    expect(person.replies.last).to_contain_text("of no return", timeout=20_000)
    expect_idle(person)
    expect(person.page.locator(BOX)).to_have_value("")
    person.open()
    expect(person.said).to_have_count(1)
    expect(person.page.locator("#chat .pending")).to_have_count(0)


def test_a_message_whose_receipt_was_lost_is_there_once(person: Person, chat: FakePage) -> None:
    """The server has it, and the page is reloaded before it is told so."""
    pen = chat.pen()
    is_sent = holds("told to nobody")

    def lose(route: Route) -> None:
        if is_sent(route):
            route.fetch()
            with suppress(Error):  # where the page is left before, it is handled by that
                route.abort()
        else:
            route.continue_()

    person.page.route(SENT, lose)
    person.type("told to nobody")
    person.send()
    expect(person.page.locator("#chat .pending")).to_have_count(1)
    wait_until(lambda: chat.source.active == 1, 10)
    person.page.unroute(SENT)
    person.open()
    pen.write("Heard.")
    expect(person.replies.last).to_contain_text("Heard.")
    pen.end()
    expect_idle(person)
    expect(person.said).to_have_count(1)
    expect(person.page.locator(BOX)).to_have_value("")


def test_a_message_that_got_lost_on_its_way_is_sent_again_and_there_once(
    browser: Browser, chat: FakePage
) -> None:
    chat.echo()
    with visit(browser, chat.url) as person:
        person.page.clock.install()
        lost: list[Route] = []
        is_sent = holds("lost on its way")

        def lose(route: Route) -> None:
            if is_sent(route) and not lost:
                lost.append(route)  # the first time it never arrives
            else:
                route.continue_()

        person.page.route(SENT, lose)
        person.type("lost on its way")
        person.send()
        expect(person.page.locator("#chat .pending")).to_have_count(1)
        wait_until(lambda: bool(person.page.wait_for_timeout(50)) or len(lost) == 1, 10)
        person.page.clock.fast_forward(61_000)
        expect(person.said).to_have_count(1, timeout=20_000)
        expect(person.page.locator("#chat .pending")).to_have_count(0)
        expect(person.page.locator(BOX)).to_have_value("")
        expect(person.page.locator("#chat .alert p")).to_have_count(0)
        expect(person.replies.last).to_contain_text("lost on its way")
        person.page.unroute(SENT)


def test_of_two_chats_clicked_one_after_another_the_second_is_shown(person: Person) -> None:
    begin(person, "about apples")
    begin(person, "about pears")
    person.page.locator("#new").click()
    expect(person.said).to_have_count(0)
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
        person.page.locator("#new").click()
        expect(person.said).to_have_count(0)


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
        person.page.locator("#new").click()
        expect(person.said).to_have_count(0)
        person.type(words)
        person.send()
        expect(person.said).to_have_count(1)
        pens[words].write("Well")
        expect(person.replies.last).to_contain_text("Well")
    for turn in range(3):
        for words, pen in pens.items():
            open_chat(person, words)
            expect(person.said.last).to_contain_text(words)
            pen.write(f" and {turn}")
            expect(person.replies.last).to_contain_text(f"and {turn}", timeout=3000)
    for pen in pens.values():
        pen.end()
    person.wait()


def test_a_temperature_out_of_bounds_is_told_at_once_and_stops_no_stop(
    person: Person, chat: FakePage
) -> None:
    pen = chat.pen()
    person.type("hello")
    person.send()
    pen.write("Well ")
    expect(person.replies.last).to_contain_text("Well")
    person.unfold("Instructions and sampling", "Temperature")
    person.page.get_by_label("Temperature", exact=True).fill("3")
    person.stop_button.click()

    def is_over() -> bool:
        pen.write("and ")
        return not person.stop_button.is_visible()

    wait_until(is_over, 10)
    person.type("and now?")
    person.send()
    told = person.page.locator("#chat .alert p")
    expect(told).to_contain_text("3 cannot be used as the temperature", timeout=2000)
    expect(person.page.locator(BOX)).to_have_value("and now?")
    expect(person.said).to_have_count(1)
    person.do("Take back")
    expect(person.said).to_have_count(0)
    expect(person.page.locator(BOX)).to_have_value("hello\nand now?")


def test_what_is_set_for_a_chat_is_there_after_a_look_at_another(person: Person) -> None:
    begin(person, "about apples")
    begin(person, "about pears")
    person.unfold("Instructions and sampling", "Temperature")
    person.write("Instructions", "You are a pirate.")
    open_chat(person, "about apples")
    expect(person.said.last).to_contain_text("about apples")
    instructions = person.page.locator("#system textarea")
    expect(instructions).to_have_value("")
    open_chat(person, "about pears")
    expect(instructions).to_have_value("You are a pirate.")
    person.page.locator(BOX).focus()
    person.open()
    person.unfold("Instructions and sampling", "Temperature")
    expect(instructions).to_have_value("You are a pirate.")
