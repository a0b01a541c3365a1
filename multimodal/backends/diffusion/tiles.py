"""Latents decoded in tiles where the card has no room to decode all at once.

A decoder of Stable Diffusion's kind takes more than its whole denoiser's step did, at the very end
of a picture. In tiles of 512 pixels it takes what a picture of that side takes; since each tile is
normalised by itself, tones may differ a little, so tiles are for pictures that would fail.
"""

from __future__ import annotations

from typing import Any

import torch

from multimodal.memory.devices.cuda import free_bytes_within

BYTES_PER_PIXEL = 2600
"""Taken beside the weights by decoding at once, in 16 bits. Measured on an H200 (PyTorch 2.11,
cuDNN 9.19): 2,572 at 512, 2,436 at 768 and 2,434 at 1,024 pixels a side."""
TILE_PIXELS = 512


def set_tiling(vae: Any, width: int, height: int, free_bytes: int | None) -> None:
    """Let `vae`, of diffusers, decode a picture of so many pixels at once, or in tiles where
    `free_bytes` are less than that takes. None: there is no card that could be full."""
    if not hasattr(vae, "tile_sample_min_size"):
        return
    if free_bytes is None or width * height * BYTES_PER_PIXEL <= free_bytes:
        vae.disable_tiling()
        return
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE_PIXELS, TILE_PIXELS // scale
    vae.enable_tiling()


def free_bytes_of(device: torch.device) -> int | None:
    """What PyTorch can still take of that card, within its limit; None for another device."""
    if device.type != "cuda":
        return None
    _free, total = torch.cuda.mem_get_info(device)
    most = torch.cuda.get_per_process_memory_fraction(device) * total
    return free_bytes_within(device, most)
