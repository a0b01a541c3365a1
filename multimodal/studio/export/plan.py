"""What is to be exported, and what came of it: plain values that the page, the command line and the
process that writes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from multimodal.catalog.architectures import StrictModel
from multimodal.catalog.cards import Choice, ModelCard, first_fault
from multimodal.errors import SettingsError
from multimodal.studio.settings import JobSettings, Method

PLAN_FILE = "export.json"
CERTIFICATE_FILE = "certificate.json"
SOURCE = "source"
"""The quantization that stands for the width in which the source keeps its weights."""


class ExportSettings(StrictModel):
    """Every option of `multimodal export`."""

    model: Choice = Field(description="The card, or the result of a job, that is exported.")
    to: str = Field(description="The format: safetensors, gguf, ollama or onnx.")
    quantization: tuple[str, ...] = Field(
        (), description="In which types weights are written; the format's usual one unless given."
    )
    out: Path = Field(description="The folder to write, which is not there yet or is empty.")
    keep_failed: bool = Field(
        False, description="Keep an export that failed a check, under a name that says so."
    )

    def job_settings(self, precision: str, method: Method = "lora") -> JobSettings:
        """Those of a job of that method that reads the same model on the CPU."""
        return JobSettings.model_validate(
            {
                "name": "export",
                "model": self.model,
                "data": "-",
                "method": method,
                "precision": precision,
                "batch": 1,
                "max_length": 256,
                "lora_rank": 1,
                "trained_weights": "adapter",
                "gradient_checkpointing": True,
            }
        )


def export_settings(given: Mapping[str, Any]) -> ExportSettings:
    """Checked settings. Raises SettingsError, one sentence that names the field."""
    try:
        return ExportSettings.model_validate(dict(given))
    except ValidationError as error:
        raise SettingsError(first_fault(error, ExportSettings)) from error


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """For the process. `card` is that of the model as it is called, whose weights may be those of a
    base and an adapter; `folder`: where the files are written."""

    card: ModelCard
    format: str
    quantizations: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of a file with its source. `figure` is what was measured and `limit` what is
    allowed, both in words; `compared` says of what."""

    name: str
    file: str
    is_passed: bool
    figure: str
    limit: str
    compared: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds that a `unit` (token, picture) takes the source and the export."""

    file: str
    unit: str
    source_ms: float
    export_ms: float

    @property
    def sentence(self) -> str:
        name = f"{self.file[:1].upper()}{self.file[1:]}" if " " in self.file else self.file
        return (
            f"{name}: {self.export_ms:.3g} ms a {self.unit}, its source {self.source_ms:.3g} ms, "
            "both in the process that compared them."
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """`files`: SHA-256 by path below the folder; `versions`: of the libraries that wrote and
    compared; `notices`: what else is to be known, in sentences."""

    model: str
    base: str
    adapter: str
    format: str
    quantizations: tuple[str, ...]
    is_passed: bool
    checks: tuple[Check, ...]
    files: Mapping[str, str]
    versions: Mapping[str, str]
    notices: tuple[str, ...] = ()
    latencies: tuple[Latency, ...] = ()

    @property
    def failed(self) -> Sequence[Check]:
        return [check for check in self.checks if not check.is_passed]

    @property
    def verdict(self) -> str:
        """One sentence; where a check failed, which and in what."""
        if self.is_passed:
            return f"All {len(self.checks)} checks passed: the export is as its source."
        first = self.failed[0]
        more = f" {len(self.failed) - 1} more failed." if len(self.failed) > 1 else ""
        return (
            f"The export is not as its source: {first.file} failed “{first.name}” "
            f"({first.figure}; allowed: {first.limit}).{more}"
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """`folder`: None where a check failed and the files were removed."""

    folder: Path | None
    certificate: Certificate


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Raises OSError."""
    text = _CERTIFICATE.dump_json(certificate, indent=2)
    (folder / CERTIFICATE_FILE).write_bytes(text + b"\n")


def read_certificate(folder: Path) -> Certificate | None:
    """None where there is none, or it is damaged."""
    try:
        return _CERTIFICATE.validate_json((folder / CERTIFICATE_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def write_plan(folder: Path, plan: ExportPlan) -> None:
    (folder / PLAN_FILE).write_bytes(_PLAN.dump_json(plan))


def read_plan(folder: Path) -> ExportPlan:
    return _PLAN.validate_json((folder / PLAN_FILE).read_bytes())


_CERTIFICATE, _PLAN = TypeAdapter(Certificate), TypeAdapter(ExportPlan)
