"""What teaching a model that sees is said to take, against live storages of a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from test_training_estimate import SHAPES

from multimodal.catalog.architectures import ModelPart
from multimodal.catalog.cards import Catalog
from multimodal.memory.devices.storages import storage_bytes
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.memory.estimate.caption_training import caption_bytes, picture_tokens
from multimodal.memory.estimate.training import TrainingStep, text_part
from multimodal.studio.data.masks import IGNORED
from multimodal.studio.recipes.caption_dataset import CaptionCollator
from multimodal.studio.recipes.describe import caption_loss
from multimodal.studio.recipes.seeing_model import language_adapter
from multimodal.studio.settings import JobSettings

SIDE, PATCH, SIGN = 64, 8, 5
PICTURE = (SIDE // PATCH) ** 2
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
LLAVA = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", **SHAPES["llama"]},
    "vision_config": VISION,
    "image_token_id": SIGN,
}


def test_a_picture_takes_as_many_tokens_as_its_card_is_known_for(catalog: Catalog) -> None:
    names = ("blip-2-opt-2.7b", "llava-1.5-7b", "smolvlm-256m", "llava-next-mistral-7b")
    parts = [text_part(catalog.card(name)) for name in names]
    assert [picture_tokens(part) for part in parts if part] == [32, 577, 1088, 2928]


@pytest.mark.parametrize("recomputes", [True, False])
def test_a_step_of_the_trainer_takes_what_is_said(tmp_path: Path, recomputes: bool) -> None:
    words, batch, rank = 192, 2, 8
    model_class = "AutoModelForImageTextToText"
    part = ModelPart(library="transformers", model=model_class, config=LLAVA)
    step = TrainingStep(
        "lora", batch, words, "fp32", "adamw", recomputes, accumulates=False, lora_rank=rank
    )
    config = transformers.AutoConfig.for_model(**LLAVA)
    model: Any = transformers.AutoModelForImageTextToText.from_config(config)
    settings = JobSettings(name="a", model="b", data="c", method="describe", lora_rank=rank)
    adapted = peft.get_peft_model(model, language_adapter(settings, model))
    written = list(range(100, 100 + words))
    item = {
        "input_ids": [SIGN] * PICTURE + written,
        "labels": [IGNORED] * PICTURE + written,
        "inputs": {"pixel_values": torch.zeros(1, 3, SIDE, SIDE)},
    }
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        max_steps=2,
        use_cpu=True,
        gradient_checkpointing=recomputes,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = transformers.Trainer(
        model=adapted,
        args=arguments,
        data_collator=CaptionCollator(0, torch.float32),
        train_dataset=[item] * (2 * batch),  # type: ignore[arg-type]
        compute_loss_func=caption_loss,
    )
    live = LiveStorages()
    with live:
        trainer.train()
    taken = storage_bytes(adapted) + live.peak
    assert caption_bytes(part, step).total == pytest.approx(taken, rel=0.1)
