"""One file in one place: what is asked of a place, and the places that are a hub or a folder.

A place first answers whether it has the file, within seconds where another place may be asked; then
it brings the file, whole and verified, to a partial file of its own kind: what one place began is
never gone on with by another that may cut the file differently.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx2 as httpx
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import HfFileMetadata

from multimodal.catalog.sources import FolderPlace, HubPlace, WeightFile
from multimodal.errors import WeightsError
from multimodal.weights.copies import cached_by_hub, link_or_copy
from multimodal.weights.downloads import (
    RefusedError,
    StalledError,
    StallTimeouts,
    retry_when_busy,
    until_stopped,
)
from multimodal.weights.fetch_context import PART, FetchContext, File
from multimodal.weights.hub import ASK_TIMEOUT_S, hub_download, translate_hub_error

ANOTHER = "it has another file of that name"
SHA256_DIGITS = 64


@dataclass(frozen=True)
class PlaceFetcher(ABC):
    """Fetches one file from one place. `str()` of it is how the place is called in a sentence."""

    file: WeightFile

    service: ClassVar[str] = ""
    """What falls silent as a whole, with every place in it; "" for a place by itself."""
    ending: ClassVar[str]
    """Of the partial file."""

    def partial(self, context: FetchContext) -> Path:
        """Where the file grows."""
        return context.folder / f"{self.file.path}.{self.ending}{PART}"

    @abstractmethod
    def check(self, context: FetchContext, patience: StallTimeouts) -> None:
        """Ask whether the file can be had. Raises WeightsError, as a clause, where not;
        StalledError where nothing in the service will answer."""

    @abstractmethod
    def fetch(self, context: FetchContext, patience: StallTimeouts) -> None:
        """Bring the file to `partial`, verified. Raises WeightsError, as a clause."""

    def clean(self, context: FetchContext) -> None:
        """Remove what was fetched in part."""
        self.partial(context).unlink(missing_ok=True)

    def local_copies(self, context: FetchContext) -> Iterable[Path]:
        """Files that may be this one and need no connection."""
        return ()


def expected_file(file: WeightFile, path: str = "") -> File:
    """What must come, under the name it has in the folder or as `path`."""
    return File(
        path=path or file.path, size_bytes=file.size_bytes, checksum=f"sha256:{file.sha256}"
    )


@dataclass(frozen=True)
class HubFile(PlaceFetcher):
    """The file in a repository of the hub."""

    place: HubPlace
    api: Callable[[], HfApi]
    retry_wait_s: float
    cache: Path | None = None

    service = ending = "hub"

    def __str__(self) -> str:
        return f"the hub ({self.place.repo})"

    def local_copies(self, context: FetchContext) -> Iterable[Path]:
        place = self.place
        return cached_by_hub(place.repo, place.path, place.revision, self.cache)

    def check(self, context: FetchContext, patience: StallTimeouts) -> None:
        found: list[HfFileMetadata] = []
        with self._clauses():
            until_stopped(
                lambda: found.append(self._ask(context.stop, patience)),
                context.stop,
                patience.answer_s,
            )
        etag, size = found[0].etag or "", found[0].size
        if size is not None and size != self.file.size_bytes:
            raise WeightsError(f"{ANOTHER} ({size:,} bytes)")
        if len(etag) == SHA256_DIGITS and etag != self.file.sha256:
            raise WeightsError(f"{ANOTHER} (its SHA-256 differs)")

    def fetch(self, context: FetchContext, patience: StallTimeouts) -> None:
        part, api = self.partial(context), self.api()
        with self._clauses():
            how = api, self._url(api), part, self.file.size_bytes, context, self.retry_wait_s
            download = hub_download(*how, patience=patience).run
            downloads = max(patience.downloads, 1 + part.exists())
            if not context.fetch(part, expected_file(self.file, part.name), download, downloads):
                raise WeightsError(f"{ANOTHER} (its SHA-256 differs)")

    def _ask(self, stop: threading.Event | None, patience: StallTimeouts) -> HfFileMetadata:
        api = self.api()
        return retry_when_busy(stop, self.retry_wait_s, patience.attempts)(
            get_hf_file_metadata,
            self._url(api),
            token=api.token,
            timeout=patience.answer_s or ASK_TIMEOUT_S,
            endpoint=api.endpoint,
        )

    def _url(self, api: HfApi) -> str:
        place = self.place
        return hf_hub_url(place.repo, place.path, revision=place.revision, endpoint=api.endpoint)

    @contextmanager
    def _clauses(self) -> Iterator[None]:
        """What the library raises, as a clause about this place."""
        try:
            yield
        except (RefusedError, HfHubHTTPError) as error:
            raise WeightsError(self._refusal(translate_hub_error(error))) from error
        except OfflineModeIsEnabled as error:
            raise StalledError("HF_HUB_OFFLINE is set and forbids asking it") from error
        except httpx.HTTPError as error:
            raise StalledError(f"it cannot be reached ({type(error).__name__})") from error
        except (ValueError, TypeError, KeyError) as error:
            raise WeightsError("what answers there is not a hub") from error

    def _refusal(self, error: HfHubHTTPError | RefusedError) -> str:
        if isinstance(error, GatedRepoError):
            return (
                "its licence is to be accepted on its page first, and HF_TOKEN set or "
                "`hf auth login` run"
            )
        if isinstance(error, RepositoryNotFoundError):
            return "there is no such repository, or it is private"
        if isinstance(error, RevisionNotFoundError | EntryNotFoundError):
            return f"{self.place.path} is no longer there"
        return f"it answers with HTTP status {error.response.status_code}"


@dataclass(frozen=True)
class FolderFile(PlaceFetcher):
    """The file in a folder of this machine; it is linked or copied from there."""

    place: FolderPlace

    ending = "folder"

    def __str__(self) -> str:
        return f"the folder {self.place.path}"

    @property
    def path(self) -> Path:
        path = self.place.path
        return path / self.file.path if path.is_dir() else path

    def local_copies(self, context: FetchContext) -> Iterable[Path]:
        return [self.path] if context.offline else []

    def check(self, context: FetchContext, patience: StallTimeouts) -> None:
        if not self.path.is_file():
            raise WeightsError(f"there is no file {self.path}")

    def fetch(self, context: FetchContext, patience: StallTimeouts) -> None:
        try:
            is_right = context.matches(self.path, expected_file(self.file))
        except OSError as error:
            raise WeightsError(f"{self.path} cannot be read ({error.strerror or error})") from error
        if not is_right:
            raise WeightsError(f"{self.path} is another file (its SHA-256 differs)")
        link_or_copy(self.path, self.partial(context))
