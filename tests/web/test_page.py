"""The page as people use it: a real browser, the real app, the real embedded models."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2 as httpx
import pytest
from browser import BOX, Person, place_of, visit
from conftest import Server, running_app, wait_until
from PIL import Image
from playwright.sync_api import Browser, Locator

from multimodal.web.launch import GRACE_S


@pytest.fixture
def server(app: Server) -> Server:
    return app


def test_a_question_in_words_streams_an_answer_with_its_route(person: Person) -> None:
    person.say("What is photosynthesis?")
    person.replies.last.wait_for()
    lengths = set()
    while person.stop_button.is_visible():
        lengths.add(len(person.reply()))
    assert len(lengths) > 3, "the answer came in one piece"
    assert "plants" in person.reply().lower()
    assert "SmolLM2" in person.routes.last.inner_text()


def test_an_example_is_asked_with_one_click(browser: Browser, app: Server) -> None:
    for _ in range(2):
        with visit(browser, app.url) as person:
            person.page.locator("#chat .examples button").nth(1).click()
            person.wait()
            assert "cat" in person.reply()


def test_what_another_person_sends_too_is_not_lost(
    browser: Browser, app: Server, examples: Path
) -> None:
    picture = examples / "chelsea.jpg"
    with visit(browser, app.url) as waiting, visit(browser, app.url) as quick:
        waiting.attach(picture)
        quick.ask("What is this?", picture)
        assert "cat" in waiting.ask("What is this?")
        shown = waiting.said.locator("img").first
        assert shown.evaluate("image => image.complete && image.naturalWidth") > 0
        assert app.data.as_posix() not in waiting.page.content(), "no folder of the server is shown"


def test_what_fits_is_worked_out_before_a_model_is_chosen(person: Person) -> None:
    page = person.page
    person.unfold("What fits?", "Set of models")
    person.choose("Set of models", "One GPU of 12 GB")
    person.write("Budget", "24GB")
    page.keyboard.press("Enter")
    told = page.locator("section.fit").inner_text()
    for words in ("Fits together", "Mistral 7B", "+2.66 GB in use", "QLoRA"):
        assert words in told
    person.choose("Set of models", "Embedded")
    page.get_by_role("button", name="Work it out").click()
    told = page.locator("section.fit")
    told.get_by_text("SmolLM2 135M").first.wait_for()
    told.get_by_text("Fine-tuning SmolLM2 135M on it").wait_for()


@pytest.mark.thorough
def test_a_simulated_card_says_so_and_keeps_what_leaves(
    browser: Browser, all_weights: Path, tmp_path: Path, examples: Path
) -> None:
    with (
        running_app(tmp_path, "--device", "sim:2GB", "--budget", "1.5GB") as app,
        visit(browser, app.url) as person,
    ):
        person.ask("What is photosynthesis?")
        person.ask("What is this?", examples / "chelsea.jpg")
        gauge = person.page.locator("#gauge")
        gauge.get_by_text("so SmolLM2 135M left").wait_for()
        told = gauge.inner_text()
        for words in ("Simulated 2 GB card", "This card is simulated", "with their real weights"):
            assert words in told
        assert httpx.get(f"{app.url}/health").json()["simulated"] is True
        assert "kept in host memory" in told
        person.ask("What is gravity?")
        restored = re.compile(r"restored in 0\.0\d s \(25\.0 GB/s\)")  # the simulated bus
        gauge.get_by_text(restored).wait_for()


def test_a_later_question_goes_back_to_the_picture(person: Person, examples: Path) -> None:
    person.ask("What is this?", examples / "chelsea.jpg")
    assert "brown" in person.ask("Which colours does it have?")
    assert "Picture describer" in person.routes.last.inner_text()
    person.ask("What is photosynthesis?")
    assert "Picture describer" not in person.routes.last.inner_text()


def test_the_route_of_an_answer_stays_when_another_answer_follows(
    person: Person, examples: Path
) -> None:
    person.ask("What is in this picture?", examples / "chelsea.jpg")
    before = person.routes.last.inner_text()
    assert "Picture describer" in before
    person.ask("", examples / "question-en.wav")
    assert person.routes.nth(person.routes.count() - 2).inner_text() == before


def test_a_spoken_question_is_shown_in_words_and_answered(person: Person, examples: Path) -> None:
    reply = person.ask("", examples / "speech-en.wav")
    assert "The sun rises in the east" in person.said.last.inner_text()
    assert reply
    assert "Whisper base" in person.routes.last.inner_text()


def test_a_question_spoken_in_french_is_translated_and_answered(
    person: Person, examples: Path
) -> None:
    reply = person.ask("", examples / "question-fr.wav")
    card = person.route()
    assert "Heard (French)" in card
    assert "In English:" in card
    assert len(reply) > 20


def test_the_microphone_records_and_sends_with_two_presses(person: Person) -> None:
    page = person.page
    page.get_by_role("button", name="Record your voice").click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="End the recording and send it").click()
    person.wait()
    assert "I heard no speech" in person.reply(), "Chromium's fake microphone only beeps"


def test_stop_ends_the_answer_at_the_next_word(person: Person) -> None:
    person.say("Tell me a very long story about a dragon and a princess.")
    person.replies.last.wait_for()
    pane = person.page.locator("#chat .pane")
    before = pane.get_attribute("data-receipts")
    person.stop_button.click()
    stopped = person.page.wait_for_function(
        """before => {
        const pane = document.querySelector('#chat .pane');
        const body = [...pane.querySelectorAll('.message.assistant > .body')].at(-1);
        return pane.dataset.receipts !== before && body.textContent; }""",
        arg=before,
    )
    heard = len(str(stopped.json_value()).split())
    person.wait()
    assert "Stopped." in person.reply()
    assert len(person.replies.last.inner_text().split()) <= heard + 5, "words after it was stopped"


def test_a_closed_tab_frees_the_engine_after_its_grace(browser: Browser, app: Server) -> None:
    with visit(browser, app.url) as leaving:
        leaving.say("Count from one to five hundred in words.")
        leaving.replies.last.wait_for()
        assert _leases(app) == 1
    wait_until(lambda: _leases(app) == 0, GRACE_S + 60)


def test_retry_edit_and_take_back(person: Person) -> None:
    person.ask("Say the word apple.")
    person.do("Answer again")
    person.wait()
    assert person.said.count() == 1
    person.do("Edit")
    person.page.get_by_label("Edit the message").fill("What is the capital of France?")
    person.page.locator("#chat .editor").get_by_role("button", name="Send").click()
    person.wait()
    assert words(person.said.last) == "What is the capital of France?"
    person.do("Take back")
    wait_until(lambda: person.said.count() == 0)
    assert person.page.input_value(BOX) == "What is the capital of France?"


def test_redo_with_another_model(person: Person, examples: Path) -> None:
    person.ask("What is this?", examples / "chelsea.jpg")
    person.page.get_by_text("Redo with SmolLM2 135M").click()
    person.wait()
    assert "Picture describer → SmolLM2 135M" in person.routes.last.inner_text()


def test_two_people_never_see_each_others_conversations(browser: Browser, app: Server) -> None:
    with visit(browser, app.url) as first, visit(browser, app.url) as second:
        first.ask("My secret word is xylophone.")
        second.open()
        assert "xylophone" not in second.page.content()
        first.open()
        first.said.last.wait_for()
        assert "xylophone" in first.page.content()


def test_an_empty_message_is_refused_in_words_and_hides_nothing(person: Person) -> None:
    person.ask("What is photosynthesis?")
    person.say("   ")
    assert "The message is empty" in person.complaint()
    spot = place_of(person.replies.first)
    on_top = "([x, y]) => !!document.elementFromPoint(x, y).closest('#chat .message')"
    beginning = [spot["x"] + 20, spot["y"] + spot["height"] / 2]
    assert person.page.evaluate(on_top, beginning), "something lies over the conversation"


def test_a_bad_file_is_refused_and_the_message_kept(person: Person, tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", (1, 1)).save(path)
    person.attach(path)
    person.say("What is this?")
    assert "only 1x1 pixels" in person.complaint()
    assert person.page.input_value(BOX) == "What is this?"
    assert person.attachments.count() == 1


def test_a_prompt_of_a_megabyte_is_refused_and_kept(person: Person) -> None:
    person.say("word " * 200_000)
    assert "1,000,000 characters long" in person.complaint()
    assert len(person.page.input_value(BOX)) == 1_000_000


def test_the_page_works_with_the_keyboard_alone(person: Person) -> None:
    page = person.page
    page.keyboard.type("Say hello.")
    page.keyboard.press("Enter")
    person.wait()
    assert words(person.said.last) == "Say hello."
    page.keyboard.type("And goodbye.")
    page.keyboard.press("Enter")
    person.wait()
    assert words(person.said.last) == "And goodbye."
    page.locator("#new").focus()
    page.keyboard.press("Enter")
    wait_until(lambda: person.said.count() == 0)
    page.get_by_label("Model", exact=True).focus()
    menu = page.get_by_role("listbox")
    menu.wait_for()
    page.keyboard.press("Tab")
    wait_until(lambda: not menu.is_visible())
    page.keyboard.press("Tab")
    assert not menu.is_visible(), "a menu that was left stays closed"


def test_instructions_and_sampling_are_kept_with_the_conversation(person: Person) -> None:
    page = person.page
    person.unfold("Instructions and sampling", "Instructions")
    person.write("Instructions", "You are a pirate.")
    person.write("Seed", "7")
    first = person.ask("Who are you?")
    person.do("Answer again")
    person.wait()
    assert person.reply() == first, "the same seed gives the same answer"
    person.open()
    person.said.last.wait_for()
    page.get_by_text("Instructions and sampling").click()
    wait_until(lambda: page.locator("#system textarea").input_value() == "You are a pirate.")


def _leases(app: Server) -> int:
    told = httpx.get(f"{app.url}/health").json()
    return sum(told["leases"].values())


def words(message: Locator) -> str:
    """What the message itself says, without its buttons."""
    return message.locator("> .body").inner_text()
