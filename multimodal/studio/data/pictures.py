"""Pictures of a folder with a folder for each class: checked, made small, without doubles, split.

    data/cat/1.jpg, data/dog/1.jpg              some of each class are held out, by chance
    data/train/cat/1.jpg, data/test/cat/1.jpg   as the folders say
    data/1.jpg, data/2.jpg                      of no class (""), for what learns to draw

They are kept as `kept_pictures` says. Two files are the same picture if that leaves the same
bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multimodal.errors import DataError
from multimodal.private_files import make_private_folder
from multimodal.studio.data.folder_files import SourceFile, open_source
from multimodal.studio.data.kept_files import (
    held_out_digests,
    listed,
    unique_files,
    without_leaks,
)
from multimodal.studio.data.kept_pictures import PictureKeeper, thumbnail
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, write_rows
from multimodal.studio.data.records import Split
from multimodal.studio.data.sources import split_of
from multimodal.studio.settings import JobSettings

SIDE = 512
"""Of the shorter side of a picture as it is kept; classifiers read 224 to 384 pixels."""
SHOWN_CLASSES, SHOWN_EACH = 24, 3
"""Of how many classes a preview shows pictures, and how many of each."""


@dataclass(frozen=True, slots=True)
class Picture:
    """`file`: below the folder PICTURES. `digest`: SHA-256 of what is kept."""

    name: str
    label: str
    file: str
    digest: str
    split: Split | None = None

    def row(self) -> Row:
        return {"image": self.file, "label": self.label, "name": self.name}


@dataclass(frozen=True, slots=True)
class PicturePreview:
    """How many pictures of each class are learned from and held out, some of those to learn from as
    JPEG by their class, and what is told of them."""

    counts: tuple[tuple[str, int, int], ...]
    shown: Mapping[str, tuple[bytes, ...]]
    notices: tuple[str, ...]

    @property
    def samples(self) -> int:
        return sum(train for _, train, _ in self.counts)

    @property
    def test_samples(self) -> int:
        return sum(test for _, _, test in self.counts)


def preview_pictures(settings: JobSettings, folder: Path) -> PicturePreview:
    """Write the pictures that `settings.data` names into `folder`, with TRAIN_FILE and TEST_FILE:
    rows of `image` (a file below PICTURES), `label` and `name`.
    How many there are, and what is told of them, in sentences. Raises DataError, one sentence with
    the files and the way out."""
    name, notices = Path(settings.data).name, list[str]()
    make_private_folder(folder)
    needs_classes = settings.method == "classify"
    found = _unique(name, read_pictures(settings.data, folder, notices, needs_classes), notices)
    if needs_classes:
        _check_classes(name, {picture.label for picture in found})
    if any(picture.split for picture in found):
        train, test = _keep_apart(name, found, notices)
    else:
        train, test = _hold_out(name, found, settings)
    write_rows(folder / TRAIN_FILE, [picture.row() for picture in train])
    write_rows(folder / TEST_FILE, [picture.row() for picture in test])
    learned, held = (Counter(picture.label for picture in one) for one in (train, test))
    counts = tuple((label, learned[label], held[label]) for label in sorted(learned))
    return PicturePreview(counts, _shown(train, folder), tuple(notices))


def write_test_pictures(data: str, folder: Path) -> tuple[str, ...]:
    """Write every different picture of `data` into `folder`, with TEST_FILE; where its folders say
    which are for testing, those. What is told of them. Raises DataError."""
    name, notices = Path(data).name, list[str]()
    make_private_folder(folder)
    found = _unique(name, read_pictures(data, folder, notices), notices)
    test = [picture for picture in found if picture.split == "test"] or found
    write_rows(folder / TEST_FILE, [picture.row() for picture in test])
    return tuple(notices)


def read_pictures(
    data: str, folder: Path, notices: list[str], needs_classes: bool = True
) -> list[Picture]:
    """Keep every picture of a class below `folder`; where there is no folder of a class, and none
    is needed, all. What is left out goes into `notices`. Raises DataError."""
    name = Path(data).name
    with open_source(data) as files:
        layout = _Layout(files, needs_classes)
        if not layout.classes and not needs_classes:
            raise DataError(f"{name} holds no picture; add some, or give another folder.")
        if not layout.classes:
            raise DataError(
                f"{name} has no folder of a class; put the pictures of each class into a folder of "
                f"its name, such as {name}/cat and {name}/dog."
            )
        found = list(_kept(name, layout, folder, notices))
    for split, label in sorted(layout.classes - {(one.split, one.label) for one in found}, key=str):
        if not label:
            raise DataError(f"{name} holds no picture; add some, or give another folder.")
        place = f"{name}/{split}/{label}" if split else f"{name}/{label}"
        raise DataError(f"{place} holds no picture; add some, or remove the folder.")
    return found


class _Layout:
    """Which files lie in the folder of a class, and which do not."""

    def __init__(self, files: Sequence[SourceFile], needs_classes: bool) -> None:
        self.files = files
        self._is_flat = not needs_classes and all(len(file.parts) == 1 for file in files)
        tops = {file.parts[0] for file in files if len(file.parts) > 1}
        with_pictures = {file.parts[0] for file in files if len(file.parts) == 2}
        splits = {top: split_of(Path(top)) for top in tops - with_pictures}
        is_split = bool(tops) and all(splits.get(top) for top in tops)
        self._splits = splits if is_split else {}
        self.classes = {place for file in files if (place := self.place(file)) is not None}

    def place(self, file: SourceFile) -> tuple[Split | None, str] | None:
        """Its split and class; None for one that lies beside the classes."""
        if self._is_flat:
            return None, ""
        parts = file.parts[1:] if self._splits else file.parts
        split = self._splits.get(file.parts[0]) if self._has_both else None
        return (split, parts[0]) if len(parts) > 1 else None

    @property
    def _has_both(self) -> bool:
        return {"train", "test"} <= set(self._splits.values())


def _kept(name: str, layout: _Layout, folder: Path, notices: list[str]) -> Iterator[Picture]:
    others = list[str]()
    with PictureKeeper(name, folder, SIDE) as keeper:
        for file in layout.files:
            place = layout.place(file)
            data = None if place is None else keeper.read(file)
            if place is None or data is None:
                others.append(file.name)
            elif (kept := keeper.keep(file, data)) is not None:
                yield Picture(file.name, place[1], kept.file, kept.digest, place[0])
    if others:
        what = (
            "is no picture of a class and is"
            if len(others) == 1
            else "are no pictures of a class and are"
        )
        notices.append(f"{listed(others, ', ')} {what} left out.")


def _shown(train: Sequence[Picture], folder: Path) -> dict[str, tuple[bytes, ...]]:
    classes: dict[str, list[Picture]] = {}
    for picture in train:
        classes.setdefault(picture.label, []).append(picture)
    return {
        label: tuple(thumbnail(folder, one.file) for one in classes[label][:SHOWN_EACH])
        for label in sorted(classes)[:SHOWN_CLASSES]
    }


def _unique(name: str, found: Sequence[Picture], notices: list[str]) -> list[Picture]:
    clash = "in two classes; remove it from one of them."
    return unique_files(name, found, notices, "picture", lambda one: one.label, clash)


def _keep_apart(
    name: str, found: Sequence[Picture], notices: list[str]
) -> tuple[list[Picture], list[Picture]]:
    train, test = without_leaks(found, notices, "picture")
    learned, tested = ({picture.label for picture in one} for one in (train, test))
    if missing := sorted(tested - learned):
        raise DataError(
            f"{name}: the class {missing[0]} has pictures in the test and none to learn from; add "
            "some to its folder for training, or remove the class."
        )
    if untested := sorted(learned - tested):
        notices.append(
            f"No picture of {listed(untested, ', ')} is in the test, so "
            "nothing will be known of how well that was learned."
        )
    return train, test


def _hold_out(
    name: str, found: Sequence[Picture], settings: JobSettings
) -> tuple[list[Picture], list[Picture]]:
    """The same share of each class, at least one and never all. Which ones depends on the seed and
    the pictures, not on their names."""
    classes: dict[str, list[Picture]] = {}
    for picture in found:
        classes.setdefault(picture.label, []).append(picture)
    held: set[str] = set()
    for label, members in classes.items():
        if len(members) < 2:
            which = f"{name}: the class {label}" if label else name
            raise DataError(
                f"{which} has only one picture, {members[0].name}; at least 2 "
                "different ones are needed, one to learn from and one to test with."
            )
        held |= held_out_digests(members, settings.seed, settings.test_share)
    test = [picture for picture in found if picture.digest in held]
    return [picture for picture in found if picture.digest not in held], test


def _check_classes(name: str, labels: set[str]) -> None:
    if len(labels) < 2:
        raise DataError(
            f"{name} has only the class {min(labels, default='')}; at least 2 are needed, each in "
            "a folder of its name."
        )
