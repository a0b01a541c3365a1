"""Facts about a machine in, findings out: pure functions, so that any machine can be made up.

`asked` says that the person wants the card (`--device cuda`, or a profile for one): what keeps it
from being used is then a failure, and otherwise something that could be better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement

from multimodal.doctor.finding import Finding, Verdict
from multimodal.doctor.machine import Machine
from multimodal.doctor.torch_wheels import (
    DRIVERS,
    TORCH,
    WHEELS,
    driver_advice,
    runs_on,
    torch_install_command,
    wheels_for,
)
from multimodal.memory.devices.nvidia import Gpu
from multimodal.sizes import gigabytes

if TYPE_CHECKING:
    from multimodal.memory.calibration.record import Calibration

BITSANDBYTES = "bitsandbytes>=0.50,<0.51"
PYAV = "av>=14,<19"
OWN_LINES = {"torch", "bitsandbytes"}
LITTLE_MEMORY_BYTES = 2e9
POLICY = "“CUDA - Sysmem Fallback Policy”: “Prefer No Sysmem Fallback”"
REDISTRIBUTABLE = "https://aka.ms/vs/17/release/vc_redist.x64.exe"
"""Microsoft's Visual C++ runtime, which PyTorch for Windows needs and does not bring."""


def findings(machine: Machine, asked: bool) -> Iterator[Finding]:
    """All that the machine itself is asked about, in the order a person would mend it."""
    yield python(machine)
    yield from driver(machine, asked)
    yield gpu(machine, asked)
    yield torch(machine, asked)
    yield bitsandbytes(machine, asked)
    yield from shared_memory(machine)
    yield memory(machine)


def python(machine: Machine) -> Finding:
    where = f"{machine.release} (WSL)" if machine.is_wsl else machine.release
    if machine.bits < 64:
        told = f"{machine.python} of 32 bits on {where}; PyTorch needs 64 bits"
        return Finding("fail", "Python", told, "install Python of 64 bits from python.org")
    return Finding("ok", "Python", f"{machine.python} on {where}")


def packages(wanted: Iterable[str], installed: Callable[[str], str]) -> Iterator[Finding]:
    """What pip was asked for and is not there, or not in that version."""
    right = 0
    for line in wanted:
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue
        if need.name in OWN_LINES or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        here = installed(need.name)
        if here and need.specifier.contains(here, prereleases=True):
            right += 1
            continue
        told = f"{here} is installed, {need.specifier} is needed" if here else "missing"
        yield Finding("fail", need.name, told, f'pip install "{need.name}{need.specifier}"')
    if right:
        yield Finding("ok", "packages", f"{right} are there in the versions that are needed")
    else:
        told = "the program was not installed by pip, so versions cannot be compared"
        yield Finding("warn", "packages", told, "in its folder: pip install -e .")


def driver(machine: Machine, asked: bool) -> Iterator[Finding]:
    """Nothing where neither a driver nor an NVIDIA card is seen."""
    lacking: Verdict = "fail" if asked else "warn"
    found = machine.driver
    if found is None:
        if "NVIDIA" in machine.vendors:
            told = "there is an NVIDIA card and no nvidia-smi: its driver is not installed"
            yield Finding(lacking, "NVIDIA driver", told, driver_advice(machine, "install"))
        return
    if found.error:
        way = (
            "restart the machine, which ends an update of the driver; if that does not help, "
            + driver_advice(machine, "install")
        )
        yield Finding(lacking, "NVIDIA driver", f"it does not answer: {found.error}", way)
        return
    highest = f"CUDA up to {_dotted(found.cuda)}" if found.cuda else "no CUDA version that it tells"
    told = f"{found.version}, supports {highest}"
    if wheels_for(machine) is None and not machine.build.gpu:
        least = _dotted(min(wheels.cuda for wheels in WHEELS))
        told += f"; too old for the PyTorch that is needed here (CUDA {least} or newer)"
        yield Finding(lacking, "NVIDIA driver", told, driver_advice(machine))
        return
    yield Finding("ok", "NVIDIA driver", told)


def gpu(machine: Machine, asked: bool) -> Finding:
    if machine.driver is not None and machine.driver.gpus:
        return Finding("ok", "GPU", " / ".join(_card(found) for found in machine.driver.gpus))
    others = sorted(machine.vendors - {"NVIDIA"})
    told = "no NVIDIA card is seen"
    if others:
        told = f"a card of {' and '.join(others)}; this program uses cards of NVIDIA only"
    hint = "if there is an NVIDIA card, install its driver"
    hint += f" in Windows, not inside WSL ({DRIVERS})" if machine.is_wsl else f" ({DRIVERS})"
    if asked:
        way = f"start with --profile embedded, on the CPU; {hint}"
        return Finding("fail", "GPU", told, way)
    return Finding("ok", "GPU", f"{told}; models run on the CPU", "" if others else hint)


