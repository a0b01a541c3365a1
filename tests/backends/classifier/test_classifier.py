"""What a picture shows, as a classifier says it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from tiny_classifiers import CONFIGS, LABELS, classifier_card, save_classifier
from tiny_engines import SEEN

from multimodal.backends.base import load
from multimodal.backends.classifier.answers import candidates, noun, percent, sentence
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.errors import BackendError, CardError
from multimodal.events import ImageDescribed
from multimodal.requests import ImageDescriptionRequest


def said(card: ModelCard, files: Path, picture: Image.Image = SEEN) -> str:
    backend = load(card, files, "cpu")
    try:
        (event,) = backend.run(ImageDescriptionRequest(picture), threading.Event())
    finally:
        backend.close()
    assert isinstance(event, ImageDescribed)
    assert event.answer == event.description
    return event.answer


# ---------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ((0.97, 0.02, 0.01), "A seven (97 %); otherwise a one (2 %) or an eight (1 %)."),
        ((0.991, 0.005, 0.004), "A seven (99 %)."),
        ((0.9999, 0.0001, 0.0), "A seven (over 99 %)."),
        ((1.0, 0.0, 0.0), "A seven (100 %)."),
        ((0.45, 0.4, 0.001), "I am not sure: perhaps a seven (45 %) or a one (40 %)."),
    ],
)
def test_the_likeliest_class_is_told_with_the_next(shares: tuple[float, ...], told: str) -> None:
    names = {0: "seven", 1: "one", 2: "eight"}
    assert sentence(candidates(shares, names), 0.5, 3) == told


def test_no_more_candidates_are_named_than_asked_for() -> None:
    found = candidates([0.2, 0.7, 0.1], {0: "cat", 1: "dog", 2: "owl"})
    assert [name for name, _ in found] == ["dog", "cat", "owl"]
    assert sentence(found, 0.5, 2) == "A dog (70 %); otherwise a cat (20 %)."
    assert sentence(found, 0.8, 1) == "I am not sure: perhaps a dog (70 %)."


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("golden_retriever", "a golden retriever"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("glass", "a glass"),
        ("cats", "cats"),
        ("7", "7"),
        ("Eiffel Tower", "Eiffel Tower"),
        ("tench, Tinca tinca", "a tench"),
        ("猫", "猫"),
        (", ", ", "),
    ],
)
def test_a_class_gets_an_article_where_it_is_one_thing(name: str, told: str) -> None:
    assert noun(name) == told


@pytest.mark.parametrize(("share", "told"), [(0.995, "over 99 %"), (0.994, "99 %"), (1.0, "100 %")])
def test_what_is_not_certain_is_never_called_certain(share: float, told: str) -> None:
    assert percent(share) == told


# ---------------------------------------------------------------- the engine


@pytest.mark.parametrize("family", CONFIGS)
def test_it_says_what_transformers_itself_finds(tmp_path: Path, family: str) -> None:
    card = classifier_card(save_classifier(tmp_path, family), engine={"threshold": 0.0})
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = model(**processor(images=SEEN, return_tensors="pt")).logits[0]
    shares = logits.softmax(dim=-1).tolist()
    expected = sentence(candidates(shares, dict(enumerate(LABELS))), 0.0, 3)
    assert said(card, tmp_path) == expected


def test_below_the_threshold_of_its_card_it_is_not_sure(tmp_path: Path) -> None:
    card = classifier_card(save_classifier(tmp_path, "vit"), engine={"threshold": 1.0})
    assert said(card, tmp_path).startswith("I am not sure: perhaps ")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_any_mode_are_seen(tmp_path: Path, mode: str) -> None:
    card = classifier_card(save_classifier(tmp_path, "resnet"))
    assert said(card, tmp_path, SEEN.convert(mode))


def test_a_misspelt_option_is_refused_with_the_right_spelling(tmp_path: Path) -> None:
    card = classifier_card(save_classifier(tmp_path, "vit"), engine={"treshold": 0.5})
    with pytest.raises(CardError, match=r"did you mean engine\.threshold"):
        load(card, tmp_path, "cpu")


def test_weights_in_a_pickle_are_not_read(tmp_path: Path) -> None:
    card = classifier_card(save_classifier(tmp_path, "vit"))
    weights = tmp_path / "model.safetensors"
    torch.save({}, tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(BackendError, match="there is no file of safetensors"):
        load(card, tmp_path, "cpu")


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    card = classifier_card(save_classifier(tmp_path, "vit"))
    config = tmp_path / "config.json"
    told = config.read_text("utf-8").replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    config.write_text(told, "utf-8")
    with pytest.raises(BackendError, match=r"lacks \d+ of the model's weights"):
        load(card, tmp_path, "cpu")


@pytest.mark.parametrize("name", ["vit-untrained", "resnet-untrained"])
def test_what_was_never_taught_says_how_it_is_taught(
    catalog: Catalog, tmp_path: Path, name: str
) -> None:
    with pytest.raises(BackendError, match=rf"--method classify --model {name}"):
        load(catalog.card(name), tmp_path, "cpu")
