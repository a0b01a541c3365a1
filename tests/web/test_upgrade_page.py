"""Better models that come behind the first ones, as a person sees them and decides about them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import LAPTOP, PHONE, Person, visit
from fake_page import FakePage, running_page
from fakes import Shelf, write_ladder
from playwright.sync_api import Browser, expect

from multimodal.messages import Task
from multimodal.web.gauge import UPGRADE_BEGUN


@dataclass(frozen=True)
class Place:
    page: FakePage
    shelf: Shelf


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    write_ladder(tmp_path / "models")
    shelf = Shelf(["small"])
    with running_page(
        tmp_path, weights=shelf, models=tmp_path / "models", profile="mine", upgrade=True
    ) as page:
        yield Place(page, shelf)


def rung(person: Person) -> str:
    return person.page.locator("#rung .rung").inner_text()


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_a_press_declines_what_is_being_fetched(
    browser: Browser, place: Place, size: dict[str, Any]
) -> None:
    place.shelf.waits = threading.Event()
    work = threading.Thread(target=place.page.program.upgrades.run)
    with visit(browser, place.page.url, **size) as person:
        work.start()
        shown = person.page.locator("#fetching .fetching")
        expect(shown).to_contain_text(UPGRADE_BEGUN)
        expect(shown).to_contain_text("Large (MIT)")
        person.ask("Hello while it comes")
        expect(person.said.last).to_contain_text("Hello while it comes")
        assert person.barriers() == []
        person.page.get_by_role("button", name="Stay with Small").first.click()
        expect(shown).to_have_count(0)
        work.join(60)
        assert place.page.program.upgrades.declined == {Task.TEXT}
        assert place.shelf.fetched == []


def test_one_that_was_declined_can_be_had_later_and_takes_over(
    browser: Browser, place: Place
) -> None:
    upgrades = place.page.program.upgrades
    upgrades.decline(Task.TEXT)
    with visit(browser, place.page.url) as person:
        person.ask("Who are you?")
        get = person.page.get_by_role("button", name=re.compile(r"Get Large \(MIT"))
        expect(get).to_be_visible()
        get.click()
        expect(person.page.locator("#rung")).to_contain_text("Large")
        expect(person.page.locator("#rung")).to_contain_text("tokens a second")
        person.ask("And now?")
        person.page.locator("#chat summary").last.click()
        card = person.page.locator("#chat details").last
        expect(card).to_contain_text("It took over from Small")
        back = person.page.get_by_role("button", name="Stay with Small").last
        expect(back).to_be_visible()
        back.click()
        expect(get).to_be_visible()
        assert place.page.program.defaults.name(Task.TEXT) == "small"


def test_why_a_better_one_is_passed_over_stands_on_the_page(browser: Browser, place: Place) -> None:
    place.shelf.absent["large"] = "Large has no weights yet: nobody answers."
    place.page.program.upgrades.run()
    with visit(browser, place.page.url) as person:
        expect(person.page.locator("#rung")).to_contain_text("cannot be fetched")
        assert "Middle" in rung(person)
