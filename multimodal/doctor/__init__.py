"""What this machine has, what is missing, and the command that mends it; changes nothing.

`machine` and `nvidia` collect facts, `rules` and `torch_wheels` judge them, `capacity` says what
the card can run, `check_supplies` what models are fetched with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from multimodal.distributions import installed_version, requirements
from multimodal.doctor import rules
from multimodal.doctor.finding import Finding, Verdict
from multimodal.doctor.machine import Machine, examine_machine
from multimodal.errors import MultimodalError
from multimodal.settings import Settings

if TYPE_CHECKING:
    from multimodal.memory.calibration.record import Calibration

__all__ = ["Finding", "Verdict", "examine", "report"]


def examine(settings: Settings) -> list[Finding]:
    """All findings, in the order a person would mend things; never raises for what it finds."""
    machine = examine_machine()
    missing = list(rules.packages(requirements(), installed_version))
    try:
        asked, models = _models(settings, machine)
    except ImportError as error:
        told = f"the program cannot be loaded: {error}"
        asked, models = False, [Finding("fail", "program", told, "in its folder: pip install -e .")]
    first, *others = rules.findings(machine, asked)
    return [first, *missing, *others, ffmpeg(), *models]


def _models(settings: Settings, machine: Machine) -> tuple[bool, list[Finding]]:
    """Whether a card was asked for, and what is found of profiles and weights. The parts of the
    program are imported here, so that one that is missing is a finding as well."""
    from multimodal.build import choose_profile, read_catalog
    from multimodal.doctor.capacity import Room, capacity_findings
    from multimodal.doctor.supplies import check_supplies
    from multimodal.memory.estimate.factors import ESTIMATE

    kind = settings.device_kind
    asked = kind == "cuda"
    card = _gpu_bytes(settings, machine)
    try:
        catalog = read_catalog(settings)
        usable = {"cpu": 0, "sim": card}.get(kind, machine.build.gpu_bytes)
        chosen = choose_profile(catalog, settings.profile, usable)
    except MultimodalError as error:
        way = "correct the file or the option that it names"
        return asked, [Finding("fail", "profile", str(error), way)]
    budget = int(settings.budget) if settings.budget else None
    usable_card = bool(machine.build.gpu) or kind == "sim"
    loads = bool(machine.torch) and not machine.build.error
    measured = _calibration(settings, machine)
    room = Room(
        card,
        machine.memory_bytes,
        budget,
        usable_card,
        loads,
        is_on_cpu=kind == "cpu",
        context_bytes=measured.context_bytes if measured else None,
        factors=measured.factors if measured else ESTIMATE,
    )
    cards = [catalog.card(name) for name in chosen.defaults]
    found = [*rules.calibration(machine, measured), *capacity_findings(catalog, chosen, room)]
    found += check_supplies(settings, cards)
    return asked or (kind == "auto" and chosen.device == "cuda"), found


def _calibration(settings: Settings, machine: Machine) -> Calibration | None:
    """What was measured of the card that PyTorch finds here, with what is installed now."""
    from multimodal.memory.calibration.record import DeviceFingerprint, read

    build = machine.build
    if not build.gpu or settings.device_kind == "sim":
        return None
    version = machine.driver.version if machine.driver is not None else ""
    return read(
        settings.data, DeviceFingerprint.of(build.gpu, build.gpu_bytes, build.cuda, version)
    )


def _gpu_bytes(settings: Settings, machine: Machine) -> int:
    """Of the card that PyTorch finds, else of the one the driver shows, else of the simulated."""
    if settings.device_kind == "sim":
        return settings.simulated_bytes
    if machine.build.gpu_bytes:
        return machine.build.gpu_bytes
    if machine.driver is not None and machine.driver.gpus:
        return machine.driver.gpus[0].memory_bytes
    return 0


def ffmpeg() -> Finding:
    """Recordings are decoded by PyAV, whose wheels bring FFmpeg's libraries along."""
    try:
        import av
    except (ImportError, OSError) as error:
        told = f"PyAV cannot be loaded: {error}"
        return Finding("fail", "FFmpeg", told, f'pip install --force-reinstall "{rules.PYAV}"')
    told = f"{av.ffmpeg_version_info}, inside PyAV {av.__version__}; no ffmpeg program is needed"
    return Finding("ok", "FFmpeg", told)


def report(findings: list[Finding]) -> Iterator[str]:
    """The lines that a person reads; commands stand on lines of their own, to be copied."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        yield f"{finding.verdict:<4}  {finding.name:<{width}}  {finding.found}"
    bad = [finding for finding in findings if not finding.is_ok]
    if not bad:
        yield "\nNothing needs mending."
        return
    yield "\nTo mend, in this order:"
    for fix in dict.fromkeys(finding.fix for finding in bad):
        names = ", ".join(finding.name for finding in bad if finding.fix == fix)
        yield f"\n  {names}:\n    {fix}"
