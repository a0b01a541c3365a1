"""What a card says under `engine` is judged when the card is read, and what it says beside it when
the model is loaded; not at the first question."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny_hearing import LETTERS, save_wav2vec2
from tiny_models import add_model, hub_card

from multimodal.backends.base import load
from multimodal.backends.engine_options import check_catalog, check_options
from multimodal.backends.registry import FAMILIES, import_object
from multimodal.build import read_catalog
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.errors import BackendError, CardError
from multimodal.settings import read_settings

SPEECH: dict[str, Any] = {"task": "automatic-speech-recognition", "languages": ["en"]}
LLAMA = "smollm2-135m-instruct"
NO_NUMBERS = ["many", "3", 2.5, True]
TEXT = "write a text between quotation marks"


def whole(least: int) -> tuple[list[Any], list[Any], str]:
    return [least, 700], [*NO_NUMBERS, least - 1], f"write a whole number of at least {least}"


CHAT = {
    "cache_implementation": (
        ["dynamic", "static"],
        ["quantized", 1],
        "write 'dynamic' or 'static'",
    ),
    "prompt_cache_mib": whole(0),
    "prompt_lookup_num_tokens": ([0], whole(0)[1], whole(0)[2]),
}
OPTIONS: dict[str, dict[str, tuple[list[Any], list[Any], str]]] = {
    "causal_lm": CHAT,
    "image_text": CHAT,
    "minigpt4": CHAT,
    "llama_cpp": {
        "after_picture": (["", "\n"], [3, True], TEXT),
        "gpu_layers": whole(0),
        "n_batch": whole(1),
        "picture_tokens": whole(1),
        "prompt_cache_mib": whole(-1),
        "threads": whole(0),
    },
    "faster_whisper": {
        "beam_size": whole(1),
        "compute_type": (["int8", "float16"], ["int4", 8], "write 'default' or 'auto' or "),
        "threads": whole(0),
    },
    "openai_whisper": {"beam_size": whole(1)},
    "seamless": {"beam_size": whole(1), "language": (["fr"], [1, True], TEXT)},
    "image_classifier": {
        "candidates": whole(1),
        "threshold": ([0, 0.5, 1], ["many", "0.5", -0.1, 1.1, True], "write a number from 0 to 1"),
    },
    "onnx_text": {"prompt_cache_mib": whole(0), "threads": whole(0)},
    "onnx_classifier": {
        "candidates": whole(1),
        "threads": whole(0),
        "threshold": ([0, 0.5, 1], ["many", "0.5", -0.1, 1.1, True], "write a number from 0 to 1"),
    },
    "onnx_whisper": {"threads": whole(0)},
    "image_describer": {"threads": whole(0)},
    "class_diffusion": {"shown_side": whole(8)},
    "diffusion": {},
    "kokoro": {},
    "piper": {},
    "wav2vec2": {},
}
"""By family and option: values that are taken, values that are not, and what the sentence says."""
EACH = [(family, option) for family, options in OPTIONS.items() for option in options]


def card_with(catalog: Catalog, family: str, engine: dict[str, Any]) -> ModelCard:
    shipped = (card for card in catalog.cards if card.family == family)
    card = next(shipped, catalog.cards[0])  # of those in ONNX none is shipped
    return card.model_copy(update={"engine": engine, "family": family})


def test_the_table_names_every_family_and_every_option_of_it() -> None:
    known = {family: import_object(found.options) for family, found in FAMILIES.items()}
    assert {name: set(model.model_fields) for name, model in known.items() if model} == {
        name: set(options) for name, options in OPTIONS.items()
    }


def test_every_shipped_card_says_what_its_family_understands(catalog: Catalog) -> None:
    check_catalog(catalog)


@pytest.mark.parametrize(("family", "option"), EACH)
def test_an_option_takes_what_it_allows_and_tells_what_it_does_not(
    catalog: Catalog, family: str, option: str
) -> None:
    right, wrong, sentence = OPTIONS[family][option]
    for value in right:
        check_options(card_with(catalog, family, {option: value}))
    for value in wrong:
        card = card_with(catalog, family, {option: value})
        with pytest.raises(CardError) as caught:
            check_options(card)
        told = str(caught.value)
        assert told.startswith(f"{card.name}: engine.{option} is {value!r}; {sentence}")
        assert told.endswith(", or leave it out")


@pytest.mark.parametrize(("family", "option"), EACH)
def test_a_misspelt_option_is_refused_with_the_right_spelling(
    catalog: Catalog, family: str, option: str
) -> None:
    spelling = option.replace(option[1], "", 1)
    card = card_with(catalog, family, {spelling: "whatever"})
    with pytest.raises(CardError) as caught:
        check_options(card)
    assert str(caught.value) == (
        f"{card.name}: engine.{spelling} is no option of {family}; did you mean engine.{option}?"
    )


@pytest.mark.parametrize("family", OPTIONS)
def test_an_option_of_nothing_like_it_is_refused_with_those_there_are(
    catalog: Catalog, family: str
) -> None:
    names = ", ".join(f"engine.{option}" for option in sorted(OPTIONS[family])) or "none"
    with pytest.raises(CardError, match=rf"engine\.xyzzy is no option of {family}; it has {names}"):
        check_options(card_with(catalog, family, {"xyzzy": 1}))


def test_a_misspelling_is_told_before_any_other_fault(catalog: Catalog) -> None:
    with pytest.raises(CardError, match=r"did you mean engine\.threads"):
        check_options(card_with(catalog, "llama_cpp", {"n_batch": "many", "thread": 2}))


@pytest.mark.parametrize("engine", [{"threads": "many"}, {"thread": 2}])
def test_an_option_is_judged_when_a_card_is_read_and_when_its_model_is_loaded(
    tmp_path: Path, engine: dict[str, Any]
) -> None:
    more = {"engine": engine, "quantization": (), "model": "", "config": {}}
    add_model(tmp_path / "models", "tiny", "text-generation", tmp_path, family="llama_cpp", **more)
    with pytest.raises(CardError, match=r"tiny: engine\.thread"):
        read_catalog(read_settings(data=tmp_path))
    with pytest.raises(CardError, match=r"tiny: engine\.thread"):
        load(hub_card("llama_cpp", "", {}, engine=engine), tmp_path, "cpu")


def test_options_are_read_without_any_library_of_an_engine() -> None:
    code = (
        "import sys; from multimodal.build import read_catalog; "
        "from multimodal.settings import read_settings; read_catalog(read_settings()); "
        "from layers import HEAVY; print(sorted(HEAVY & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ messages[0", "{% nothing %}"])
def test_a_chat_template_that_is_none_is_found_at_load(
    catalog: Catalog, weights_of: Callable[[str], Path], template: str
) -> None:
    card = catalog.card(LLAMA).model_copy(update={"chat_template": template})
    with pytest.raises(CardError, match="chat_template, line 1: "):
        load(card, weights_of(LLAMA), "cpu")


def test_a_chat_template_may_use_what_transformers_adds(
    catalog: Catalog, weights_of: Callable[[str], Path]
) -> None:
    loop = "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}{{ m.content }}"
    card = catalog.card(LLAMA).model_copy(update={"chat_template": loop + "{% endfor %}"})
    load(card, weights_of(LLAMA), "cpu").close()


@pytest.mark.parametrize("letters", [LETTERS + "é", LETTERS[:-1]])
def test_letters_that_a_model_does_not_choose_from_are_found_at_load(
    tmp_path: Path, letters: str
) -> None:
    config = save_wav2vec2(tmp_path, letters)
    with pytest.raises(BackendError, match=r"letters, and the model chooses from 32\. Fetch"):
        load(hub_card("wav2vec2", "AutoModelForCTC", config, **SPEECH), tmp_path, "cpu")
