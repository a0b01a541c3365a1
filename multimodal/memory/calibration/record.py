"""What was measured of a card, as it is kept and as it is sent with a report: no personal data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from multimodal.distributions import installed_version
from multimodal.memory.estimate.factors import ESTIMATE, PeakFactors

FILE = "calibration.json"
SPILLS = "a full card does not refuse"
"""How the error of the probe `refusal` begins where the driver goes on in host memory."""
LATER = 1.05
"""Kernels that are loaded later take a little more: on an H200, 0.79 GB were measured, and 0.82 GB
taken after models of four kinds had run."""
WHOLE_TURN = 1.06
"""What else lives while a part works: on an H200, a turn of Stable Diffusion took 0.674 GB, and its
decoder alone 0.640."""
LEAST_CONTEXT_BYTES = 50_000_000
"""No context of CUDA takes less: where less was seen, the driver does not count what other
processes take, as under Windows."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeviceFingerprint(_Frozen):
    """What was measured. Another card or another release of these is measured anew."""

    card: str
    card_bytes: int
    system: str
    driver: str
    torch: str
    cuda: str
    bitsandbytes: str

    @classmethod
    def of(cls, card: str, card_bytes: int, cuda: str, driver: str) -> DeviceFingerprint:
        """A card of this machine, with what is installed here; `driver` is its version."""
        return cls(
            card=card,
            card_bytes=card_bytes,
            system=platform.system(),
            driver=driver,
            torch=installed_version("torch"),
            cuda=cuda,
            bitsandbytes=installed_version("bitsandbytes"),
        )


class Probe(_Frozen):
    """One measurement: `facts` by name, in bytes, seconds, or bytes a second as their names say.
    `error`: why it failed, empty where it did not."""

    seconds: float = 0.0
    facts: Mapping[str, float] = {}
    error: str = ""


class Calibration(_Frozen):
    """Every probe by its name."""

    subject: DeviceFingerprint
    probes: Mapping[str, Probe]

    @property
    def context_bytes(self) -> int | None:
        """What the CUDA context takes with all libraries in use, beside PyTorch's allocator, and a
        little more; None where that could not be seen."""
        seen = self._fact("context", "context_and_libraries_bytes")
        return int(LATER * seen) if seen >= LEAST_CONTEXT_BYTES else None

    @property
    def bus_bytes_per_s(self) -> float | None:
        """From locked host memory to the card."""
        return self._fact("bus", "locked_bytes_per_s") or None

    @property
    def factors(self) -> PeakFactors:
        """What turns take of what is counted for them: as measured, or the estimate where it was
        not; never less than what is counted."""
        drawn = [self._ratio(name) for name in self.probes if name.startswith("decoder")]
        return PeakFactors(
            convolution=max(filter(None, drawn), default=ESTIMATE.convolution),
            hearing=self._ratio("hearing") or ESTIMATE.hearing,
        )

    @property
    def is_spilling(self) -> bool | None:
        """Whether a full card went on in host memory; None where that could not be tried."""
        found = self.probes.get("refusal")
        if found is None or (found.error and not found.error.startswith(SPILLS)):
            return None
        return bool(found.error)

    @property
    def has_mirrors(self) -> bool:
        """Whether models that left for host memory came back as they were."""
        return not any(
            probe.error for name, probe in self.probes.items() if name.startswith("mirror")
        )

    def _ratio(self, probe: str) -> float | None:
        """What that probe took of what was counted for it, at least 1; None where it failed."""
        taken, counted = self._fact(probe, "peak_bytes"), self._fact(probe, "counted_bytes")
        return max(1.0, WHOLE_TURN * taken / counted) if taken and counted else None

    def _fact(self, probe: str, name: str) -> float:
        found = self.probes.get(probe)
        return found.facts.get(name, 0.0) if found is not None else 0.0


def read(folder: Path, subject: DeviceFingerprint | None = None) -> Calibration | None:
    """The calibration that is kept in `folder`; None without one, and where it is damaged or was
    made for another `subject`."""
    try:
        found = Calibration.model_validate_json((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError, ValidationError):
        return None
    return found if subject is None or found.subject == subject else None


def write(folder: Path, calibration: Calibration) -> None:
    """Keep it in `folder`, in one step. Raises OSError."""
    fresh = folder / f"{FILE}.new"
    fresh.write_text(calibration.model_dump_json(indent=2), "utf-8")
    fresh.replace(folder / FILE)
