"""Checkpoints of models that see, with random weights in the published layout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tiny_models import causal_config, tokenizer

from multimodal.backends.base import Backend, TextRequest
from multimodal.events import Usage
from multimodal.messages import Sampling

# LLaVA's own manner, with the pictures where the parts of the content say.
TALK = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QUESTION = (
    "Question:{% for c in messages[-1]['content'] if c['type'] == 'text' %} {{ c['text'] }}"
    "{% endfor %} Answer:"
)
IMAGE = 4
SIDE, PATCH = 32, 8
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
SIZES = {"size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture in which no two places are alike."""
    drawn = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def spread(model: Any) -> None:
    """Larger weights than usual, so that what a picture shows makes a difference."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)


def _save(folder: Path, config: dict[str, Any], processor: Any) -> dict[str, Any]:
    torch.manual_seed(2)
    made = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForImageTextToText.from_config(made)
    spread(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return config


def save_llava(folder: Path, **text: Any) -> dict[str, Any]:
    """`text`: what its text model has otherwise."""
    config = {
        "model_type": "llava",
        "text_config": causal_config("llama", **text),
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": 64, **VISION},
        "image_token_id": IMAGE,
        "image_seq_length": (SIDE // PATCH) ** 2,
    }
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(**SIZES),
        tokenizer(None, ("<image>",)),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TALK,
    )
    return _save(folder, config, processor)


def save_llava_next(folder: Path) -> dict[str, Any]:
    grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = {
        "model_type": "llava_next",
        "text_config": causal_config("llama"),
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": 64, **VISION},
        "image_token_id": IMAGE,
        "image_grid_pinpoints": grid,
    }
    shortest = {"shortest_edge": SIDE}
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessor(
            size=shortest, crop_size=SIZES["crop_size"], image_grid_pinpoints=grid
        ),
        tokenizer(None, ("<image>",)),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TALK,
    )
    return _save(folder, config, processor)


def _blip_parts() -> dict[str, Any]:
    qformer = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "encoder_hidden_size": 64,
        "vocab_size": 400,
    }
    return {
        "vision_config": VISION,
        "qformer_config": qformer,
        "text_config": causal_config(
            "llama",
        ),
        "num_query_tokens": 4,
        "image_token_index": IMAGE,
    }


def save_blip2(folder: Path) -> dict[str, Any]:
    config = {"model_type": "blip-2", **_blip_parts()}
    processor = transformers.Blip2Processor(
        transformers.BlipImageProcessor(size=SIZES["size"]),
        tokenizer(None, ("<image>",)),
        num_query_tokens=4,
    )
    return _save(folder, config, processor)


def save_instruct_blip(folder: Path) -> dict[str, Any]:
    config = {"model_type": "instructblip", **_blip_parts()}
    processor = transformers.InstructBlipProcessor(
        transformers.BlipImageProcessor(size=SIZES["size"]),
        tokenizer(None, ("<image>",)),
        tokenizer(None),
        num_query_tokens=4,
    )
    return _save(folder, config, processor)


SMOLVLM = {
    "model_type": "idefics3",
    "text_config": causal_config("llama"),
    "vision_config": VISION,
    "image_token_id": IMAGE,
    "scale_factor": 2,
    "pad_token_id": 0,
}


def save_smolvlm(folder: Path) -> dict[str, Any]:
    """SmolVLM's first models are Idefics3 by their config.json."""
    signs = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<row_1_col_1>")
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessor(
            size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}
        ),
        tokenizer(None, ("<image>", *signs)),
        image_seq_len=(SIDE // PATCH // 2) ** 2,
        chat_template=TALK,
    )
    return _save(folder, SMOLVLM, processor)


def save_smolvlm_of_tiles(folder: Path) -> dict[str, Any]:
    """The same as llama.cpp always reads it: four tiles of a picture, and the whole."""
    rows = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    signs = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "\n\n", *rows)
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessor(
            size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
        ),
        tokenizer(None, ("<image>", *signs)),
        image_seq_len=(SIDE // PATCH // 2) ** 2,
        chat_template=TALK,
    )
    return _save(folder, SMOLVLM, processor)


def usage_after_a_stop(model: Backend, picture: Image.Image) -> Usage:
    """Of a long answer about `picture` that is stopped at its first word."""
    stop, question = threading.Event(), ("user", "What colour is the car?")
    sampling = Sampling(max_tokens=200)
    stream = model.run(TextRequest((question,), sampling=sampling, pictures=((0, picture),)), stop)
    next(stream)
    stop.set()
    *_, last = stream
    assert isinstance(last, Usage)
    return last


SEEING: dict[str, Callable[[Path], dict[str, Any]]] = {
    "llava": save_llava,
    "llava-next": save_llava_next,
    "smolvlm": save_smolvlm,
    "blip-2": save_blip2,
    "instructblip": save_instruct_blip,
}
TEMPLATES = {"blip-2": QUESTION, "instructblip": QUESTION}
