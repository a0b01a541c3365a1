"""Bytes of one step of training an adapter beside the attention of a pipeline's U-Net, from its
card alone.

The step is traced (`pipeline_backward.py`), with layers recomputed where they will be. On a card
what the text encoders take is left out: they are there and gone before the U-Net comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multimodal.catalog.architectures import ModelPart
from multimodal.memory.estimate.factors import ESTIMATE
from multimodal.memory.estimate.training import (
    GRADIENT_BYTES,
    STATE_BYTES,
    TRAINED_BYTES,
    Optimizer,
    TrainingBytes,
)


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """`batch` pictures are computed at once. `is_wide`: in 32 bits; else frozen weights are in 16,
    and what autocast computes in 16 is. `recomputes`: gradient checkpointing. `on_cpu`: all parts
    are read into the memory that the step is computed in."""

    batch: int = 1
    rank: int = 16
    optimizer: Optimizer = "adamw"
    is_wide: bool = True
    recomputes: bool = False
    on_cpu: bool = False


def pipeline_bytes(
    unet: ModelPart, parts: Mapping[str, ModelPart], side: int, step: PipelineStep
) -> TrainingBytes:
    """What one step takes of the U-Net `unet`, one of the `parts` of a pipeline, at pictures of
    `side` pixels on a side. Other parts of diffusers stay beside it, to show what is drawn. Raises
    CardError where one cannot be built."""
    from multimodal.memory.estimate.pipeline_backward import latent_bytes, weight_sizes

    numbers = 4 if step.is_wide else 2
    frozen, trained = weight_sizes(unet.model_dump_json(), step.rank)
    before = 0
    for part in parts.values():
        size, _ = weight_sizes(part.model_dump_json(), step.rank)
        frozen += size if part.library == "diffusers" and part is not unet else 0
        before += size if part.library == "transformers" and step.on_cpu else 0
    once, each = latent_bytes(
        unet.model_dump_json(), side, step.rank, step.is_wide, step.recomputes
    )
    return TrainingBytes(
        frozen * numbers + trained * TRAINED_BYTES,
        trained * (STATE_BYTES[step.optimizer] + GRADIENT_BYTES),
        max(before * numbers, int(ESTIMATE.convolution * (once + each * step.batch))),
    )


def trained_parameters(unet: ModelPart, rank: int) -> int:
    """How many parameters the adapter has."""
    from multimodal.memory.estimate.pipeline_backward import weight_sizes

    return weight_sizes(unet.model_dump_json(), rank)[1]
