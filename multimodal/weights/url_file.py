"""Weights that are one file at an address that a shipped card names, known by its SHA-256."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

from multimodal.catalog.sources import FileSource
from multimodal.errors import WeightsError
from multimodal.weights.downloads import PATIENT, fetch
from multimodal.weights.job import PART, DownloadSize, File, Job


@dataclass(frozen=True)
class UrlFile:
    """The supplier of a card whose source is one file."""

    source: FileSource
    retry_wait_s: float

    def known_bytes(self) -> int:
        return self.source.size_bytes or 0

    def offered_bytes(self, job: Job) -> int:
        with httpx.Client(follow_redirects=True) as client:
            return self._size(client)

    def wanted(self, job: Job) -> tuple[File, ...]:
        source = self.source
        checksum = f"sha256:{source.sha256}"
        return (File(path=source.file_name, size_bytes=source.size_bytes, checksum=checksum),)

    def extent(self, job: Job, wanted: tuple[File, ...], missing: tuple[File, ...]) -> DownloadSize:
        size = self.offered_bytes(job)
        return DownloadSize(size, 0, size) if missing else DownloadSize(size, size)

    def copies(self, job: Job, file: File) -> Iterable[Path]:
        return ()

    def fetch(self, job: Job, wanted: tuple[File, ...], missing: tuple[File, ...]) -> None:
        part = job.folder / f"{self.source.file_name}{PART}"
        with httpx.Client(follow_redirects=True) as client:
            size = self._size(client)

            def download() -> None:
                url, wait_s = self.source.url, self.retry_wait_s
                fetch(client, url, part, size, job.fetched, job.stop, wait_s)

            try:
                right = job.fetch(part, missing[0], download)
            except WeightsError as error:
                raise WeightsError(
                    f"{self.source.url} cannot be fetched: {error}. Connect, then start again: "
                    "what was fetched is kept"
                ) from error
        if not right:
            raise WeightsError(
                f"the file at {self.source.url} is not the one this card was made for (its SHA-256 "
                "differs); update the program"
            )
        job.finished(size)
        part.replace(job.folder / self.source.file_name)

    def _size(self, client: httpx.Client) -> int:
        """Bytes of the file, from its card or from the server that has it."""
        if self.source.size_bytes:
            return self.source.size_bytes
        asked = {"Accept-Encoding": "identity"}
        try:
            answer = client.head(self.source.url, headers=asked, timeout=PATIENT.timeout)
            answer.raise_for_status()
            return int(answer.headers["Content-Length"])
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise WeightsError(
                f"{self.source.url} cannot be reached ({type(error).__name__}); connect, then "
                "start again"
            ) from error
