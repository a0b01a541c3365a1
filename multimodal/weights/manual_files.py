"""A part of a model that the person puts into its folder, as a card states it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from multimodal.catalog.sources import ManualSource
from multimodal.errors import WeightsError
from multimodal.weights.job import DownloadSize, File, Job


@dataclass(frozen=True)
class ManualFiles:
    """The supplier that fetches nothing, and says what is to be put where."""

    source: ManualSource

    def known_bytes(self) -> int:
        return 0

    def offered_bytes(self, job: Job) -> int:
        self.wanted(job)
        return 0

    def wanted(self, job: Job) -> tuple[File, ...]:
        found: dict[str, int] = {}
        for pattern in self.source.files:
            here = [path for path in sorted(job.folder.glob(pattern)) if path.is_file()]
            if not here:
                raise WeightsError(
                    f"the part '{job.folder.name}' is to be put there by hand: there is no "
                    f"{pattern} in {job.folder}. It is published at {self.source.published}; put "
                    "it there, then start again"
                )
            found |= {path.name: path.stat().st_size for path in here}
        return tuple(File(path=name, size_bytes=found[name], checksum=None) for name in found)

    def extent(self, job: Job, wanted: tuple[File, ...], missing: tuple[File, ...]) -> DownloadSize:
        return DownloadSize()

    def copies(self, job: Job, file: File) -> Iterable[Path]:
        return ()

    def fetch(self, job: Job, wanted: tuple[File, ...], missing: tuple[File, ...]) -> None:
        """There is nothing to fetch: only what lies there is wanted."""
