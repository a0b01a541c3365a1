"""Voices and quantizations on the page: a real browser, the real app, tiny random models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Person, place_of, visit
from conftest import Server, running_app, wait_until
from playwright.sync_api import Browser, expect
from tiny_voices import save_voices


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("voices")
    save_voices(data)
    with running_app(data, "--profile", "voices", "--device", "sim:400MB") as app:
        yield app


def test_a_quantization_is_chosen_shown_and_kept(person: Person) -> None:
    page = person.page
    assert page.get_by_label("Quantization").count() == 0, "the router chooses"
    person.choose("Model", "Tiny-mistral")
    kind = page.get_by_label("Quantization")
    kind.wait_for()
    expect(kind).to_have_value(re.compile("GB on the card"))
    assert re.fullmatch(r"4 bits, .* on the card: nf4-double \(default\)", kind.input_value())
    person.choose("Quantization", "bf16")
    assert person.ask("Tell me about rivers.")
    assert "Tiny-mistral (bf16)" in person.routes.last.inner_text()
    assert page.get_by_text("Redo with Tiny-mistral").count() == 1, "in its usual quantization"
    person.open()
    person.said.last.wait_for()
    expect(kind).to_have_value(re.compile(r"^16 bits.*: bf16$"))
    person.choose("Model", "Tiny-seamless")
    kind.wait_for(state="hidden")
    person.choose("Model", "Auto")
    assert person.ask("Tell me about the sea.")
    wait_until(lambda: "(bf16)" not in person.routes.last.inner_text())


def test_a_recording_is_answered_with_its_translation_spoken(
    person: Person, server: Server, examples: Path
) -> None:
    page = person.page
    person.unfold("Voice", "Spoken language")
    person.choose("Spoken language", "French")
    person.choose("Translate to", "English")
    person.choose("Speak the answer", "In English")
    person.ask("", examples / "question-en.wav")
    players = page.locator("#chat .message audio")
    players.nth(1).wait_for()
    told = person.route()
    assert "Heard (French, as you set):" in told
    assert "In English:" in told
    assert players.count() == 2, "what was sent and what was said, both waiting"
    assert person.answers.last.get_by_label("The answer, spoken").count() == 1
    assert server.data.as_posix() not in page.content()
    person.open()
    players.last.wait_for()
    person.unfold("Voice", "Spoken language")
    for label, value in (
        ("Spoken language", "French"),
        ("Translate to", "English"),
        ("Speak the answer", "In English"),
    ):
        expect(page.get_by_label(label, exact=True)).to_have_value(value)


def test_the_voice_offers_what_the_chosen_model_can(person: Person) -> None:
    page = person.page
    person.unfold("Voice", "Spoken language")
    language = page.get_by_label("Spoken language", exact=True)
    assert language.input_value() == "Any (as English)"
    person.choose("Translate to", "Chinese")
    person.choose("Model", "Tiny-wav2vec2")
    expect(language).to_have_value("French")
    page.get_by_label("Translate to", exact=True).wait_for(state="hidden")


def test_a_message_is_taken_whatever_was_chosen_just_before(person: Person) -> None:
    kind = person.page.get_by_label("Quantization")
    for _ in range(3):
        person.choose("Model", "Tiny-mistral")
        kind.wait_for()
        person.choose("Quantization", "bf16")
        person.choose("Model", "Tiny-seamless")
        person.choose("Model", "Auto")
        assert person.ask("Tell me about the sea.")
        assert "bf16" not in person.routes.last.inner_text()


def test_voice_and_quantization_are_set_with_the_keyboard_alone(person: Person) -> None:
    page = person.page
    person.search("Model", "Tiny-mis")
    kind = page.get_by_label("Quantization")
    kind.wait_for()
    expect(kind).to_have_value(re.compile("GB on the card"))
    person.search("Quantization", "bf16")
    expect(kind).to_have_value(re.compile(r"^16 bits.*: bf16$"))
    person.side.get_by_role("button", name="Voice").focus()
    page.keyboard.press("Enter")
    person.settle("Speak the answer")
    person.search("Speak the answer", "In Fr")
    expect(page.get_by_label("Speak the answer", exact=True)).to_have_value("In French")


def test_whisper_is_offered_as_what_it_can(browser: Browser, app: Server, examples: Path) -> None:
    with visit(browser, app.url) as person:
        page = person.page
        person.unfold("Voice", "Spoken language")
        assert page.get_by_label("Spoken language", exact=True).input_value() == "Auto-detect"
        assert page.get_by_label("Speak the answer").count() == 1
        person.choose("Translate to", "English")
        assert "music" in person.ask("", examples / "question-fr.wav").lower()
        told = person.route()
        assert "Heard (French)" in told
        assert "In English" in told
        assert "SmolLM2" not in told, "the translation is the whole answer"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_of_the_side_is_cut_off_at_any_size(
    browser: Browser, server: Server, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 800}
    with visit(browser, server.url, viewport=size, color_scheme=scheme) as person:
        person.open_side()
        person.choose("Model", "Tiny-mistral")
        person.unfold("Voice", "Spoken language")
        for label in ("Quantization", "Spoken language", "Translate to", "Speak the answer"):
            field = person.page.get_by_label(label, exact=True)
            field.scroll_into_view_if_needed()
            box = place_of(field)
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= min(width, 390)
        assert person.page.evaluate("document.documentElement.scrollWidth") <= width
