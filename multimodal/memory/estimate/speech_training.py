"""Bytes of one step of training a speech recognizer, from its card alone.

As for a picture classifier (`classifier_training.py`): the step is traced (`speech_backward.py`),
activations are counted in 32 bits whatever the precision, and layers that are recomputed as if they
were kept. A recording has 30 s; shorter ones take less. An adapter is counted in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from multimodal.catalog.architectures import ModelPart
from multimodal.memory.estimate.factors import ESTIMATE
from multimodal.memory.estimate.training import (
    GRADIENT_BYTES,
    STATE_BYTES,
    TRAINED_BYTES,
    Optimizer,
    TrainedWeights,
    TrainingBytes,
)

SPECTRA = 1.15
"""Of what is counted, what steps on spectra were measured to take on a CPU, and some more."""


@dataclass(frozen=True, slots=True)
class SpeechStep:
    """`batch` recordings are computed at once; `weights`: which are trained, all, decoder or
    adapter; `is_wide`: in 32 bits, without copies of the weights in 16."""

    batch: int = 1
    weights: TrainedWeights = "all"
    rank: int = 16
    optimizer: Optimizer = "adamw"
    is_wide: bool = True


def speech_bytes(part: ModelPart, step: SpeechStep) -> TrainingBytes:
    """What one step takes of the recognizer `part`. Raises CardError where it cannot be built."""
    from multimodal.memory.estimate.speech_backward import recording_bytes, trained_sizes

    told = part.model_dump_json()
    total, trained = trained_sizes(told, step.weights, step.rank)
    is_adapter = step.weights == "adapter"
    held = total + (trained if is_adapter else 0)
    once, each = recording_bytes(told, step.weights)
    weights = held * (TRAINED_BYTES + (0 if step.is_wide else 2))
    factor = SPECTRA if _reads_spectra(part) else ESTIMATE.convolution
    kept = int(factor * (once + each * step.batch))
    states = trained * (STATE_BYTES[step.optimizer] + GRADIENT_BYTES)
    return TrainingBytes(weights, states, kept)


def trained_parameters(part: ModelPart, step: SpeechStep) -> int:
    """How many parameters are trained."""
    from multimodal.memory.estimate.speech_backward import trained_sizes

    return trained_sizes(part.model_dump_json(), step.weights, step.rank)[1]


def _reads_spectra(part: ModelPart) -> bool:
    """Whether it hears by spectrum; convolutions on plain samples take more than is counted."""
    return "CTC" not in part.model
