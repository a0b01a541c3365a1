"""What fetches a card's weights: of one file, of what the person puts there, and of several parts.
A repository of the hub is fetched by `hub`, files that lie in several places by `files`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

from multimodal.catalog.sources import ManualSource, UrlSource
from multimodal.errors import WeightsError
from multimodal.weights.downloads import PATIENT, Download
from multimodal.weights.fetch_context import PART, DownloadSize, FetchContext, Fetcher, File


@dataclass(frozen=True)
class UrlFile(Fetcher):
    """One file at an address that a shipped card names, known by its SHA-256."""

    source: UrlSource
    retry_wait_s: float

    def declared_bytes(self) -> int:
        return self.source.size_bytes or 0

    def query_bytes(self, context: FetchContext) -> int:
        with httpx.Client(follow_redirects=True) as client:
            return self._size(client)

    def required_files(self, context: FetchContext) -> tuple[File, ...]:
        source = self.source
        checksum = f"sha256:{source.sha256}"
        return (File(path=source.file_name, size_bytes=source.size_bytes, checksum=checksum),)

    def download_size(
        self, context: FetchContext, wanted: tuple[File, ...], missing: tuple[File, ...]
    ) -> DownloadSize:
        size = self.query_bytes(context)
        return DownloadSize(size, 0, size) if missing else DownloadSize(size, size)

    def fetch(self, context: FetchContext, missing: tuple[File, ...]) -> None:
        url, part = self.source.url, context.folder / f"{self.source.file_name}{PART}"
        with httpx.Client(follow_redirects=True) as client:
            size, wait_s = self._size(client), self.retry_wait_s
            download = Download(client, url, part, size, context.report_bytes, context.stop, wait_s)
            try:
                right = context.fetch(part, missing[0], download.run)
            except WeightsError as error:
                raise WeightsError(
                    f"{url} cannot be fetched: {error}. Connect, then start again: what was "
                    "fetched is kept"
                ) from error
        if not right:
            raise WeightsError(
                f"the file at {url} is not the one this card was made for (its SHA-256 differs); "
                "update the program"
            )
        context.finish_file(size)
        part.replace(context.folder / self.source.file_name)

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


@dataclass(frozen=True)
class ManualFiles(Fetcher):
    """What the person puts into its folder: nothing is fetched, and what is missing is told."""

    source: ManualSource

    def query_bytes(self, context: FetchContext) -> int:
        self.required_files(context)
        return 0

    def required_files(self, context: FetchContext) -> tuple[File, ...]:
        found: dict[str, int] = {}
        for pattern in self.source.files:
            here = [path for path in sorted(context.folder.glob(pattern)) if path.is_file()]
            if not here:
                raise WeightsError(
                    f"the part '{context.folder.name}' is to be put there by hand: there is no "
                    f"{pattern} in {context.folder}. It is published at {self.source.published}; "
                    "put it there, then start again"
                )
            found |= {path.name: path.stat().st_size for path in here}
        return tuple(File(path=name, size_bytes=found[name], checksum=None) for name in found)

    def download_size(
        self, context: FetchContext, wanted: tuple[File, ...], missing: tuple[File, ...]
    ) -> DownloadSize:
        return DownloadSize()

    def fetch(self, context: FetchContext, missing: tuple[File, ...]) -> None:
        """There is nothing to fetch: only what lies there is wanted."""


@dataclass(frozen=True)
class Parts(Fetcher):
    """Parts that are published in several places. Each has a folder of its name, in which its
    fetcher works as if the part were the whole card; disk, progress and record are those of the
    card."""

    fetchers: Mapping[str, Fetcher]

    def declared_bytes(self) -> int:
        known = [fetcher.declared_bytes() for fetcher in self.fetchers.values()]
        return sum(known) if all(known) else 0

    def query_bytes(self, context: FetchContext) -> int:
        return sum(
            fetcher.query_bytes(context.part(name)) for name, fetcher in self.fetchers.items()
        )

    def required_files(self, context: FetchContext) -> tuple[File, ...]:
        wanted: list[File] = []
        for name, fetcher in self.fetchers.items():
            context.part(name).folder.mkdir(exist_ok=True)
            files = fetcher.required_files(context.part(name))
            wanted += (file.model_copy(update={"path": f"{name}/{file.path}"}) for file in files)
        return tuple(wanted)

    def download_size(
        self, context: FetchContext, wanted: tuple[File, ...], missing: tuple[File, ...]
    ) -> DownloadSize:
        extents = (
            fetcher.download_size(context.part(name), _of(name, wanted), _of(name, missing))
            for name, fetcher in self.fetchers.items()
        )
        return sum(extents, DownloadSize())

    def local_copies(self, context: FetchContext, file: File) -> Iterable[Path]:
        name = file.path.partition("/")[0]
        (inside,) = _of(name, (file,))
        return self.fetchers[name].local_copies(context.part(name), inside)

    def fetch(self, context: FetchContext, missing: tuple[File, ...]) -> None:
        """The smallest file of each part comes first: a place that refuses does so at once, and
        not after the hours that another part takes."""
        for first in (True, False):
            for name, fetcher in self.fetchers.items():
                files = sorted(_of(name, missing), key=lambda file: file.size_bytes or 0)
                if chosen := tuple(files[:1] if first else files[1:]):
                    fetcher.fetch(context.part(name), chosen)


def _of(name: str, files: Iterable[File]) -> tuple[File, ...]:
    """The files of that part, as its fetcher calls them."""
    inside = f"{name}/"
    return tuple(
        file.model_copy(update={"path": file.path.removeprefix(inside)})
        for file in files
        if file.path.startswith(inside)
    )
