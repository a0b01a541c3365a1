"""Which PyTorch fits a driver and a card, and the commands that install it.

Sources: the CUDA support matrix in PyTorch's RELEASE.md (2.10 to 2.13 are built for CUDA 12.6 and
13.0, 2.10 and 2.11 for 12.8 too), and NVIDIA's CUDA release notes and compatibility guide for the
drivers. What PyTorch calls experimental is not offered.
"""

from __future__ import annotations

from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.version import InvalidVersion
from packaging.version import Version as Release

from multimodal.doctor.machine import Machine
from multimodal.memory.devices.nvidia import Version

TORCH = "torch>=2.10,<2.14"
INDEX = "https://download.pytorch.org/whl"
NEWEST_DRIVER = 580
"""The first branch for CUDA 13, and the last one for cards older than Turing."""
DRIVERS = "https://www.nvidia.com/drivers"


@dataclass(frozen=True, slots=True)
class Wheels:
    """An index of PyTorch, the compute capabilities that its wheels are compiled for, and the last
    release within `TORCH` that it has."""

    name: str
    cuda: Version
    lowest: Version
    highest: Version
    last: str


WHEELS = (
    Wheels("cu130", (13, 0), (7, 5), (12, 9), "2.13.0"),
    Wheels("cu128", (12, 8), (7, 5), (12, 9), "2.11.0"),
    Wheels("cu126", (12, 6), (5, 0), (9, 0), "2.13.0"),
)
"""Newest first."""


def wheels_for(machine: Machine) -> Wheels | None:
    """The newest wheels that this driver and its first card run; None where the driver is too
    old for any."""
    driver = machine.driver
    if driver is None or driver.cuda is None:
        return None
    compute = driver.gpus[0].compute if driver.gpus else None
    for wheels in WHEELS:
        known = compute is None or wheels.lowest <= compute <= wheels.highest
        if wheels.cuda <= driver.cuda and known:
            return wheels
    return None


def torch_install_command(machine: Machine) -> str:
    """The command that installs a PyTorch that uses this machine's card; a sentence where its
    driver must come first.

    It names one build, such as 2.13.0+cu130: pip takes a plain 2.13.0, the one without CUDA, for
    all that a range asks for and would change nothing. What else is installed stays as it is: the
    index of PyTorch has older releases of that.
    """
    if not machine.has_card:
        return f'pip install --force-reinstall "{TORCH}"'
    wheels = wheels_for(machine)
    if wheels is None:
        return driver_advice(machine)
    build = f"{_release(machine.torch, wheels)}+{wheels.name}"
    again = "--force-reinstall --no-deps " if machine.torch == build else ""
    return f'pip install {again}"torch=={build}" --index-url {INDEX}/{wheels.name}'


def _release(here: str, wheels: Wheels) -> str:
    """The one that is installed if it is one of the index and of the range, else the index's
    last."""
    try:
        release = Release(Release(here).public)
    except InvalidVersion:
        return wheels.last
    is_fit = release in Requirement(TORCH).specifier and release <= Release(wheels.last)
    return str(release) if is_fit else wheels.last


def driver_advice(machine: Machine, verb: str = "update") -> str:
    """How the driver is brought to where every PyTorch named here runs."""
    goal = f"the NVIDIA driver {'to' if verb == 'update' else 'of branch'} {NEWEST_DRIVER} or newer"
    if machine.is_wsl:
        return f"{verb} {goal} in Windows, not inside WSL ({DRIVERS}), then run: wsl --shutdown"
    if machine.is_windows:
        return f"{verb} {goal} from {DRIVERS}, then restart the machine"
    return (
        f"{verb} {goal} (on Ubuntu: sudo ubuntu-drivers install; elsewhere your distribution's "
        f"package, or {DRIVERS}), then restart the machine"
    )


def runs_on(compute: tuple[int, ...], kernels: tuple[str, ...]) -> bool:
    """Whether code for `kernels`, such as sm_86 or compute_120, runs on a card of that compute
    capability: compiled code within its major version upwards, PTX upwards without an end."""
    if len(compute) != 2 or not kernels:
        return True
    for kernel in kernels:
        kind, _, digits = kernel.partition("_")
        if not digits.isdigit():
            continue  # such as sm_90a: for that one card
        made = (int(digits[:-1]), int(digits[-1]))
        if made <= compute and (kind == "compute" or made[0] == compute[0]):
            return True
    return False
