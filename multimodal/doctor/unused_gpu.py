"""A card that PyTorch does not use: said at the start, before anything is fetched.

Windows gives that: PyPI's PyTorch for Windows is built without CUDA, so a machine with a large card
would begin with the small models without a word.
"""

from __future__ import annotations

from multimodal.build import UnusedGpu, choose_profile, read_catalog
from multimodal.catalog.cards import AUTO, Catalog
from multimodal.doctor import rules
from multimodal.doctor.machine import Machine, examine_machine
from multimodal.errors import MultimodalError
from multimodal.memory.devices.base import nvidia_driver_is_here
from multimodal.memory.devices.nvidia import driver
from multimodal.memory.devices.torch_build import installed_build
from multimodal.settings import Settings


def unused_gpu(settings: Settings) -> UnusedGpu | None:
    """The card of this machine if what was chosen would use it and PyTorch cannot.

    PyTorch, which takes a second to load, is asked only where a driver shows a card.
    """
    if settings.device_kind not in {"auto", "cuda"}:
        return None
    if nvidia_driver_is_here():
        from multimodal.memory.devices.cuda import total_gpu_bytes

        if total_gpu_bytes():
            return None
    shown = driver()
    if shown is None or not shown.gpus:
        return None
    try:
        return find_unused_gpu(settings, read_catalog(settings), examine_machine(installed_build))
    except MultimodalError:  # the start says it
        return None


def find_unused_gpu(settings: Settings, catalog: Catalog, machine: Machine) -> UnusedGpu | None:
    """The same of any machine. Raises CardError for an unknown profile."""
    if machine.driver is None or not machine.driver.gpus:
        return None
    card = machine.driver.gpus[0]
    profile = choose_profile(catalog, settings.profile, card.memory_bytes)
    is_wanted = settings.device_kind == "cuda" or profile.device == "cuda"
    finding = rules.torch(machine, asked=True)
    if not is_wanted or finding.is_ok:
        return None
    instead = ""
    if settings.profile == AUTO and settings.device_kind == "auto":
        instead = (
            " Small models answer on the CPU meanwhile; --device cpu says that this is wanted."
        )
    return UnusedGpu(
        f"{card.name} is not used: PyTorch {finding.found}. End the program, do this, then start "
        f"it again.{instead}",
        finding.fix,
    )
