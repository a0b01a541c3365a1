"""Recordings with what is said in them: checked, at 16 kHz, without doubles, split.

Their texts lie as `file_texts` says. They are read as those of a chat are: by their content,
bounded while they are decoded, without metadata. Two files are the same recording if that leaves
the same sound. What is held out is not said in what is learned from: all recordings of one text go
to the same side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from multimodal.errors import DataError, MediaError
from multimodal.limits import Limits
from multimodal.media.audio import SAMPLE_RATE, decode, flac
from multimodal.private_files import make_private_folder
from multimodal.studio.data.file_texts import FileKind, FileText, find_texts
from multimodal.studio.data.folder_files import open_source
from multimodal.studio.data.kept_files import NAMED, listed, unique_files, without_leaks
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, write_rows
from multimodal.studio.data.records import Split
from multimodal.studio.settings import JobSettings

RECORDINGS = "recordings"
"""In the folder of a job's data."""
LONGEST_S = 30.0
"""What Whisper hears at once; for the others a bound of memory."""
LIMITS = Limits(max_audio_s=LONGEST_S)
WANTED = (
    "a folder of recordings, each beside its text (1.wav and 1.txt) or named in a metadata.csv "
    "with file_name and text"
)
KIND = FileKind(
    "recording",
    frozenset({
        ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aiff", ".webm", ".mp4",
    }),
    ("file_name", "audio", "file", "path"),
    ("text", "transcription", "sentence"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recording:
    """`file`: below the folder RECORDINGS. `digest`: SHA-256 of what is kept."""

    name: str
    text: str
    file: str
    digest: str
    seconds: float
    split: Split | None = None

    def row(self) -> Row:
        return {"audio": self.file, "text": self.text, "name": self.name, "seconds": self.seconds}

    @property
    def words(self) -> str:
        """The text as it is compared with others."""
        return " ".join("".join(c if c.isalnum() else " " for c in self.text.casefold()).split())


@dataclass(frozen=True, slots=True)
class RecordingPreview:
    """How many recordings are learned from and held out, how long they are in seconds, some of the
    texts, and what is told of them."""

    samples: int
    test_samples: int
    seconds: float
    test_seconds: float
    texts: tuple[str, ...]
    notices: tuple[str, ...]


def preview_recordings(settings: JobSettings, folder: Path) -> RecordingPreview:
    """Write the recordings that `settings.data` names into `folder`, with TRAIN_FILE and TEST_FILE:
    rows of `audio` (a file below RECORDINGS), `text`, `name` and `seconds`.
    How many there are, and what is told of them, in sentences. Raises DataError, one sentence with
    the files and the way out."""
    name, notices = Path(settings.data).name, list[str]()
    make_private_folder(folder)
    found = _unique(name, read_recordings(settings.data, folder, notices), notices)
    if len(found) < 2:
        raise DataError(
            f"{name} has only one recording, {found[0].name}; at least 2 different ones are "
            "needed, one to learn from and one to test with."
        )
    if {one.split for one in found} >= {"train", "test"}:
        train, test = _keep_apart(name, found, notices)
    else:
        train, test = _hold_out(found, settings)
    write_rows(folder / TRAIN_FILE, [one.row() for one in train])
    write_rows(folder / TEST_FILE, [one.row() for one in test])
    return RecordingPreview(
        len(train),
        len(test),
        sum(one.seconds for one in train),
        sum(one.seconds for one in test),
        tuple(one.text for one in train[:NAMED]),
        tuple(notices),
    )


def write_test_recordings(data: str, folder: Path) -> tuple[str, ...]:
    """Write every different recording of `data` into `folder`, with TEST_FILE; where its folders
    say which are for testing, those. What is told of them. Raises DataError."""
    name, notices = Path(data).name, list[str]()
    make_private_folder(folder)
    found = _unique(name, read_recordings(data, folder, notices), notices)
    test = [one for one in found if one.split == "test"] or found
    write_rows(folder / TEST_FILE, [one.row() for one in test])
    return tuple(notices)


def read_recordings(data: str, folder: Path, notices: list[str]) -> list[Recording]:
    """Keep every recording below `folder`. What is left out goes into `notices`. Raises
    DataError."""
    name = Path(data).name
    with open_source(data, WANTED) as files:
        pairs = find_texts(name, files, KIND, notices)
        if not pairs:
            raise DataError(f"{name} holds no recordings with texts; give {WANTED}.")
        return list(_kept(name, pairs, folder))


# ------------------------------------------------------------ what is heard


def _kept(name: str, pairs: Sequence[FileText], folder: Path) -> Iterator[Recording]:
    kept = folder / RECORDINGS
    make_private_folder(kept)
    faults: list[str] = []
    for pair in pairs:
        try:
            waveform = decode(pair.file.read(), pair.file.parts[-1], LIMITS)
        except MediaError as error:
            faults.append(f"{pair.file.name} {_clause(error)}")
            continue
        except OSError as error:
            faults.append(f"{pair.file.name} cannot be read ({error.strerror or error})")
            continue
        seconds = len(waveform) / SAMPLE_RATE
        if seconds < LIMITS.min_audio_s or not waveform.any():
            faults.append(f"{pair.file.name} is silent")
            continue
        data = flac(waveform)
        digest = hashlib.sha256(waveform.tobytes()).hexdigest()
        (kept / f"{digest}.flac").write_bytes(data)
        text = " ".join(pair.text.split())
        yield Recording(pair.file.name, text, f"{digest}.flac", digest, seconds, pair.split)
    if faults:
        raise DataError(f"{name}: {listed(faults)}. Repair or remove what is named.")


def _clause(error: MediaError) -> str:
    """What is wrong with a recording, without what a chat says to who sent it."""
    told = str(error).partition("” ")[2] or str(error)
    if told.startswith("is not a picture"):
        return "is damaged, or no recording"
    return told.partition(". ")[0].rstrip(".")


# ------------------------------------------------------------ what is held out


def _unique(name: str, found: Sequence[Recording], notices: list[str]) -> list[Recording]:
    clash = "with two texts; remove one of them."
    return unique_files(name, found, notices, "recording", lambda one: one.words, clash)


def _keep_apart(
    name: str, found: Sequence[Recording], notices: list[str]
) -> tuple[list[Recording], list[Recording]]:
    train, test = without_leaks(found, notices, "recording")
    if not train:
        raise DataError(
            f"{name} has no recording to learn from that is not in the test; add some to its "
            "folder for training."
        )
    learned = {one.words for one in train}
    if same := sum(one.words in learned for one in test):
        notices.append(
            f"{same} of {len(test)} texts of the test are learned from in other recordings, so it "
            "tells how well other recordings are heard, and less of other texts."
        )
    return train, test


def _hold_out(
    found: Sequence[Recording], settings: JobSettings
) -> tuple[list[Recording], list[Recording]]:
    """At least one, and never all. Which ones depends on the seed and what is said, not on names.
    Where all say the same, by the recordings."""
    is_one_text = len({one.words for one in found}) == 1
    groups: dict[str, list[Recording]] = {}
    for one in found:
        groups.setdefault(one.digest if is_one_text else one.words, []).append(one)
    order = sorted(
        groups, key=lambda key: hashlib.sha256(f"{settings.seed} {key}".encode()).digest()
    )
    wanted = max(1, round(settings.test_share * len(found)))
    held: set[str] = set()
    for key in order[:-1]:
        if len(held) >= wanted:
            break
        held.update(one.digest for one in groups[key])
    test = [one for one in found if one.digest in held]
    return [one for one in found if one.digest not in held], test
