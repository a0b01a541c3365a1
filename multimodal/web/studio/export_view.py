"""The exports of a job as the page shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multimodal.studio.export.background import ExportFolder, JobExports
from multimodal.studio.export.plan import CERTIFICATE_FILE, Certificate


@dataclass(frozen=True, slots=True)
class ExportView:
    """`folder`: "" for who may not know of paths here; `files`: (name, address)."""

    name: str
    certificate: Certificate
    folder: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class JobExportsView:
    is_running: bool
    doing: str
    error: str
    done: tuple[ExportView, ...]


def exports_view(
    exports: JobExports, address: Callable[[str], str], is_own: bool
) -> JobExportsView:
    """`address` of a file, by the name of its folder and its own; `is_own`: whether whoever looks
    may know where files lie."""
    done = tuple(_view(one, address, is_own) for one in exports.done)
    return JobExportsView(exports.is_running, exports.doing, exports.error, done)


def exported_files(exports: JobExports) -> dict[str, Path]:
    """Those that certificates list, and the certificates, by folder and name: nothing else of the
    folders is served."""
    return {
        f"{one.path.name}/{name}": one.path / name for one in exports.done for name in _names(one)
    }


def fingerprint(exports: JobExports) -> str:
    """Changes with what is shown."""
    names = "/".join(one.path.name for one in exports.done)
    return f"{exports.is_running}:{exports.doing}:{exports.error}:{names}"


def _view(one: ExportFolder, address: Callable[[str], str], is_own: bool) -> ExportView:
    name = one.path.name
    files = tuple((file, address(f"{name}/{file}")) for file in _names(one))
    return ExportView(name, one.certificate, str(one.path) if is_own else "", files)


def _names(one: ExportFolder) -> list[str]:
    return [*one.certificate.files, CERTIFICATE_FILE]
