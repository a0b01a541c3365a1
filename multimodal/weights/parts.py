"""Weights that are published in several places: one supplier made of those of the parts.

Each part has a folder of its name, in which its supplier works as if the part were the whole card;
disk, progress and record are those of the card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from multimodal.weights.job import DownloadSize, Fetcher, File, Job


@dataclass(frozen=True)
class Parts:
    """The supplier of a card whose source is parts."""

    suppliers: Mapping[str, Fetcher]

    def known_bytes(self) -> int:
        known = [supplier.known_bytes() for supplier in self.suppliers.values()]
        return sum(known) if all(known) else 0

    def offered_bytes(self, job: Job) -> int:
        return sum(
            supplier.offered_bytes(job.part(name)) for name, supplier in self.suppliers.items()
        )

    def wanted(self, job: Job) -> tuple[File, ...]:
        wanted: list[File] = []
        for name, supplier in self.suppliers.items():
            job.part(name).folder.mkdir(exist_ok=True)
            files = supplier.wanted(job.part(name))
            wanted += (file.model_copy(update={"path": f"{name}/{file.path}"}) for file in files)
        return tuple(wanted)

    def extent(self, job: Job, wanted: tuple[File, ...], missing: tuple[File, ...]) -> DownloadSize:
        extents = (
            supplier.extent(job.part(name), _of(name, wanted), _of(name, missing))
            for name, supplier in self.suppliers.items()
        )
        return sum(extents, DownloadSize())

    def copies(self, job: Job, file: File) -> Iterable[Path]:
        name = file.path.partition("/")[0]
        (inside,) = _of(name, (file,))
        return self.suppliers[name].copies(job.part(name), inside)

    def fetch(self, job: Job, wanted: tuple[File, ...], missing: tuple[File, ...]) -> None:
        """The smallest file of each part comes first: a place that refuses does so at once, and
        not after the hours that another part takes."""
        for first in (True, False):
            for name, supplier in self.suppliers.items():
                files = sorted(_of(name, missing), key=lambda file: file.size_bytes or 0)
                if chosen := tuple(files[:1] if first else files[1:]):
                    supplier.fetch(job.part(name), _of(name, wanted), chosen)


def _of(name: str, files: Iterable[File]) -> tuple[File, ...]:
    """The files of that part, as its supplier calls them."""
    inside = f"{name}/"
    return tuple(
        file.model_copy(update={"path": file.path.removeprefix(inside)})
        for file in files
        if file.path.startswith(inside)
    )
