"""Pictures with captions, or with questions and answers: checked, made small, without doubles,
split.

Their texts lie as `file_texts` says; the column `question` of a table says what a text answers, and
one picture may have several questions. Pictures are kept as `kept_pictures` says. No picture is on
both sides of the split, whatever is said of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multimodal.errors import DataError
from multimodal.private_files import make_private_folder
from multimodal.studio.data.file_texts import FileKind, FileText, find_texts
from multimodal.studio.data.folder_files import SourceFile, open_source
from multimodal.studio.data.kept_files import (
    NAMED,
    held_out_digests,
    unique_files,
    without_leaks,
)
from multimodal.studio.data.kept_pictures import SUFFIXES, PictureKeeper, thumbnail
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, write_rows
from multimodal.studio.data.records import Split
from multimodal.studio.settings import JobSettings

SIDE = 1024
"""Of the shorter side of a picture as it is kept; the largest pipelines draw so many pixels."""
WANTED = (
    "a folder of pictures, each beside its caption (1.jpg and 1.txt) or named in a metadata.csv "
    "with file_name and text"
)
KIND = FileKind(
    "picture",
    SUFFIXES,
    ("file_name", "image", "picture", "file", "path"),
    ("text", "caption", "answer"),
    ("question", "prompt"),
)


@dataclass(frozen=True, slots=True)
class Caption:
    """`question`: what it answers, "" where nothing is said of it."""

    text: str
    question: str = ""


@dataclass(frozen=True, slots=True)
class CaptionedPicture:
    """`file`: below the folder PICTURES. `digest`: SHA-256 of what is kept."""

    name: str
    file: str
    digest: str
    captions: tuple[Caption, ...]
    split: Split | None = None

    def rows(self) -> list[Row]:
        return [
            {"image": self.file, "text": one.text, "question": one.question, "name": self.name}
            for one in self.captions
        ]


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """`thumbnail`: a JPEG."""

    thumbnail: bytes
    captions: tuple[Caption, ...]


@dataclass(frozen=True, slots=True)
class CaptionPreview:
    """How many pictures are learned from and held out, some of them with their captions, and what
    is told of them."""

    samples: int
    test_samples: int
    pictures: tuple[ShownPicture, ...]
    notices: tuple[str, ...]


def preview_captions(settings: JobSettings, folder: Path) -> CaptionPreview:
    """Write the pictures that `settings.data` names into `folder`, with TRAIN_FILE and TEST_FILE:
    rows of `image` (a file below PICTURES), `text`, `question` and `name`.
    How many there are, and what is told of them, in sentences. Raises DataError, one sentence with
    the files and the way out."""
    name, notices = Path(settings.data).name, list[str]()
    make_private_folder(folder)
    found = _read_unique(settings.data, folder, notices)
    if len(found) < 2:
        raise DataError(
            f"{name} has only one picture, {found[0].name}; at least 2 different ones are "
            "needed, one to learn from and one to test with."
        )
    if {one.split for one in found} >= {"train", "test"}:
        train, test = without_leaks(found, notices, "picture")
        if not train:
            raise DataError(
                f"{name} has no picture to learn from that is not in the test; add some to its "
                "folder for training."
            )
    else:
        held = held_out_digests(found, settings.seed, settings.test_share)
        train = [one for one in found if one.digest not in held]
        test = [one for one in found if one.digest in held]
    _write(folder / TRAIN_FILE, train)
    _write(folder / TEST_FILE, test)
    shown = [
        ShownPicture(thumbnail(folder, one.file), one.captions[:NAMED]) for one in train[:NAMED]
    ]
    return CaptionPreview(len(train), len(test), tuple(shown), tuple(notices))


def write_test_captions(data: str, folder: Path) -> tuple[str, ...]:
    """Write every different picture of `data` into `folder`, with TEST_FILE; where its folders say
    which are for testing, those. What is told of them. Raises DataError."""
    notices = list[str]()
    make_private_folder(folder)
    found = _read_unique(data, folder, notices)
    _write(folder / TEST_FILE, [one for one in found if one.split == "test"] or found)
    return tuple(notices)


def _read_unique(data: str, folder: Path, notices: list[str]) -> list[CaptionedPicture]:
    name = Path(data).name
    with open_source(data, WANTED) as files:
        texts = find_texts(name, files, KIND, notices)
        if not texts:
            raise DataError(f"{name} holds no pictures with captions; give {WANTED}.")
        found = _kept(name, texts, folder)
    clash = "with other captions; remove one of them."
    return unique_files(name, found, notices, "picture", _words, clash)


def _kept(name: str, texts: Sequence[FileText], folder: Path) -> list[CaptionedPicture]:
    captions: dict[tuple[str, ...], list[Caption]] = {}
    files: dict[tuple[str, ...], tuple[SourceFile, Split | None]] = {}
    for one in texts:
        caption = Caption(" ".join(one.text.split()), " ".join(one.question.split()))
        captions.setdefault(one.file.parts, []).append(caption)
        files[one.file.parts] = one.file, one.split
    found = list[CaptionedPicture]()
    with PictureKeeper(name, folder, SIDE) as keeper:
        for parts, (file, split) in files.items():
            data = keeper.read(file)
            kept = None if data is None else keeper.keep(file, data)
            if kept is not None:
                told = tuple(captions[parts])
                found.append(CaptionedPicture(file.name, kept.file, kept.digest, told, split))
    return found


def _words(one: CaptionedPicture) -> str:
    """What is said of a picture, as it is compared with what is said of others."""
    return repr(sorted((it.question.casefold(), it.text.casefold()) for it in one.captions))


def _write(path: Path, pictures: Sequence[CaptionedPicture]) -> None:
    write_rows(path, [row for one in pictures for row in one.rows()])
