"""Speech into the box: what is recorded is written down and can be edited before it is sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import BOX, Person, visit
from fake_page import FakePage, running_page
from playwright.sync_api import Browser, expect

WRITTEN_MS = 30_000
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePage]:
    with running_page(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(params=[{"width": 1280, "height": 800}, PHONE], ids=["laptop", "phone"])
def person(browser: Browser, page: FakePage, request: pytest.FixtureRequest) -> Iterator[Person]:
    with visit(browser, page.url, viewport=request.param) as person:
        yield person


def dictate(person: Person) -> None:
    page = person.page
    page.get_by_role("button", name="Record your voice").click()
    expect(page.locator("#composer .elapsed")).not_to_have_text("0:00")
    page.get_by_role("button", name="Write down").click()


def test_what_is_said_is_written_behind_what_was_typed(person: Person, page: FakePage) -> None:
    page.source.transcript = "and a cup of tea"
    person.type("Bring me a cake")
    dictate(person)
    expect(person.page.locator(BOX)).to_have_value(
        "Bring me a cake and a cup of tea", timeout=WRITTEN_MS
    )
    expect(person.said).to_have_count(0)
    expect(person.attachments).to_have_count(0)
    expect(person.page.locator(BOX)).to_be_focused()
    person.page.keyboard.type(", please")
    person.send()
    person.wait()
    expect(person.page.locator(".message.user .body")).to_have_text(
        "Bring me a cake and a cup of tea, please"
    )


def test_what_cannot_be_written_down_is_attached(person: Person, page: FakePage) -> None:
    page.source.transcript = ""
    dictate(person)
    expect(person.attachments).to_have_count(1, timeout=WRITTEN_MS)
    expect(person.page.get_by_role("alert").first).to_contain_text("No speech was heard")
    expect(person.page.locator(BOX)).to_have_value("")


@pytest.mark.parametrize("how", ["key", "button"])
def test_writing_down_can_be_cancelled(person: Person, page: FakePage, how: str) -> None:
    page.source.gate.clear()  # the model that hears never comes
    dictate(person)
    shown = person.page.locator("#composer .dictating")
    expect(shown).to_be_visible()
    found = Axe().run(person.page, options={"runOnly": ["wcag2a", "wcag2aa"]})
    assert [rule["id"] for rule in found.response["violations"]] == []
    if how == "key":
        person.page.keyboard.press("Escape")
    else:
        person.page.get_by_role("button", name="Cancel").click()
    expect(shown).to_be_hidden()
    page.source.gate.set()
    page.source.transcript = "the second one"
    dictate(person)
    expect(person.page.locator(BOX)).to_have_value("the second one", timeout=WRITTEN_MS)


def test_words_go_to_the_chat_they_were_said_in(person: Person, page: FakePage) -> None:
    person.ask("First chat")
    page.source.transcript = "meant for the first"
    page.source.gate.clear()
    dictate(person)
    if (person.page.viewport_size or PHONE)["width"] < 768:
        person.page.get_by_role("button", name="Open the side panel").click()
    person.page.locator("#new").click()
    expect(person.said).to_have_count(0)
    page.source.gate.set()
    expect(person.page.locator("#composer .dictating")).to_be_hidden(timeout=WRITTEN_MS)
    expect(person.page.locator(BOX)).to_have_value("")
    if (person.page.viewport_size or PHONE)["width"] < 768:
        person.page.get_by_role("button", name="Open the side panel").click()
    person.page.locator("#conversations .open").first.click()
    expect(person.page.locator(BOX)).to_have_value("meant for the first")
