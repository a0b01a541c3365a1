"""What the parts of a diffusion model compute for one picture."""

from __future__ import annotations

from typing import Any

from multimodal.memory.estimate.activation import ForwardPass, InputMaker, input_maker

LATENT_SCALE = 8
"""Pixels on a side that one latent stands for."""
PICTURE_SIDE = 512
"""Where the card says nothing else."""


def forward_passes(module: Any, tokens: int, picture_side: int | None) -> list[ForwardPass]:
    """The U-Net takes one step towards a picture of `picture_side`, the decoder makes one; beside
    them text encoders take next to nothing."""
    make, latents = input_maker(module), (picture_side or PICTURE_SIDE) // LATENT_SCALE
    name = type(module).__name__
    if name.startswith("UNet2DCondition"):
        return [ForwardPass(lambda: _denoise(module, make, latents), "convolution")]
    if name.startswith("Autoencoder"):
        size = module.config.latent_channels, latents, latents
        return [ForwardPass(lambda: module.decode(make(1, *size)), "convolution")]
    return []


def _denoise(unet: Any, make: InputMaker, latents: int) -> None:
    """Two pictures at once: with and without the prompt, as classifier-free guidance asks."""
    config = unet.config
    more = {}
    if config.addition_embed_type == "text_time":
        extra = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        more = {"added_cond_kwargs": {"text_embeds": make(2, extra), "time_ids": make(2, 6)}}
    words = make(2, 77, config.cross_attention_dim)
    unet(make(2, config.in_channels, latents, latents), 0, words, **more)
