"""Speech into the box: what is recorded is written down and can be edited before it is sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import LAPTOP, PHONE, Person, visit
from fake_page import FakePage, running_page
from playwright.sync_api import Browser, expect


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePage]:
    with running_page(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def person(browser: Browser, page: FakePage, request: pytest.FixtureRequest) -> Iterator[Person]:
    with visit(browser, page.url, **request.param) as person:
        yield person


def dictate(person: Person) -> None:
    person.record()
    person.page.get_by_role("button", name="Write down").click()


def test_what_is_said_is_written_behind_what_was_typed(person: Person, page: FakePage) -> None:
    page.source.transcript = "and a cup of tea"
    person.type("Bring me a cake")
    dictate(person)
    expect(person.box).to_have_value("Bring me a cake and a cup of tea")
    expect(person.said).to_have_count(0)
    expect(person.attachments).to_have_count(0)
    expect(person.box).to_be_focused()
    person.page.keyboard.type(", please")
    person.send()
    person.wait()
    expect(person.page.locator(".message.user .body")).to_have_text(
        "Bring me a cake and a cup of tea, please"
    )


def test_what_cannot_be_written_down_is_attached(person: Person, page: FakePage) -> None:
    page.source.transcript = ""
    dictate(person)
    expect(person.attachments).to_have_count(1)
    expect(person.page.get_by_role("alert").first).to_contain_text("No speech was heard")
    expect(person.box).to_have_value("")


@pytest.mark.parametrize("how", ["key", pytest.param("button", marks=pytest.mark.thorough)])
def test_writing_down_can_be_cancelled(person: Person, page: FakePage, how: str) -> None:
    page.source.gate.clear()  # the model that hears never comes
    dictate(person)
    shown = person.page.locator("#composer .dictating")
    expect(shown).to_be_visible()
    assert person.barriers() == []
    if how == "key":
        person.page.keyboard.press("Escape")
    else:
        person.page.get_by_role("button", name="Cancel").click()
    expect(shown).to_be_hidden()
    page.source.gate.set()
    page.source.transcript = "the second one"
    dictate(person)
    expect(person.box).to_have_value("the second one")


def test_words_go_to_the_chat_they_were_said_in(person: Person, page: FakePage) -> None:
    person.ask("First chat")
    page.source.transcript = "meant for the first"
    page.source.gate.clear()
    dictate(person)
    person.open_side()
    person.new_chat()
    page.source.gate.set()
    expect(person.page.locator("#composer .dictating")).to_be_hidden()
    expect(person.box).to_have_value("")
    person.open_side()
    person.page.locator("#conversations .open").first.click()
    expect(person.box).to_have_value("meant for the first")
