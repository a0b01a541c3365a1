"""Bytes of one step of training a picture classifier, every weight of it, from its card alone.

The step is traced (`classifier_backward.py`), as `backward.py` does for a text model: of one
picture and of two, so that what each adds is told apart from what there is once. Activations are
counted in 32 bits whatever the precision: under autocast some stay so, and which ones is up to
PyTorch. Recomputing layers is left out of account, too; both make the figure too large, not too
small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from multimodal.catalog.architectures import ModelPart, ModulesArchitecture
from multimodal.memory.estimate.factors import ESTIMATE
from multimodal.memory.estimate.training import (
    GRADIENT_BYTES,
    STATE_BYTES,
    TRAINED_BYTES,
    Optimizer,
    TrainingBytes,
)


@dataclass(frozen=True, slots=True)
class ClassifierStep:
    """`batch` pictures are computed at once. `accumulates`: gradients are kept while the next ones
    are read; `is_wide`: it is computed in 32 bits, without copies of the weights in 16."""

    batch: int = 1
    optimizer: Optimizer = "adamw"
    accumulates: bool = True
    is_wide: bool = True


def classifier_bytes(part: ModelPart, side: int, step: ClassifierStep) -> TrainingBytes:
    """What one step takes of the classifier `part`, of pictures of `side` pixels on a side. Raises
    CardError where it cannot be built."""
    return _picture_step_bytes(part, side, step, copies=0)


def denoising_bytes(part: ModelPart, side: int, step: ClassifierStep) -> TrainingBytes:
    """The same of a denoiser of pixels, with the moving average of its weights."""
    return _picture_step_bytes(part, side, step, copies=1)


def _picture_step_bytes(
    part: ModelPart, side: int, step: ClassifierStep, copies: int
) -> TrainingBytes:
    from multimodal.memory.estimate.classifier_backward import picture_bytes

    once, each = picture_bytes(part.model_dump_json(), side)
    trained = trained_parameters(part)
    weights = trained * (TRAINED_BYTES * (1 + copies) + (0 if step.is_wide else 2))
    kept = int(ESTIMATE.convolution * (once + each * step.batch))
    states = trained * (STATE_BYTES[step.optimizer] + GRADIENT_BYTES)
    if not step.accumulates:  # activations go as gradients come
        kept = max(0, kept - trained * GRADIENT_BYTES)
    return TrainingBytes(weights, states, kept)


def trained_parameters(part: ModelPart) -> int:
    """How many parameters are trained: all."""
    from multimodal.memory.estimate.modules import tensors

    found = tensors(ModulesArchitecture(kind="modules", parts={"model": part}))
    return sum(math.prod(tensor.shape) for tensor in found if tensor.parameter)
