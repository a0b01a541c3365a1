"""What the page offers to set, and what it makes of what was set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fakes import FakeSource, program
from own_models import write_profile

from multimodal.build import Program
from multimodal.catalog.cards import AUTO, Catalog
from multimodal.errors import RequestError
from multimodal.languages import language_name
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Controls, Drawing, Sampling, Task, TranscriptionSettings
from multimodal.sizes import gigabytes
from multimodal.web.control_bounds import TOKENS
from multimodal.web.controls import from_inputs, to_inputs
from multimodal.web.layout import Layout
from multimodal.web.page import Page

SEAMLESS = "seamless-m4t-v2-large"
ANYTHING = TranscriptionSettings("en", "fr")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    data = tmp_path_factory.mktemp("data")
    with closing(program(data, FakeSource(), profile="gpu-12gb")) as made:
        yield made


@pytest.fixture(scope="module")
def ui(made: Program) -> Layout:
    return Page(made, "secret", "key").ui


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Any]:
    """A function that makes the page of another profile."""
    with ExitStack() as opened:

        def page(profile: str) -> Layout:
            made = program(tmp_path, FakeSource(), profile=profile)
            return Page(opened.enter_context(closing(made)), "secret", "key").ui

        yield page


def labels(choice: gr.Dropdown) -> list[str]:
    return [str(label) for label, _ in choice.choices]


def values(choice: gr.Dropdown) -> list[str]:
    return [str(value) for _, value in choice.choices]


# ------------------------------------------------------------ quantization


@pytest.mark.parametrize(
    ("model", "kind", "name"),
    [
        (AUTO, None, AUTO),
        (None, None, AUTO),
        ("phi-2", None, "phi-2"),
        ("phi-2", "nf4-double", "phi-2"),
        ("phi-2", "int8", "phi-2:int8"),
        ("gpt2", "nf4-double", "gpt2"),
        (AUTO, "int8", AUTO),
    ],
)
def test_a_chosen_quantization_is_asked_for_with_the_name(
    ui: Layout, model: str | None, kind: str | None, name: str
) -> None:
    assert ui.quantization.model_name(model, kind) == name


def test_it_is_offered_only_where_there_is_a_choice(ui: Layout) -> None:
    assert not ui.quantization.update(AUTO).visible
    assert not ui.quantization.update("whisper-small").visible
    shown = ui.quantization.update("phi-2")
    assert shown.visible
    assert (shown.value, labels(shown)[0]) == ("nf4-double", "4 bits: nf4-double (default)")
    assert ui.quantization.update("phi-2:int8").value == "int8"
    assert ui.quantization.update("phi-2:gone").value == "nf4-double"


def test_what_each_takes_is_the_programs_own_estimate(
    made: Program, ui: Layout, catalog: Catalog
) -> None:
    sized = ui.quantization.update_with_sizes("llama-3-8b-instruct")
    card = catalog.card("llama-3-8b-instruct")
    for label, kind in sized.choices:
        size = footprint(card, str(kind))
        assert f"{gigabytes(size.resident)} on the card" in label
        assert ("over the budget" in label) == (size.total > made.memory.budget_bytes)
    assert labels(sized)[0].startswith("4 bits, ")
    assert labels(sized)[0].endswith(" GB on the card: nf4-double (default)")
    assert ", over the budget: " in labels(sized)[-1]


def test_a_profiles_own_quantization_is_its_default(other: Any) -> None:
    ui = other("gpu-24gb")
    assert ui.quantization.menu_entry("phi-3-mini:nf4") == "phi-3-mini:int8"
    shown = ui.quantization.update("phi-3-mini:int8")
    assert labels(shown)[0] == "8 bits: int8 (default)"
    assert ui.quantization.model_name("phi-3-mini:int8", "int8") == "phi-3-mini:int8"
    assert ui.quantization.model_name("phi-3-mini:int8", "nf4-double") == "phi-3-mini:nf4-double"


# ------------------------------------------------------------ voice


def test_a_voice_is_offered_what_the_model_that_hears_can(ui: Layout) -> None:
    language, translate_to, speak_in, *_ = ui.voice.updates(AUTO, TranscriptionSettings(), None)
    assert labels(language)[0] == "Auto-detect"
    assert labels(language)[1:] == sorted(labels(language)[1:])
    assert len(language.choices) == 100
    assert translate_to.choices == [("No", ""), ("English", "en")]
    assert len(speak_in.choices) == 37
    language, translate_to, *_ = ui.voice.updates(SEAMLESS, TranscriptionSettings(), None)
    assert labels(language)[0] == "Any (as English)"
    assert {"fr", "zh", "sw"} < set(values(translate_to))
    language, translate_to, speak_in, *_ = ui.voice.updates("wav2vec2-base-960h", ANYTHING, "fr")
    assert (language.choices, language.value) == ([("English", "")], "")
    assert (translate_to.visible, translate_to.value) == (False, "")
    assert (speak_in.visible, speak_in.value) == (True, "fr")


def test_what_another_model_cannot_do_is_left_to_it(ui: Layout) -> None:
    _, translate_to, *_ = ui.voice.updates(SEAMLESS, ANYTHING, None)
    assert translate_to.value == "fr"
    language, translate_to, *_ = ui.voice.updates("whisper-small", ANYTHING, None)
    assert (language.value, translate_to.value) == ("en", "")


def test_where_no_model_speaks_nothing_is_said_of_it(other: Any, tmp_path: Path) -> None:
    offers = {
        "text-generation": ["smollm2-135m-instruct"],
        "automatic-speech-recognition": ["whisper-base"],
    }
    write_profile(tmp_path / "models", "silent", offers, budget="4GB")
    silent = other("silent").voice
    assert silent.language.visible
    assert silent.translate_to.visible
    for menu in (silent.speak_in, silent.voice, silent.speed):
        assert not menu.visible


def test_voices_are_offered_by_name_with_what_they_speak(other: Any) -> None:
    voice = other("embedded").voice
    assert voice.voice.visible
    assert labels(voice.voice)[:2] == ["Usual of the language", "Joe (English)"]
    assert "jf_nezumi" in values(voice.voice)
    assert "en" in values(voice.speak_in)
    *_, named, speed = voice.updates(AUTO, TranscriptionSettings(), "en", "joe", 1.3)
    assert (named.value, speed.value) == ("joe", 1.25)
    *_, gone, _ = voice.updates(AUTO, TranscriptionSettings(), "en", "of an earlier version")
    assert gone.value == ""


def test_whisper_knows_the_languages_of_its_cards(
    catalog: Catalog, weights_of: Callable[[str], Path]
) -> None:
    from faster_whisper import WhisperModel
    from whisper.tokenizer import LANGUAGES

    faster = WhisperModel(str(weights_of("whisper-base")), device="cpu", local_files_only=True)
    assert set(faster.supported_languages) == set(LANGUAGES)
    cards = [card for card in catalog.cards if "whisper" in card.family]
    assert len(cards) == 7
    for card in cards:
        newest = "large-v3" in card.name
        assert set(card.languages) == set(LANGUAGES) - (set() if newest else {"yue"})
        assert card.translates_to == (() if "turbo" in card.name else ("en",))


def test_every_language_of_a_card_has_a_name(catalog: Catalog) -> None:
    hearing = [card for card in catalog.cards if card.task is Task.SPEECH]
    for card in hearing:
        for code in (*card.languages, *card.translates_to, *card.speaks):
            assert not language_name(code).startswith(("Unknown", code)), code
    assert language_name("fr") == "French"
    assert language_name("!") == "!"


# ------------------------------------------------------------ both ways


SET = Controls(
    "phi-2:int8",
    "Be brief.",
    Sampling(0.5, 0.9, 1.2, 128, 7),
    Drawing("dogs", 5, 3.0, 96, 64),
    TranscriptionSettings("de", "en"),
    "fr",
    None,
    1.25,
)


def shown_of(ui: Layout, controls: Controls) -> list[Any]:
    """What the page sends of these where nothing is touched."""
    parts = to_inputs(ui, controls)
    return [part.value if isinstance(part, gr.Dropdown) else part for part in parts]


@pytest.mark.parametrize(
    "controls",
    [SET, replace(SET, model=SEAMLESS, hearing=ANYTHING), replace(SET, model=AUTO, speak_in=None)],
)
def test_what_was_set_is_shown_again_and_means_the_same(ui: Layout, controls: Controls) -> None:
    shown = shown_of(ui, controls)
    assert len(shown) == len(ui.controls)
    assert from_inputs(ui, *shown) == controls


def test_an_untouched_page_leaves_sampling_to_the_model(ui: Layout) -> None:
    """Whichever answers: one model's values, shown and sent, would be forced on all others."""
    sampling = from_inputs(ui, *shown_of(ui, Controls())).sampling
    assert (sampling.temperature, sampling.top_p, sampling.repeat_penalty) == (None, None, None)
    assert [part.value for part in (ui.temperature, ui.top_p, ui.penalty)] == [None] * 3


