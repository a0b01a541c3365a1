"""Fine-tuned models in the model menu of every open tab."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Person, visit
from fake_page import FakePage, running_page
from job_results import adapter_job
from playwright.sync_api import Browser, Locator, expect
from tiny_text_gguf import TEXT_MODELS

from multimodal.studio.folder import JobFolder
from multimodal.studio.results import install, uninstall
from multimodal.web.presence import TICK_S

SMOLLM = "smollm2-135m-instruct"
LATER_MS = 15_000
"""For the next tick of a page on a busy machine."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[FakePage]:
    with running_page(tmp_path) as page:
        yield page


@pytest.fixture
def cats(page: FakePage) -> JobFolder:
    jobs = page.program.settings.jobs_folder
    return adapter_job(jobs, "cats", TEXT_MODELS["llama"], SMOLLM)


def menu(person: Person) -> Locator:
    return person.page.get_by_label("Model", exact=True)


def option(person: Person) -> Locator:
    return person.page.get_by_role("option").filter(has_text="SmolLM2 135M + cats · text")


def shows(person: Person, count: int) -> None:
    """Look into the menu, which is told of changes with the next tick, until the model is there."""
    for _ in range(5):
        person.page.wait_for_timeout(1500 * TICK_S)
        menu(person).click()
        found = option(person).count()
        person.page.keyboard.press("Escape")
        person.page.locator("#new").focus()
        if found == count:
            return
    raise AssertionError(f"the model is not there {count} times")


def test_one_is_offered_in_every_tab_answers_and_leaves_every_tab(
    browser: Browser, page: FakePage, cats: JobFolder
) -> None:
    with visit(browser, page.url) as one, visit(browser, page.url) as other:
        one.ask("Hello")
        install(page.program, cats)
        for person in (one, other):
            shows(person, 1)
        one.choose("Model", "SmolLM2 135M + cats")
        assert one.ask("Hello again").strip()
        assert page.source.loaded == [SMOLLM, "cats"]
        one.page.locator("#chat summary").last.click()
        expect(one.page.locator("#chat details").last).to_contain_text("SmolLM2 135M + cats")
        expect(one.page.locator("#chat details").last).to_contain_text("loaded anew")
        uninstall(page.program, "cats")
        expect(menu(one)).to_have_value(re.compile("^Auto"), timeout=LATER_MS)
        for person in (one, other):
            shows(person, 0)
        assert one.ask("And now?").strip(), "the conversation goes on"
        assert other.ask("Hello").strip()


def test_a_conversation_that_is_opened_brings_its_model_along(
    browser: Browser, page: FakePage, cats: JobFolder
) -> None:
    """A tab that knew of no such model when it was opened may send at once."""
    with visit(browser, page.url) as one:
        install(page.program, cats)
        shows(one, 1)
        one.choose("Model", "SmolLM2 135M + cats")
        one.ask("What is a cat?")
        one.open()
        expect(menu(one)).to_have_value(re.compile(r"SmolLM2 135M \+ cats"))
        assert one.ask("And a dog?").strip()
        assert page.source.requests[-1].messages[-1].text == "And a dog?"
        assert page.source.loaded == ["cats"]
