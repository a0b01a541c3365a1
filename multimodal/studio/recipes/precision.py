"""In which numbers a job computes, and in which it keeps the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from multimodal.backends.checkpoints import sixteen_bits
from multimodal.memory.devices.device_errors import translate_device_errors
from multimodal.studio.context import JobContext
from multimodal.studio.settings import JobSettings

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def compute_type(settings: JobSettings, device: str) -> torch.dtype:
    """What matrices are multiplied in, by autocast where the weights are wider. A processor takes
    fp32 unless bf16 is asked for; it has no quick fp16. A card before Ampere has no bf16."""
    if device == "cpu":
        return torch.bfloat16 if settings.precision == "bf16" else torch.float32
    if settings.precision in {"auto", "bf16"}:
        return sixteen_bits(device)
    return TYPES[settings.precision]


def weight_type(settings: JobSettings, device: str) -> torch.dtype:
    """That of the model as it is loaded. Weights that are trained are kept in fp32, since an update
    is smaller than what 16 bits resolve (Micikevicius et al. 2018, section 3.1); those that stay
    as they are beside an adapter, in what is computed in."""
    return torch.float32 if settings.method == "full" else compute_type(settings, device)


def precision_notice(settings: JobSettings, device: str) -> str:
    """What is said where the device cannot have what was asked for; else ""."""
    asked, given = TYPES.get(settings.precision), compute_type(settings, device)
    if asked in {None, given}:
        return ""
    name = str(given).removeprefix("torch.")
    return f"This device does not compute in {settings.precision}; {name} is used instead."


@contextmanager
def computing(job: JobContext, dtype: torch.dtype, doing: str) -> Iterator[None]:
    """Outside of the trainer: in the numbers that are trained in, with errors of the device as the
    program's. `doing` is told."""
    job.tell(doing=doing)
    is_wide = dtype is torch.float32
    with (
        translate_device_errors(job.start.card.title),
        torch.autocast(job.start.device, None if is_wide else dtype, enabled=not is_wide),
    ):
        yield


def widen_trained(model: torch.nn.Module) -> None:
    """Keep what is trained in fp32; TRL has an adapter on a base of few bits in bfloat16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
