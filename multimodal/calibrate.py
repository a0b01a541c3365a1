"""`multimodal calibrate`: what this machine's card really does, measured once and kept."""

from __future__ import annotations

from multimodal.errors import SettingsError
from multimodal.memory.calibration.process import Show, measured
from multimodal.memory.calibration.record import Calibration, Probe, write
from multimodal.memory.devices import nvidia_driver_is_here
from multimodal.settings import Settings

UNITS = (("_bytes_per_s", 1e9, "GB/s"), ("_bytes", 1e9, "GB"), ("_s", 1.0, "s"))
"""How facts are told, by the end of their names: what they are divided by, and the unit."""


def calibrate(settings: Settings, show: Show) -> Calibration:
    """Measure the card in processes of their own, and keep the result in the data folder, where the
    memory manager, `fit` and `doctor` find it. Raises SettingsError without a card."""
    if not nvidia_driver_is_here():
        raise SettingsError("There is no NVIDIA card to measure; `multimodal doctor` says why.")
    from multimodal.memory.cuda import card_bytes, subject_of

    if not card_bytes():
        raise SettingsError("PyTorch finds no card to measure; `multimodal doctor` says why.")
    from multimodal.memory.calibration.probes import PROBES

    found = Calibration(subject=subject_of(), probes=measured(tuple(PROBES), show))
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        write(settings.data, found)
    except OSError as error:
        raise SettingsError(f"The result cannot be kept in {settings.data}: {error}") from error
    return found


def line(name: str, probe: Probe) -> str:
    """One probe for a person."""
    if probe.error:
        return f"fail  {name:<12}  {probe.error}"
    told = ", ".join(_fact(fact, value) for fact, value in probe.facts.items())
    return f"ok    {name:<12}  {told}  ({probe.seconds:.1f} s)"


def _fact(name: str, value: float) -> str:
    for end, divisor, unit in UNITS:
        if name.endswith(end):
            return f"{name.removesuffix(end).replace('_', ' ')} {value / divisor:.3g} {unit}"
    return f"{name.replace('_', ' ')} {value:.2g}"
