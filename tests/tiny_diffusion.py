"""Diffusion pipelines of random weights, saved in the layout that is published on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from multimodal.catalog.architectures import Modules, Part
from multimodal.catalog.cards import DrawingDefaults, ModelCard
from multimodal.catalog.sources import FolderSource
from multimodal.messages import Task

Kind = Literal["sd", "sdxl", "ldm"]
SIDE = 64
WORDS = 16
"""How many tokens the text encoders read, the first and the last sign among them."""


def tokenizer(most: int = WORDS) -> transformers.CLIPTokenizer:
    """One token a letter."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!'"
    signs = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *signs]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=most)


def text_encoder(width: int, projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer()),
        hidden_size=width,
        intermediate_size=width * 2,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        max_position_embeddings=WORDS,
        bos_token_id=80,
        eos_token_id=81,
        pad_token_id=81,
    )
    made = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return made(config)


def unet(words: int, **more: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        cross_attention_dim=words,
        **more,
    )


def vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def scheduler(name: str) -> Any:
    facts = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    more = {"steps_offset": 1, "clip_sample": False} if name == "DDIMScheduler" else {}
    return getattr(diffusers, name)(**facts, **more)


def safety_checker(flags: bool) -> StableDiffusionSafetyChecker:
    """One that finds every picture unsafe, or none."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 30,
        "patch_size": 10,
        "projection_dim": 32,
    }
    made = StableDiffusionSafetyChecker(
        transformers.CLIPConfig(vision_config=vision, projection_dim=32)
    )
    bound = -2.0 if flags else 2.0  # a cosine is never below the one nor above the other
    for weights in (made.concept_embeds_weights, made.special_care_embeds_weights):
        torch.nn.init.constant_(weights, bound)
    return made


def pipeline(
    kind: Kind = "sd", steps_by: str = "DDIMScheduler", checked: bool | None = None
) -> Any:
    """A random pipeline; `checked`: with a safety checker that flags everything, or nothing."""
    torch.manual_seed(0)
    if kind == "ldm":
        words = LDMBertConfig(
            vocab_size=82,
            d_model=32,
            encoder_layers=2,
            encoder_ffn_dim=64,
            encoder_attention_heads=4,
            head_dim=8,
            max_position_embeddings=77,
        )
        read = tokenizer(77)
        return diffusers.LDMTextToImagePipeline(
            vae(), LDMBertModel(words), read, unet(32), scheduler(steps_by)
        )
    if kind == "sdxl":
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 32,
            "transformer_layers_per_block": (1, 1),
            "use_linear_projection": True,
        }
        return diffusers.StableDiffusionXLPipeline(
            vae(),
            text_encoder(32),
            text_encoder(32, projected=True),
            tokenizer(),
            tokenizer(),
            unet(64, **extra),
            scheduler(steps_by),
            add_watermarker=False,
        )
    return diffusers.StableDiffusionPipeline(
        vae(),
        text_encoder(32),
        tokenizer(),
        unet(32),
        scheduler(steps_by),
        None if checked is None else safety_checker(checked),
        None if checked is None else transformers.CLIPImageProcessorPil(crop_size=30, size=30),
        requires_safety_checker=checked is not None,
    )


def saved(folder: Path, made: Any, **more: Any) -> Path:
    made.save_pretrained(folder, safe_serialization=True, **more)
    return folder


def card(folder: Path, quantization: tuple[str, ...] = (), **more: Any) -> ModelCard:
    parts = {
        "unet": Part(library="diffusers", model="UNet2DConditionModel"),
        "vae": Part(library="diffusers", model="AutoencoderKL", quantized=False),
        "text_encoder": Part(library="transformers", model="CLIPTextModel", quantized=False),
    }
    drawing = {"steps": 3, "guidance": 5.0} | more
    return ModelCard(
        name="tiny-diffusion",
        title="Tiny diffusion",
        task=Task.DRAW,
        family="diffusion",
        license="MIT",
        source=FolderSource(kind="folder", path=folder),
        architecture=Modules(kind="modules", parts=parts, picture_side=SIDE),
        quantization=quantization,
        drawing=DrawingDefaults(**drawing),
    )
