"""From noise to pictures by a class-conditional diffusion model (DDIM, Song et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from multimodal.backends.class_diffusion.checkpoint import ClassDiffusionModel

BeforeStep = Callable[[int, int], None]
"""Is told the number of the step, from 0, and how many there are; may raise to end the loop."""


@torch.no_grad()
def sample_pictures(
    model: ClassDiffusionModel,
    classes: Sequence[int],
    noise: torch.Tensor,
    steps: int,
    guidance: float,
    before_step: BeforeStep = lambda step, steps: None,
) -> list[Image.Image]:
    """A picture of each of `classes`, from `noise` (pictures, channels, side, side). `guidance`:
    of 1 or less leaves out the pass without the class. Modules keep their mode."""
    unet, scheduler = model.unet, copy.deepcopy(model.scheduler)
    scheduler.set_timesteps(steps)
    wanted = torch.tensor(classes, device=unet.device)
    nothing = torch.full_like(wanted, model.no_class)
    pictures = noise.to(unet.device, unet.dtype)
    for number, timestep in enumerate(scheduler.timesteps):
        before_step(number, len(scheduler.timesteps))
        if guidance > 1:
            both = unet(pictures.repeat(2, 1, 1, 1), timestep, torch.cat([wanted, nothing])).sample
            conditional, unconditional = both.chunk(2)
            found = unconditional + guidance * (conditional - unconditional)
        else:
            found = unet(pictures, timestep, wanted).sample
        pictures = scheduler.step(found, timestep, pictures).prev_sample
    return [_as_image(picture) for picture in pictures]


def make_noise(model: ClassDiffusionModel, seeds: Sequence[int]) -> torch.Tensor:
    """Of the model's shape, made on the CPU, so that a seed is the same picture on every device."""
    config = model.unet.config
    shape = (1, config.in_channels, config.sample_size, config.sample_size)
    made = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(it)) for it in seeds]
    return torch.cat(made)


def _as_image(pixels: torch.Tensor) -> Image.Image:
    """Of (channels, height, width) in [-1, 1], RGB."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
    return Image.fromarray(np.ascontiguousarray(scaled.permute(1, 2, 0).numpy())).convert("RGB")
