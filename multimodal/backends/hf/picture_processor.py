"""The processor of a checkpoint that sees: pictures prepared as its authors did, and as many tokens
for each in the prompt as the vision part makes of it.

Pictures are prepared by PIL, as all of these models' authors did, whether or not torchvision is
installed. What processor files of older checkpoints leave out is read from config.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
)
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from multimodal.backends.tokenizer_files import LOCAL, restore_published_pipeline
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CardError

PROCESSOR = "processor_config.json"
PAD = "pad"


def load_processor(card: ModelCard, files: Path) -> Any:
    """The processor of the folder `files`, which prepares pictures as the card says.

    Raises CardError where the card asks for what the checkpoint's processor cannot do.
    """
    processor: Any = AutoProcessor.from_pretrained(files, **LOCAL)  # type: ignore[no-untyped-call]
    restore_published_pipeline(processor.tokenizer, files)
    if (second := getattr(processor, "qformer_tokenizer", None)) is not None:
        restore_published_pipeline(second, files / "qformer_tokenizer")
        second.truncation_side = "left"
    pictures: Any = AutoImageProcessor.from_pretrained(files, backend="pil", **LOCAL)  # type: ignore[no-untyped-call]
    if card.picture.aspect_ratio == PAD:
        if not isinstance(pictures, CLIPImageProcessorPil | LlavaImageProcessorPil):
            raise CardError(
                f"{card.name}: picture.aspect_ratio: the checkpoint prepares pictures by "
                f"{type(pictures).__name__}, which does not pad. Leave the field out."
            )
        pictures = LlavaImageProcessorPil.from_pretrained(files, do_pad=True, **LOCAL)
    processor.image_processor = pictures
    return processor


def fill_missing_settings(processor: Any, model: Any, files: Path) -> None:
    """Fill in what the processor's files in `files` leave out, from the configuration of `model`:
    transformers counts the tokens of a picture by these values, or leaves the picture out."""
    path = files / PROCESSOR
    stated = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for name, value in _facts(model).items():
        if value is not None and hasattr(processor, name) and stated.get(name) is None:
            setattr(processor, name, value)
    if getattr(model.config, "image_token_id", None) is None:
        sign = str(processor.image_token)
        model.config.image_token_id = processor.tokenizer.convert_tokens_to_ids(sign)


def _facts(model: Any) -> dict[str, Any]:
    """What a processor needs to know of its model, by the processor's names."""
    config: Any = model.config
    scale = getattr(config, "scale_factor", None)
    return {
        "patch_size": getattr(config.vision_config, "patch_size", None),
        "num_query_tokens": getattr(config, "num_query_tokens", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
        "num_additional_image_tokens": _class_tokens(model),
        "image_seq_len": _patches(config) // scale**2 if scale else None,
    }


def expected_tokens(model: Any, inputs: dict[str, Any]) -> int | None:
    """How many tokens the vision part of `model` makes of the one picture in `inputs`; None for a
    kind of model that is not known here. Computed from shapes alone."""
    config: Any = model.config
    if queries := getattr(config, "num_query_tokens", None):
        return int(queries)
    if scale := getattr(config, "scale_factor", None):
        tiles = int(inputs["pixel_values"].shape[1])
        return tiles * _patches(config) // int(scale) ** 2
    strategy = getattr(config, "vision_feature_select_strategy", None)
    if strategy is None:
        return None
    whole: int = _patches(config) + _class_tokens(model) - (strategy == "default")
    if (grid := getattr(config, "image_grid_pinpoints", None)) is None:
        return whole
    height, width = _unpadded(config, grid, *inputs["image_sizes"][0].tolist())
    return whole + height * (width + 1)


def _patches(config: Any) -> int:
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size) ** 2


def _class_tokens(model: Any) -> int:
    """1 for a vision tower such as CLIP's, which puts a token for the whole picture first."""
    return int(any(name.endswith("class_embedding") for name, _ in model.named_parameters()))


def _unpadded(config: Any, grid: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches of LLaVA-NeXT's tiles, without those that only show padding."""
    vision = config.vision_config
    side = int(vision.image_size // vision.patch_size)
    tiles = get_anyres_image_grid_shape((height, width), grid, vision.image_size)  # type: ignore[no-untyped-call]
    rows, columns = tiles[0] * side, tiles[1] * side
    if width * rows > columns * height:
        seen = int(round(height * columns / width, 7))
        return rows - (rows - seen) // 2 * 2, columns
    seen = int(round(width * rows / height, 7))
    return rows, columns - (columns - seen) // 2 * 2


def check_picture(card: ModelCard, model: Any, tokens: list[int], inputs: dict[str, Any]) -> None:
    """Raise BackendError unless the prompt `tokens`, which shows one picture, has as many places
    for it as the vision part fills."""
    places = tokens.count(model.config.image_token_id)
    expected = expected_tokens(model, inputs)
    if not places or (expected is not None and places != expected):
        made = "some" if expected is None else f"{expected:,}"
        raise BackendError(
            f"{card.title}: a picture takes {places:,} tokens of its prompt, and its vision part "
            f"makes {made}. Compare its {PROCESSOR} with its config.json, or fetch both again."
        )
