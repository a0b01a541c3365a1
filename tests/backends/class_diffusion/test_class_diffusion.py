"""What was taught to draw classes of pictures draws the one that is asked for."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_class_diffusion import LABELS, SIDE, class_diffusion_card, save_class_diffusion

from multimodal.backends.base import load
from multimodal.backends.class_diffusion.prompts import find_class
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.errors import BackendError, RequestError
from multimodal.events import EngineEvent, ImageGenerated, Notice, Progress
from multimodal.messages import Usage
from multimodal.requests import ImageGenerationRequest


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_class_diffusion(folder)
    return folder


def events(
    files: Path, prompt: str, card: ModelCard | None = None, **more: Any
) -> list[EngineEvent]:
    backend = load(card or class_diffusion_card(), files, "cpu")
    asked = ImageGenerationRequest(prompt, **{"seed": 3, **more})
    found = list(backend.run(asked, threading.Event()))
    backend.close()
    return found


def drawn(found: list[EngineEvent]) -> list[bytes]:
    return [event.png for event in found if isinstance(event, ImageGenerated)]


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("a dog", "dog"),
        ("Two Dogs, please", "dog"),
        ("a hotdog", None),
        ("sixes", "six"),
        ("a fox terrier in the sun", "fox terrier"),
        ("foxes", "fox"),
        ("an owl or a fox terrier", "fox terrier"),
        ("a glass", "glass"),
        ("something", None),
    ],
)
def test_the_class_is_the_one_that_the_prompt_names(prompt: str, label: str | None) -> None:
    labels = ("dog", "owl", "six", "fox", "fox_terrier", "glass", "")
    wanted = None if label is None else labels.index(label.replace(" ", "_"))
    assert find_class(prompt, labels) == wanted


def test_a_seed_is_a_picture_and_a_class_another(files: Path) -> None:
    one, same, other, owl = (
        drawn(events(files, prompt, seed=seed))
        for prompt, seed in (("a cat", 3), ("cats", 3), ("a cat", 4), ("an owl", 3))
    )
    assert one == same
    assert len({one[0], other[0], owl[0]}) == 3
    with Image.open(io.BytesIO(one[0])) as picture:
        assert (picture.size, picture.mode) == ((256, 256), "RGB")


def test_a_picture_is_enlarged_by_a_whole_factor_and_no_more_than_asked(files: Path) -> None:
    card = class_diffusion_card(engine={"shown_side": SIDE})
    with Image.open(io.BytesIO(drawn(events(files, "a cat", card))[0])) as small:
        pixels = np.asarray(small)
    with Image.open(io.BytesIO(drawn(events(files, "a cat"))[0])) as large:
        reduced = np.asarray(large.resize((SIDE, SIDE), Image.Resampling.BOX))
    assert pixels.shape == (SIDE, SIDE, 3)
    assert np.abs(pixels.astype(int) - reduced).mean() < 20


def test_several_are_drawn_with_seeds_in_a_row_and_steps_are_told(files: Path) -> None:
    found = events(files, "a cat", count=2, steps=3)
    assert [event.seed for event in found if isinstance(event, ImageGenerated)] == [3, 4]
    told = [event for event in found if isinstance(event, Progress)]
    assert [event.text for event in told] == ["Drawing 1 of 2"] * 3 + ["Drawing 2 of 2"] * 3
    usage = found[-1]
    assert isinstance(usage, Usage)
    assert (usage.steps, usage.finish, usage.seed) == (6, "stop", 3)
    assert drawn(found)[1] == drawn(events(files, "a cat", seed=4, steps=3))[0]


def test_guidance_is_followed_and_1_leaves_it_out(files: Path) -> None:
    strong, weak, none = (drawn(events(files, "a cat", guidance=it)) for it in (4, 1, 0))
    assert weak == none != strong


def test_what_it_cannot_draw_is_told_and_the_seed_chooses(files: Path) -> None:
    found = events(files, "a horse", seed=1)
    told = [event.text for event in found if isinstance(event, Notice)]
    assert told == ["Tiny draws cat, dog and owl, and nothing else."]
    assert drawn(found) == drawn(events(files, f"a {LABELS[1]}", seed=1))


def test_a_style_without_classes_is_drawn_whatever_is_asked(tmp_path: Path) -> None:
    save_class_diffusion(tmp_path, ("",))
    found = events(tmp_path, "a horse", class_diffusion_card(("",)))
    assert len(drawn(found)) == 1
    assert not [event for event in found if isinstance(event, Notice)]


def test_a_picture_to_draw_anew_is_refused(files: Path) -> None:
    with pytest.raises(RequestError, match="Tiny draws from words alone"):
        events(files, "a cat", source=Image.new("RGB", (8, 8)))


def test_damaged_files_are_told(files: Path, tmp_path: Path) -> None:
    save_class_diffusion(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(BackendError, match="Tiny could not be loaded"):
        load(class_diffusion_card(), tmp_path, "cpu")
    weights.write_bytes(whole)
    (tmp_path / "labels.json").write_text('["cat", "dog"]')
    with pytest.raises(BackendError, match=r"names 2 classes, and the model has 4 embeddings"):
        load(class_diffusion_card(), tmp_path, "cpu")
    (tmp_path / "labels.json").unlink()
    with pytest.raises(BackendError, match=r"labels\.json"):
        load(class_diffusion_card(), tmp_path, "cpu")


def test_what_was_never_taught_says_how_it_is(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="--method diffusion --model unet-untrained"):
        load(catalog.card("unet-untrained"), tmp_path, "cpu")
