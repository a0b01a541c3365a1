"""A picture classifier in ONNX says what the same weights say on transformers."""

from __future__ import annotations

import threading
from pathlib import Path

import tiny_onnx
from PIL import Image
from tiny_classifiers import classifier_card, save_classifier
from tiny_engines import SEEN, made_of

from multimodal.backends.base import Backend, load
from multimodal.backends.compute_device import runs_on_cpu
from multimodal.requests import ImageDescriptionRequest


def said(backend: Backend, picture: Image.Image) -> list[str]:
    return made_of(list(backend.run(ImageDescriptionRequest(picture), threading.Event())))


def test_it_says_what_transformers_says(tmp_path: Path) -> None:
    engine = {"threshold": 0.9, "candidates": 2}
    given = classifier_card(save_classifier(tmp_path / "source", "vit"), engine=engine)
    source = load(given, tmp_path / "source", "cpu")
    card = tiny_onnx.save_onnx_classifier(tmp_path / "onnx")
    exported = load(card.model_copy(update={"engine": engine}), tmp_path / "onnx", "cpu")
    for picture in (SEEN, SEEN.convert("L"), SEEN.resize((9, 120)), Image.new("RGBA", (40, 40))):
        assert said(exported, picture) == said(source, picture) != []
    assert runs_on_cpu(card)