@pytest.mark.parametrize(("usual", "shown"), [(1, 16), (512, 512), (10**6, 2048)])
def test_the_slider_of_the_longest_answer_shows_what_can_be_sent(usual: int, shown: int) -> None:
    """A card may say what is beyond its ends, with which every message would be refused."""
    assert TOKENS.nearest(usual) == shown


def test_a_model_that_is_gone_is_left_to_the_router(ui: Layout) -> None:
    shown = to_inputs(ui, Controls("gone:int8"))
    assert shown[0].value == AUTO
    assert not shown[1].visible


# ------------------------------------------------------------ bounds


@pytest.mark.parametrize(
    ("label", "value", "told"),
    [
        ("Temperature", 3, "3 cannot be used as the temperature"),
        ("Temperature", float("nan"), "cannot be used as the temperature"),
        ("Top p", 0, "cannot be used as the top p"),
        ("Repetition penalty", 0.5, "cannot be used as the repetition penalty"),
        ("Longest answer (tokens)", 10**9, "cannot be used as the longest answer"),
        ("Seed", -1, "-1 cannot be used as the seed"),
        ("Instructions", "x" * 4001, "4,001 characters long"),
    ],
)
def test_what_is_out_of_bounds_passes_gradio_and_is_told_in_a_sentence(
    ui: Layout, label: str, value: Any, told: str
) -> None:
    """What Gradio refuses ends the event, and the message would be neither sent nor given back."""
    index = next(i for i, control in enumerate(ui.controls) if control.label == label)
    values = [AUTO, None, "", None, None, None, 100, None]
    passes = not isinstance(ui.controls[index], gr.Slider)  # that one keeps to its ends itself
    values[index] = ui.controls[index].preprocess(value) if passes else value
    with pytest.raises(RequestError, match=told):
        from_inputs(ui, *values)
