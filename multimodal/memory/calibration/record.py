"""What was measured of a card, as it is kept and as it is sent with a report: no personal data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

FILE = "calibration.json"
LATER = 1.05
"""Kernels that are loaded later take a little more: on an H200, 0.79 GB were measured, and 0.82 GB
taken after models of four kinds had run."""
LEAST_CONTEXT_BYTES = 50_000_000
"""No context of CUDA takes less: where less was seen, the driver does not count what other
processes take, as under Windows."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Subject(_Frozen):
    """What was measured. Another card or another release of these is measured anew."""

    card: str
    card_bytes: int
    system: str
    torch: str
    cuda: str
    bitsandbytes: str

    @classmethod
    def of(cls, card: str, card_bytes: int, cuda: str) -> Subject:
        """A card of this machine, with what is installed here."""
        return cls(
            card=card,
            card_bytes=card_bytes,
            system=platform.system(),
            torch=_version("torch"),
            cuda=cuda,
            bitsandbytes=_version("bitsandbytes"),
        )


class Probe(_Frozen):
    """One measurement: `facts` by name, in bytes, seconds, or bytes a second as their names say.
    `error`: why it failed, empty where it did not."""

    seconds: float = 0.0
    facts: Mapping[str, float] = {}
    error: str = ""


class Calibration(_Frozen):
    """Every probe by its name."""

    subject: Subject
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
    def has_mirrors(self) -> bool:
        """Whether models that left for host memory came back as they were."""
        return not any(
            probe.error for name, probe in self.probes.items() if name.startswith("mirror")
        )

    def _fact(self, probe: str, name: str) -> float:
        found = self.probes.get(probe)
        return found.facts.get(name, 0.0) if found is not None else 0.0


def read(folder: Path, subject: Subject | None = None) -> Calibration | None:
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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
