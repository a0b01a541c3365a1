"""Files that are no whole files: the sentence names the file and the way out, whatever engine reads
it, and before anybody has asked anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_minigpt4
from tiny_models import causal_card, hub_card, save_causal
from tiny_seeing import SEEING, TEMPLATES

from multimodal.backends.base import load
from multimodal.backends.damaged_files import find_damage
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4cac1962\n"

Change = Callable[[Path], object]


def text_model(folder: Path) -> ModelCard:
    return causal_card(save_causal(folder, "llama"))


def seeing_model(folder: Path) -> ModelCard:
    config = SEEING["blip-2"](folder)
    facts = {"task": "image-to-text", "chat_template": TEMPLATES["blip-2"]}
    return hub_card("image_text", "AutoModelForImageTextToText", config, **facts)


def minigpt4(folder: Path) -> ModelCard:
    tiny_minigpt4.save_minigpt4(folder, "qformer")
    return tiny_minigpt4.card("qformer")


def pointer(path: Path) -> None:
    path.write_bytes(POINTER)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>Sign in</title>" * 40, "utf-8")


def refusal(card: ModelCard, folder: Path) -> str:
    with pytest.raises(BackendError) as caught:
        load(card, folder, "cpu")
    return str(caught.value)


WEIGHTS: dict[str, tuple[Callable[[Path], ModelCard], str]] = {
    "causal_lm": (text_model, "model.safetensors"),
    "image_text": (seeing_model, "model.safetensors"),
    "minigpt4's tower": (minigpt4, "vision/model.safetensors"),
    "minigpt4's text model": (minigpt4, "llm/model.safetensors"),
}


@pytest.mark.parametrize("change", [pointer, cut, empty, web_page])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_no_whole_file_are_named(
    name: str, change: Change, tmp_path: Path
) -> None:
    save, file = WEIGHTS[name]
    card = save(tmp_path)
    change(tmp_path / file)
    told = refusal(card, tmp_path)
    assert told.startswith(f"{card.title} could not be loaded: {Path(file)} is ")
    assert "Delete it, so that it is fetched again" in told
    assert told.count(". ") == 1, "one fault and the way out"


@pytest.mark.parametrize(
    ("save", "file"),
    [
        (text_model, "tokenizer.json"),
        (text_model, "config.json"),
        (seeing_model, "processor_config.json"),
        (minigpt4, "pretrained_qformer.pth"),
    ],
)
def test_any_file_may_be_a_pointer(save: Any, file: str, tmp_path: Path) -> None:
    card = save(tmp_path)
    pointer(tmp_path / file)
    assert f"{file} is a pointer of Git LFS and not the file itself" in refusal(card, tmp_path)


FAMILIES = {
    "faster_whisper": ("model.bin", ("tokenizer.json", "config.json", "vocabulary.json")),
    "openai_whisper": ("base.pt", ()),
    "llama_cpp": ("model.gguf", ()),
    "wav2vec2": ("model.safetensors", ("config.json",)),
    "seamless": ("model.safetensors", ("config.json",)),
    "diffusion": ("unet/model.safetensors", ("model_index.json",)),
}


SINGLE = {"llama_cpp", "openai_whisper"}
"""Families whose model is one file, which a card may name."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_engine_names_the_pointer_in_place_of_its_weights(
    family: str, tmp_path: Path
) -> None:
    file, others = FAMILIES[family]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    pointer(tmp_path / file)
    for other in others:
        (tmp_path / other).write_text("{}")
    for place in (tmp_path, tmp_path / file) if family in SINGLE else (tmp_path,):
        told = refusal(hub_card(family, "", {}), place)
        assert f"{Path(file)} is a pointer of Git LFS" in told


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    card = text_model(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "model-00001-of-00002.safetensors")
    index = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "%s"}}'
    missing = "model-00002-of-00002.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(index % missing)
    assert f"{missing}, which model.safetensors.index.json names, is missing" in refusal(
        card, tmp_path
    )


def test_whole_files_are_not_blamed_for_another_fault(tmp_path: Path) -> None:
    card = text_model(tmp_path)
    assert find_damage(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    told = refusal(card, tmp_path)
    assert "nothing-known" in told
    assert "Git LFS" not in told


def test_a_pointer_beside_a_model_that_loads_is_none_of_our_business(tmp_path: Path) -> None:
    """Whoever cloned a repository for its safetensors alone has pointers for the rest."""
    card = text_model(tmp_path)
    pointer(tmp_path / "pytorch_model.bin")
    assert load(card, tmp_path, "cpu")
