"""The facts about this machine that the rules are asked about; collects them and judges nothing."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from multimodal.distributions import installed_version
from multimodal.memory.devices.nvidia import Driver, driver
from multimodal.memory.devices.torch_build import NOTHING, TorchBuild, probe_build

VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
DISPLAY_CLASS = "0x03"
"""PCI's own numbers for makers and for display controllers."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`vendors`: makers of the graphics cards on the bus, as far as the system tells.

    `driver`: None without nvidia-smi. `torch`, `bitsandbytes`: installed versions, empty where
    they are missing; `build`: what that PyTorch can do.
    """

    system: str
    release: str
    python: str
    bits: int
    cores: int
    memory_bytes: int
    free_bytes: int
    is_wsl: bool = False
    vendors: frozenset[str] = frozenset()
    driver: Driver | None = None
    torch: str = ""
    build: TorchBuild = NOTHING
    bitsandbytes: str = ""

    @property
    def is_windows(self) -> bool:
        return self.system == "Windows"

    @property
    def has_card(self) -> bool:
        """Whether the driver shows an NVIDIA card."""
        return self.driver is not None and bool(self.driver.gpus)


def examine_machine(ask_torch: Callable[[], TorchBuild] = probe_build) -> Machine:
    """This machine. `ask_torch`: how it is learned what PyTorch can do."""
    memory = psutil.virtual_memory()
    torch = installed_version("torch")
    return Machine(
        system=platform.system(),
        release=platform.platform(),
        python=platform.python_version(),
        bits=64 if sys.maxsize > 2**32 else 32,
        cores=os.cpu_count() or 1,
        memory_bytes=int(memory.total),
        free_bytes=int(memory.available),
        is_wsl="microsoft" in platform.release().lower(),
        vendors=vendors_on_bus(),
        driver=driver(),
        torch=torch,
        build=ask_torch() if torch else NOTHING,
        bitsandbytes=installed_version("bitsandbytes"),
    )


def vendors_on_bus(devices: Path = Path("/sys/bus/pci/devices")) -> frozenset[str]:
    """Linux tells who made the cards on its bus, with or without a driver; others do not."""
    found = set()
    for device in devices.glob("*"):
        try:
            kind = (device / "class").read_text("ascii")
            maker = (device / "vendor").read_text("ascii").strip()
        except OSError:
            continue
        if kind.startswith(DISPLAY_CLASS) and maker in VENDORS:
            found.add(VENDORS[maker])
    return frozenset(found)
