"""What of a budget is left for models and turns: `fit` plans with it and the program keeps it.

The budget is what the whole program takes of a card by the driver's count. The CUDA context,
cuBLAS, cuDNN and kernels are part of that, and PyTorch's allocator, which can be told to stop at a
number of bytes, does not count them.
"""

from __future__ import annotations

import sys

from multimodal.catalog.cards import Profile
from multimodal.errors import SettingsError
from multimodal.memory.devices.base import CUDA_CONTEXT_BYTES, Device
from multimodal.sizes import gigabytes

DRIVER_MARGIN_BYTES = 500_000_000
"""Left of what is free when the program starts, for kernels that are loaded later and for windows
that other programs open. A reserve, not a measurement."""
SPILLING_MARGIN_BYTES = 700_000_000
"""The same where the driver begins to use host memory before a card is full, instead of refusing,
as under Windows."""


def driver_margin_bytes(is_spilling: bool | None) -> int:
    """`is_spilling`: as measured of the card; None where it was not."""
    spills = sys.platform == "win32" if is_spilling is None else is_spilling
    return SPILLING_MARGIN_BYTES if spills else DRIVER_MARGIN_BYTES


def is_on_gpu(profile: Profile, device_kind: str = "auto") -> bool:
    """Whether `profile` runs on a card where it is to run on a device of that kind, as `--device`
    names it; a simulated card is the one that the profile is made for."""
    kind = device_kind if device_kind in {"cpu", "cuda"} else profile.device
    return kind == "cuda"


def planned_reserve_bytes(
    profile: Profile, device_kind: str = "auto", context_bytes: int | None = None
) -> int:
    """What a budget also has to hold where `profile` is to run on a device of that kind;
    `context_bytes` as measured on the card, where they were."""
    return (context_bytes or CUDA_CONTEXT_BYTES) if is_on_gpu(profile, device_kind) else 0


def describe_reserve(reserve_bytes: int) -> str:
    """Where such a reserve comes from, for a person."""
    return "a reserve" if reserve_bytes == CUDA_CONTEXT_BYTES else "measured"


def model_bytes(budget_bytes: int, device: Device) -> int:
    """The most that models and turns may take of `device` under a budget.

    Raises SettingsError where nothing would be left.
    """
    reserve = device.context_bytes
    budget = min(budget_bytes, device.capacity_bytes())
    left = min(budget - reserve, device.usable_bytes())
    if left <= 0 and budget <= reserve:
        raise SettingsError(
            f"--budget {gigabytes(budget)} leaves nothing for models: {gigabytes(reserve)} of it "
            "are kept for the CUDA context and its libraries. Choose a larger budget."
        )
    if left <= 0:
        raise SettingsError(
            f"Nothing of {device.name} is left for models: other programs take its memory. Close "
            "them and start again, or choose --device cpu."
        )
    return left
