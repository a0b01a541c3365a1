"""Adapters on a pipeline that is in memory: random ones of PEFT's on tiny random pipelines."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_diffusion as tiny
import torch
from peft import PeftModel
from PIL import Image
from tiny_adapters import adapter_card
from tiny_engines import leave_and_return
from tiny_style import save_unet_adapter

from multimodal.backends.base import load
from multimodal.backends.diffusion.pipeline import Diffusion
from multimodal.errors import BackendError, RequestError
from multimodal.events import ImageGenerated, Progress
from multimodal.requests import ImageGenerationRequest

CAT = ImageGenerationRequest("a cat", seed=7, preview_every_s=None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Kind, Path]:
    kinds: tuple[tiny.Kind, ...] = ("sd", "sdxl")
    made = tmp_path_factory.mktemp("pipelines")
    return {kind: tiny.saved(made / kind, tiny.pipeline(kind)) for kind in kinds}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Kind, list[Path]]:
    """Two for each kind of pipeline."""
    made = tmp_path_factory.mktemp("adapters")
    kinds: tuple[tiny.Kind, ...] = ("sd", "sdxl")
    return {
        kind: [save_unet_adapter(made / f"{kind}{seed}", kind, seed) for seed in (1, 2)]
        for kind in kinds
    }


def drawn(model: Any, request: ImageGenerationRequest = CAT) -> bytes:
    events = list(model.run(request, threading.Event()))
    (made,) = (event for event in events if isinstance(event, ImageGenerated))
    return Image.open(io.BytesIO(made.png)).convert("RGB").tobytes()


def reference(folder: Path, adapter: Path) -> bytes:
    """What diffusers draws with PEFT's own model as its U-Net, loaded for this and nothing else."""
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(str(folder))  # type: ignore[no-untyped-call]
    PeftModel.from_pretrained(pipeline.unet, str(adapter))
    noise = torch.Generator("cpu").manual_seed(7)
    made = pipeline("a cat", generator=noise, num_inference_steps=3, guidance_scale=5.0)
    picture: Image.Image = made.images[0]
    return picture.tobytes()


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_pixels_are_those_of_pefts_own_model_and_the_base_draws_as_before(
    folders: Any, adapters: Any, kind: tiny.Kind
) -> None:
    card = tiny.card(folders[kind])
    model: Any = load(card, folders[kind], "cpu")
    unet = model.modules()[-1]
    before = {name: id(part) for name, part in unet.named_modules()}
    alone = drawn(model)
    for folder in (*adapters[kind], adapters[kind][0]):
        adapted = model.adapted(adapter_card(card, folder))
        assert drawn(adapted) == reference(folders[kind], folder) != alone
        assert adapted.switch_s > 0
        assert drawn(model) == alone
    assert {name: id(part) for name, part in unet.named_modules()} == before
    model.close()


@pytest.mark.parametrize("quantization", ["int8", "nf4-double"])
def test_packed_layers_take_an_adapter(folders: Any, adapters: Any, quantization: str) -> None:
    card = tiny.card(folders["sd"], (quantization,))
    model: Any = load(card, folders["sd"], "cpu")
    alone, adapted = drawn(model), model.adapted(adapter_card(card, adapters["sd"][0]))
    changed = drawn(adapted)
    assert changed != alone
    leave_and_return(model)
    assert drawn(adapted) == changed
    assert drawn(model) == alone
    model.close()


def test_a_picture_is_drawn_anew_with_an_adapter(folders: Any, adapters: Any) -> None:
    card = tiny.card(folders["sd"])
    model: Any = load(card, folders["sd"], "cpu")
    request = ImageGenerationRequest(
        "a cat", seed=7, preview_every_s=None, source=Image.new("RGB", (64, 64), "red")
    )
    alone = drawn(model, request)
    assert drawn(model.adapted(adapter_card(card, adapters["sd"][0])), request) != alone
    assert drawn(model, request) == alone
    model.close()


def test_a_turn_that_is_stopped_or_fails_leaves_the_base_alone(
    folders: Any, adapters: Any, tmp_path: Path
) -> None:
    card = tiny.card(folders["sd"])
    model: Any = load(card, folders["sd"], "cpu")
    alone = drawn(model)
    adapted = model.adapted(adapter_card(card, adapters["sd"][0]))
    events = adapted.run(CAT, threading.Event())
    assert any(isinstance(event, Progress) for event in events)
    events.close()
    assert drawn(model) == alone
    other = save_unet_adapter(tmp_path / "other", "sdxl")
    with pytest.raises(BackendError, match="made for another model than Tiny diffusion"):
        drawn(model.adapted(adapter_card(card, other)))
    assert drawn(model) == alone
    model.close()


def test_only_a_unet_takes_an_adapter(folders: Any, adapters: Any) -> None:
    card, pipeline = tiny.card(folders["sd"]), tiny.pipeline("sd")
    pipeline.register_modules(unet=None)
    model = Diffusion(card, pipeline)
    with pytest.raises(RequestError, match="draws without a U-Net"):
        drawn(model.adapted(adapter_card(card, adapters["sd"][0])))