def torch(machine: Machine, asked: bool) -> Finding:
    """The one that is installed, and whether it finds the card."""
    build, here = machine.build, machine.torch
    lacking: Verdict = "fail" if asked else "warn"
    if not here:
        return Finding("fail", "torch", "missing", torch_install_command(machine))
    if not TORCH_VERSIONS.contains(here, prereleases=True):
        told = f"{here} is installed, {TORCH_VERSIONS} is needed"
        return Finding("fail", "torch", told, torch_install_command(machine))
    if build.error:
        way = torch_install_command(machine)
        if machine.is_windows:
            way += f" ; if a DLL is still missing, install {REDISTRIBUTABLE}"
        return Finding("fail", "torch", f"{here} cannot be loaded: {build.error}", way)
    if build.gpu:
        return _with_card(machine, lacking)
    if not build.cuda:
        told = f"{here}, built without CUDA"
        if not machine.has_card:
            return Finding("ok", "torch", f"{told}; models run on the CPU")
        told += ": it cannot use the card"
        if machine.is_windows:
            told += " (for Windows, PyPI has no other)"
        return Finding(lacking, "torch", told, torch_install_command(machine))
    return _without_card(machine, lacking)


def _with_card(machine: Machine, lacking: Verdict) -> Finding:
    build = machine.build
    told = f"{machine.torch}, built for CUDA {build.cuda}, finds {build.gpu}"
    if runs_on(build.compute, build.kernels):
        return Finding("ok", "torch", f"{told}")
    capability = _dotted(build.compute)
    told += f", but has no code for its compute capability {capability}"
    return Finding(lacking, "torch", told, torch_install_command(machine))


def _without_card(machine: Machine, lacking: Verdict) -> Finding:
    """Built for CUDA, and no card is found."""
    build = machine.build
    told = f"{machine.torch}, built for CUDA {build.cuda}, finds no card"
    if machine.driver is None or not machine.driver.gpus:
        return Finding("ok", "torch", f"{told}; models run on the CPU")
    told += f": {build.gpu_error}" if build.gpu_error else ""
    if machine.driver.cuda is None or _version(build.cuda) > machine.driver.cuda:
        way = torch_install_command(machine)
        if wheels_for(machine) is not None:
            way += f" ; or {driver_advice(machine)}"
        return Finding(lacking, "torch", told, way)
    way = (
        "see that the environment variable CUDA_VISIBLE_DEVICES is not set and that a container "
        "was started with its cards (--gpus all), restart the machine, then run this again"
    )
    return Finding(lacking, "torch", told, way)


def bitsandbytes(machine: Machine, asked: bool) -> Finding:
    """It is what packs weights into 4 and 8 bits."""
    here, build = machine.bitsandbytes, machine.build
    if not here:
        return Finding("fail", "bitsandbytes", "missing", f'pip install "{BITSANDBYTES}"')
    if build.bnb_error:
        told = f"{here} cannot use the card: {build.bnb_error}"
        way = f'pip install --force-reinstall --no-deps "{BITSANDBYTES}"'
        return Finding("fail" if asked else "warn", "bitsandbytes", told, way)
    if build.gpu:
        told = f"{here}, with its library for CUDA {build.cuda.partition('.')[0]}"
        return Finding("ok", "bitsandbytes", told)
    return Finding("ok", "bitsandbytes", f"{here}; its library for CUDA is tried with a card")


def calibration(machine: Machine, found: Calibration | None) -> Iterator[Finding]:
    """What was measured of the card, and what of it failed and is therefore not relied on."""
    if not machine.build.gpu:
        return
    if found is None:
        told = "this card was not measured yet, so estimates are used; multimodal calibrate does it"
        yield Finding("info", "calibration", told)
        return
    failed = [f"{name}: {probe.error}" for name, probe in found.probes.items() if probe.error]
    told = "; ".join(failed) or f"{len(found.probes)} measurements, all as they should be"
    yield Finding("info" if failed else "ok", "calibration", told)


def shared_memory(machine: Machine) -> Iterator[Finding]:
    """What Windows' driver does where a card is full (NVIDIA's answer 5490); how it is
    set cannot be read."""
    if machine.has_card and (machine.is_windows or machine.is_wsl):
        told = (
            "the driver may go on in host memory where a card is full, many times slower. "
            f"{POLICY} for python.exe, in NVIDIA's control panel, lets it refuse instead, which "
            "this program answers by sending a model away"
        )
        told += "; WSL ignores that" if machine.is_wsl else ""
        yield Finding("info", "full card", told)


def memory(machine: Machine) -> Finding:
    told = (
        f"{gigabytes(machine.free_bytes)} of {gigabytes(machine.memory_bytes)} free, "
        f"{machine.cores} cores"
    )
    if machine.free_bytes > LITTLE_MEMORY_BYTES:
        return Finding("ok", "memory", told)
    return Finding("warn", "memory", told, "close other programs")


TORCH_VERSIONS = Requirement(TORCH).specifier


def _card(found: Gpu) -> str:
    told = found.name
    if found.memory_bytes:
        told += f", {gigabytes(found.memory_bytes)}"
    if found.free_bytes:
        told += f" ({gigabytes(found.free_bytes)} free)"
    if found.compute:
        told += f", compute capability {_dotted(found.compute)}"
    return told


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())[:2]
