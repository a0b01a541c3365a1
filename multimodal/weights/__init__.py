"""Where weights come from, and that they are what the card says.

They are fetched once, checked, and recorded: a later start looks at sizes and times, reads no
weights and opens no connection. A cut download goes on where it ended, in this run or a later one,
and what this machine already has under another name is not fetched at all.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import HfApi

from multimodal.catalog.cards import ModelCard
from multimodal.catalog.sources import (
    SINGLE_FILES,
    FilesSource,
    FolderSource,
    HubSource,
    ManualSource,
    PackageSource,
    PartsSource,
    UntrainedSource,
    UrlSource,
)
from multimodal.errors import WeightsError
from multimodal.weights.copies import recorded_files, take_copy
from multimodal.weights.downloads import raise_if_stopped, until_stopped
from multimodal.weights.fetch_context import FORBIDDEN, FetchContext, Fetcher, File
from multimodal.weights.fetchers import ManualFiles, Parts, UrlFile
from multimodal.weights.files import FilesFetcher
from multimodal.weights.hub import Hub
from multimodal.weights.package_index import IndexSettings, pip_settings
from multimodal.weights.progress import FetchProgress, ReportFetch, console_progress, silent
from multimodal.weights.quantized import QuantizedCheckpoints

__all__ = ["FetchProgress", "ReportFetch", "Weights", "console_progress"]

LOOK_EVERY_S = 0.5


class Weights:
    """A folder with one sub-folder a card; a card with an adapter has that of its base. Several
    programs may share it."""

    def __init__(
        self,
        folder: Path,
        offline: bool = False,
        settings: Callable[[], IndexSettings] = pip_settings,
        hub: Callable[[], HfApi] = HfApi,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        retry_wait_s: float = 1.0,
        hub_cache: Path | None = None,
        quantized_bytes: int = 0,
    ) -> None:
        """`hub_cache` is the folder in which huggingface_hub keeps what it fetched for other
        programs; without one, that of this machine. `quantized_bytes`: how much of the disk models
        take that are saved as they were quantized."""
        self._folder = folder
        self._offline = offline
        self._settings = settings
        self._hub = hub
        self._free_bytes = free_bytes
        self._retry_wait_s = retry_wait_s
        self._hub_cache = hub_cache
        self.quantized = QuantizedCheckpoints(folder, quantized_bytes, free_bytes)

    def is_ready(self, card: ModelCard) -> bool:
        """Whether `ensure` would return at once; looks at sizes and times, reads no weights."""
        if isinstance(card.source, FolderSource):
            return _is_there(card.source.path)
        return self._fetcher(card) is None or self._job(card).is_verified()

    def ensure(
        self,
        card: ModelCard,
        on_progress: ReportFetch = silent,
        stop: threading.Event | None = None,
    ) -> Path:
        """The folder with the card's files, fetched and verified if they are not there.

        That of an untrained model need not exist. Raises WeightsError naming the card, what is
        missing and the way out, and TurnStoppedError soon after `stop` was set.
        """
        if isinstance(card.source, FolderSource):
            return _existing(card, card.source)
        fetcher, context = self._fetcher(card), self._job(card, on_progress, stop)
        if fetcher is not None and not context.is_verified():
            until_stopped(lambda: self._provide(context, fetcher), stop)
        return context.folder

    def declared_bytes(self, card: ModelCard) -> int:
        """What the card itself says would be fetched; 0 where only the place knows, or nobody
        fetches it."""
        fetcher = self._fetcher(card)
        return 0 if fetcher is None else fetcher.declared_bytes()

    def query_bytes(self, card: ModelCard) -> int:
        """How much `ensure` would fetch for a card that is not ready; fetches nothing.

        Raises WeightsError, without the card's title, where it cannot be had.
        """
        if isinstance(card.source, FolderSource):
            _existing(card, card.source)
        fetcher = self._fetcher(card)
        if fetcher is None:
            return 0
        if self._offline:
            raise WeightsError(FORBIDDEN)
        return fetcher.query_bytes(self._job(card))

    # ------------------------------------------------------------ one card

    def _fetcher(self, card: ModelCard) -> Fetcher | None:
        """Who has the weights; None for what nobody fetches."""
        match card.source:
            case FolderSource() | PackageSource() | UntrainedSource():
                return None
            case PartsSource() as source:
                return Parts({name: self._of(part) for name, part in source.parts.items()})
            case source:
                return self._of(source)

    def _of(self, source: FilesSource | HubSource | UrlSource | ManualSource) -> Fetcher:
        wait_s = self._retry_wait_s
        match source:
            case FilesSource():
                return FilesFetcher(source, self._settings, self._hub, wait_s, self._hub_cache)
            case HubSource():
                return Hub(source, self._hub, wait_s, self._hub_cache)
            case UrlSource():
                return UrlFile(source, wait_s)
            case ManualSource():
                return ManualFiles(source)

    def _job(
        self,
        card: ModelCard,
        on_progress: ReportFetch = silent,
        stop: threading.Event | None = None,
    ) -> FetchContext:
        folder = self._folder / card.weights_name
        return FetchContext(card, folder, on_progress, stop, self._offline, self._free_bytes)

    def _provide(self, context: FetchContext, fetcher: Fetcher) -> None:
        with self._sentences(context.card):
            self._folder.mkdir(parents=True, exist_ok=True)
            context.tally.total_bytes = fetcher.declared_bytes()
            context.report("waiting")
            with self._exclusive(context):
                if not context.is_verified():
                    self._complete(context, fetcher)

    def _complete(self, context: FetchContext, fetcher: Fetcher) -> None:
        context.folder.mkdir(parents=True, exist_ok=True)
        wanted = fetcher.required_files(context)
        missing = self._without_copies(context, fetcher, wanted)
        if missing:
            if self._offline:
                raise WeightsError(FORBIDDEN)
            context.begin(fetcher.download_size(context, wanted, missing))
            fetcher.fetch(context, missing)
        context.record(wanted)

    def _without_copies(
        self, context: FetchContext, fetcher: Fetcher, wanted: tuple[File, ...]
    ) -> tuple[File, ...]:
        """The files that are neither in the card's folder nor elsewhere on this machine."""
        absent = [file for file in wanted if not context.has_file(file)]
        recorded = recorded_files(self._folder) if absent else {}
        return tuple(
            file
            for file in absent
            if not take_copy(context, file, recorded.get(file.size_bytes or 0, ()))
            and not take_copy(context, file, fetcher.local_copies(context, file))
        )

    @contextmanager
    def _exclusive(self, context: FetchContext) -> Iterator[None]:
        """Hold the card's lock, which every program that fetches its weights takes. Another card
        need not wait for a large one that is fetched behind it."""
        lock = FileLock(self._folder / f".{context.card.weights_name}.lock")
        while not lock.is_locked:
            raise_if_stopped(context.stop)
            with suppress(Timeout):
                lock.acquire(timeout=LOOK_EVERY_S)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _sentences(self, card: ModelCard) -> Iterator[None]:
        try:
            yield
        except WeightsError as error:
            raise WeightsError(f"{card.title} has no weights yet: {error}.") from error
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            cause = "the disk is full" if full else str(error)
            raise WeightsError(
                f"{card.title} has no weights yet: they could not be stored in {self._folder} "
                f"({cause}). Free some space, or choose another disk with --data DIR."
            ) from error


def _is_there(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.suffix.lower() in SINGLE_FILES)


def _existing(card: ModelCard, source: FolderSource) -> Path:
    path = source.path
    if _is_there(path):
        return path
    if path.is_file():
        raise WeightsError(
            f"{card.title}: {path.name} alone is no model. Name the folder that it is in, "
            f"{path.parent}, in its card."
        )
    raise WeightsError(
        f"{card.title}: its weights should be in {path}, which does not exist. "
        "Put them there, or correct the path in its card."
    )
