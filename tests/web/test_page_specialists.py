"""Specialists on the page: tiny random models answer as the large ones would, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Person, visit
from conftest import running_app
from PIL import Image
from playwright.sync_api import Browser
from tiny_specialists import BUDGET, save_specialists

ONE_AT_A_TIME = "1.4MB"
"""Room for one of the models and what it computes; not for two."""


@pytest.fixture(scope="module")
def person(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    data = tmp_path_factory.mktemp("data")
    save_specialists(data)
    device = ("--device", f"sim:{BUDGET}", "--budget", ONE_AT_A_TIME)
    with (
        running_app(data, "--profile", "tiny", *device) as server,
        visit(browser, server.url) as person,
    ):
        yield person


def test_a_picture_goes_to_the_model_that_sees_and_words_to_the_one_that_writes(
    person: Person, tmp_path: Path
) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    assert person.ask("What is this?", tmp_path / "red.png")
    assert "Tiny-llava" in person.routes.last.inner_text()
    assert person.ask("Tell me about rivers.")
    assert "Tiny-mistral" in person.routes.last.inner_text()
    assert "Tiny-llava" in person.route(), "the route card says who had to go"
    assert not person.faults


def test_another_model_may_be_asked_to_do_it_again(person: Person) -> None:
    person.page.get_by_text("Redo with Tiny-gpt2").click()
    person.wait()
    assert "Tiny-gpt2" in person.routes.last.inner_text()


def test_what_fits_is_worked_out_for_a_set_of_ones_own(person: Person) -> None:
    person.unfold("What fits?", "Models")
    person.field("Models").fill("Phi-2")
    person.page.get_by_role("option", name="Phi-2", exact=True).click()
    person.write("Budget", "12GB")
    person.page.locator("#fit-ask").click()
    told = person.page.locator("#fit-told .fit")
    told.wait_for()
    assert "Phi-2" in told.inner_text()
    assert "Fits together" in told.inner_text()
