"""`multimodal calibrate`: what this machine's card really does, measured once and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from multimodal.build import choose_profile, read_catalog
from multimodal.errors import SettingsError
from multimodal.memory.calibration.process import Show, Start, lines_of, run_probes
from multimodal.memory.calibration.record import Calibration, DeviceFingerprint, Probe, write
from multimodal.memory.devices.base import nvidia_driver_is_here
from multimodal.memory.headroom import is_on_gpu
from multimodal.settings import Settings

UNITS = (
    ("_tokens_per_s", 1.0, "tokens/s"),
    ("_bytes_per_s", 1e9, "GB/s"),
    ("_bytes", 1e9, "GB"),
    ("_s", 1.0, "s"),
)
"""How facts are told, by the end of their names: what they are divided by, and the unit."""
FIRST = (
    "{card} is new here, or its driver or PyTorch is: what it does is measured, which takes about "
    "a minute once. Ctrl-C ends it, and --no-calibrate starts with estimates."
)


def calibrate(settings: Settings, show: Show) -> Calibration:
    """Measure the card in processes of their own, and keep the result in the data folder, where the
    memory manager, `fit` and `doctor` find it. Raises SettingsError without a card."""
    if not nvidia_driver_is_here():
        raise SettingsError("There is no NVIDIA card to measure; `multimodal doctor` says why.")
    from multimodal.memory.devices.cuda import device_fingerprint, total_gpu_bytes

    if not total_gpu_bytes():
        raise SettingsError("PyTorch finds no card to measure; `multimodal doctor` says why.")
    return measure(device_fingerprint(), settings.data, show)


def measure(
    subject: DeviceFingerprint, folder: Path, show: Show, start: Start | None = None
) -> Calibration:
    """Run all probes, and keep what they found of `subject` in `folder`. Raises SettingsError
    where none of them could run, and where the result cannot be kept."""
    from multimodal.backends.probes import MODULE, PROBES

    probes = run_probes(tuple(PROBES), show, start or partial(lines_of, MODULE))
    found = Calibration(subject=subject, probes=probes)
    if not any(probe.facts for probe in found.probes.values()):
        why = next(iter(found.probes.values())).error
        raise SettingsError(f"{subject.card} could not be measured: {why}. Estimates are used.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, found)
    except OSError as error:
        raise SettingsError(f"The result cannot be kept in {folder}: {error}") from error
    return found


def calibrate_new_gpu(settings: Settings, tell: Callable[[str], None]) -> None:
    """Measure the card that the program is about to use, unless it was measured as it is now.
    `tell` is given lines for a person; never raises for what a card does."""
    if settings.calibrate and (subject := _unmeasured(settings)) is not None:
        measure_new_gpu(subject, settings.data, tell)


def measure_new_gpu(
    subject: DeviceFingerprint,
    folder: Path,
    tell: Callable[[str], None],
    start: Start | None = None,
) -> None:
    """Measure a card before it is used for the first time; estimates are used where that fails."""

    def show(name: str, probe: Probe | None) -> None:
        if probe is not None:
            tell(format_probe(name, probe))

    tell(FIRST.format(card=subject.card))
    try:
        measure(subject, folder, show, start)
    except SettingsError as error:
        tell(str(error))


def _unmeasured(settings: Settings) -> DeviceFingerprint | None:
    """The card that the program will use, where nothing is known of it."""
    kind = settings.device_kind
    if kind not in {"auto", "cuda"} or not nvidia_driver_is_here():
        return None
    from multimodal.memory.devices.cuda import device_fingerprint, load_calibration, total_gpu_bytes

    here = total_gpu_bytes()
    profile = choose_profile(read_catalog(settings), settings.profile, here)
    if not here or not is_on_gpu(profile, kind) or load_calibration(settings.data) is not None:
        return None
    return device_fingerprint()


def format_probe(name: str, probe: Probe) -> str:
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
