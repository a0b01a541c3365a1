"""What a card says under `engine`, and beside it, is judged when the model is loaded, not at the
first question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_hearing import LETTERS, save_seamless, save_wav2vec2
from tiny_models import hub_card, save_causal

from multimodal.backends.base import load
from multimodal.backends.engine_options import whole_number
from multimodal.catalog.cards import Catalog
from multimodal.errors import BackendError, CardError

SPEECH: dict[str, Any] = {"task": "automatic-speech-recognition", "languages": ["en"]}
BAD = ["many", "3", 2.5, True, -7]
LLAMA, WHISPER, DESCRIBER = "smollm2-135m-instruct", "whisper-base", "picture-describer"


@pytest.mark.parametrize("value", BAD)
def test_only_whole_numbers_are_taken_for_numbers(catalog: Catalog, value: Any) -> None:
    card = catalog.card(LLAMA).model_copy(update={"engine": {"threads": value}})
    with pytest.raises(CardError, match=r"engine\.threads is .*; write a whole number of at least"):
        whole_number(card, "threads", 0)
    assert whole_number(card, "beam_size", 5) == 5


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("name", "option"),
    [
        (LLAMA, "threads"),
        (LLAMA, "n_batch"),
        (LLAMA, "prompt_cache_mib"),
        (LLAMA, "picture_tokens"),
        (WHISPER, "threads"),
        (WHISPER, "beam_size"),
        (DESCRIBER, "threads"),
    ],
)
def test_a_number_that_is_none_is_found_at_load(
    catalog: Catalog, weights_of: Callable[[str], Path], name: str, option: str, value: Any
) -> None:
    card = catalog.card(name).model_copy(update={"engine": {option: value}})
    with pytest.raises(CardError, match=rf"engine\.{option} is "):
        load(card, weights_of(name), "cpu")


def test_a_number_that_is_none_is_found_when_a_model_of_transformers_loads(tmp_path: Path) -> None:
    for family, config, facts, option in (
        ("causal_lm", save_causal(tmp_path / "llama", "llama"), {}, "prompt_cache_mib"),
        ("seamless", save_seamless(tmp_path / "seamless"), SPEECH, "beam_size"),
    ):
        card = hub_card(family, "", config, engine={option: "many"}, **facts)
        folder = tmp_path / ("llama" if family == "causal_lm" else family)
        with pytest.raises(CardError, match=rf"engine\.{option} is 'many'"):
            load(card, folder, "cpu")


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
