"""A class-conditional diffusion model as a trainer takes it: noise is added to pictures, and the
model is to find it (Ho et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from multimodal.backends.class_diffusion.checkpoint import ClassDiffusionModel, load_checkpoint
from multimodal.catalog.sources import UntrainedSource
from multimodal.errors import BackendError, RequestError
from multimodal.studio.context import JobContext
from multimodal.studio.estimate import drawing_part, drawing_side

MOST_DECAY = 0.995
"""Of the average of the weights: it looks back on 200 updates."""
SCHEDULE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"}
"""The cosine schedule (Nichol and Dhariwal 2021), for small pictures."""


class DenoisingModel(nn.Module):
    """`unet` is trained; `average` is the moving average of its weights, which draws and is
    measured, since single updates make pictures worse and better by turns (Song and Ermon 2020)."""

    def __init__(self, model: ClassDiffusionModel) -> None:
        super().__init__()
        self.unet = model.unet
        self.average = AveragedModel(model.unet, avg_fn=_average).requires_grad_(False)
        self._scheduler, self.labels = model.scheduler, model.labels

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The mean of `squared_errors`."""
        return {"loss": self.squared_errors(pixel_values, labels, noise, timesteps).mean()}

    def squared_errors(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> torch.Tensor:
        """Of the noise in each picture, by the average unless it is training: shape (pictures,).
        Pixels are in [-1, 1], shape (pictures, channels, side, side), as `noise` is."""
        unet = self.unet if self.training else self.average.module
        noisy = self._scheduler.add_noise(pixel_values, noise, timesteps)
        found = unet(noisy, timesteps, labels).sample
        errors: torch.Tensor = (found.float() - noise).square().mean(dim=(1, 2, 3))
        return errors

    def drawing_model(self) -> ClassDiffusionModel:
        """What draws."""
        return ClassDiffusionModel(self.average.module, self._scheduler, self.labels)


class AverageCallback(TrainerCallback):
    """Brings the average up to date after each update."""

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **more: Any,
    ) -> None:
        model.average.update_parameters(model.unet)


def load_denoising_model(job: JobContext, labels: tuple[str, ...]) -> DenoisingModel:
    """In fp32, on the CPU; what is new in it is drawn from PyTorch's random numbers. Raises
    RequestError for a resolution that it cannot have, BackendError for a damaged checkpoint."""
    card = job.start.card
    if (part := drawing_part(card)) is None:
        raise BackendError(f"{card.title}: its card names no UNet2DModel of diffusers.")
    side = drawing_side(card, job.settings)
    grain = 2 ** (len(part.config["block_out_channels"]) - 1)
    if side % grain:
        raise RequestError(
            f"{card.title} draws pictures whose sides are multiples of {grain}; choose a "
            f"resolution of {side // grain * grain} or {(side // grain + 1) * grain}."
        )
    config = {**part.config, "sample_size": side, "num_class_embeds": len(labels) + 1}
    unet: Any = UNet2DModel.from_config(config)  # type: ignore[no-untyped-call]
    if isinstance(card.source, UntrainedSource):
        scheduler: Any = DDIMScheduler(**SCHEDULE)  # type: ignore[no-untyped-call]
        return DenoisingModel(ClassDiffusionModel(unet, scheduler, labels))
    known = load_checkpoint(job.start.files, card.title)
    weights = known.unet.state_dict()
    if known.labels != labels:
        weights = {name: it for name, it in weights.items() if "class_embedding" not in name}
    unet.load_state_dict(weights, strict=known.labels == labels)
    return DenoisingModel(ClassDiffusionModel(unet, known.scheduler, labels))


def _average(averaged: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> Any:
    """The decay grows, so that the random weights of the beginning are soon forgotten."""
    decay = min(MOST_DECAY, (1 + int(count)) / (10 + int(count)))
    return averaged.lerp(current, 1 - decay)
