"""Recordings with what is said in them: checked, at 16 kHz, without doubles, split.

    data/1.wav, data/1.txt                      each recording beside its text
    data/metadata.csv (file_name, text)         a table that names recordings beside it or below
    data/train/..., data/test/...               as the folders say; else some are held out

They are read as those of a chat are: by their content, bounded while they are decoded, without
metadata. Two files are the same recording if that leaves the same sound. What is held out is not
said in what is learned from: all recordings of one text go to the same side.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from multimodal.errors import DataError, MediaError
from multimodal.limits import Limits
from multimodal.media.audio import SAMPLE_RATE, decode, flac
from multimodal.private_files import make_private_folder
from multimodal.studio.data.folder_files import SourceFile, open_source
from multimodal.studio.data.kept_files import unique_files, without_leaks
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, write_rows
from multimodal.studio.data.records import Split
from multimodal.studio.data.sources import split_of
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
SOUNDS = frozenset({
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aiff", ".webm", ".mp4",
})  # fmt: skip
"""Of files that are meant to be recordings, whatever they hold."""
TABLES = frozenset({".csv", ".tsv", ".jsonl"})
FILE_COLUMNS = ("file_name", "audio", "file", "path")
TEXT_COLUMNS = ("text", "transcription", "sentence")
"""Of a table, the first that it has of each."""
NAMED = 5
"""How many files a sentence names."""


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


@dataclass(frozen=True, slots=True)
class _Pair:
    file: SourceFile
    text: str
    split: Split | None


def prepare_recordings(settings: JobSettings, folder: Path) -> tuple[str, ...]:
    """Write the recordings that `settings.data` names into `folder`, with TRAIN_FILE and TEST_FILE:
    rows of `audio` (a file below RECORDINGS), `text`, `name` and `seconds`. What is told of them,
    in sentences. Raises DataError, one sentence with the files and the way out."""
    return preview_recordings(settings, folder).notices


def preview_recordings(settings: JobSettings, folder: Path) -> RecordingPreview:
    """The same, with how many there are."""
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
        pairs = _pairs(name, files, notices)
        if not pairs:
            raise DataError(f"{name} holds no recordings with texts; give {WANTED}.")
        return list(_kept(name, pairs, folder))


# ------------------------------------------------------------ which text is whose


def _pairs(name: str, files: Sequence[SourceFile], notices: list[str]) -> list[_Pair]:
    """Each recording with its text. Raises DataError, with every kind of fault in one sentence."""
    sounds = {file.parts: file for file in files if _suffix(file) in SOUNDS}
    tables = [file for file in files if _suffix(file) in TABLES]
    told: list[tuple[SourceFile, str, str]] = []  # recording, text, where the text stands
    faults: list[str] = []
    rows = _table_rows(name, tables) if tables else _beside(files)
    for parts, text, place in rows:
        sound = sounds.get(parts)
        if sound is None:
            faults.append(f"{place} has a text and no recording")
        elif not any(c.isalnum() for c in text):
            faults.append(f"{place} has no words")
        else:
            told.append((sound, text, place))
    known = {parts for parts, _, _ in rows}
    faults += [f"{file.name} has no text" for file in sounds.values() if file.parts not in known]
    counts = Counter(sound.name for sound, _, _ in told)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        faults.append(f"{twice} is named more than once")
    if faults and sounds:
        raise DataError(f"{name}: {_listed(faults)}. Add what is missing, or remove the rest.")
    used = sounds.keys() | {file.parts for file in tables}
    texts = set() if tables else {file.parts for file in files if _suffix(file) == ".txt"}
    if others := [file.name for file in files if file.parts not in used | texts]:
        what = (
            "is neither recording nor text and is"
            if len(others) == 1
            else ("are neither recordings nor texts and are")
        )
        notices.append(f"{_listed(others, ', ')} {what} left out.")
    return [_Pair(sound, text, _split(sound)) for sound, text, _ in told]


def _beside(files: Sequence[SourceFile]) -> list[tuple[tuple[str, ...], str, str]]:
    """The texts of NAME.txt, each for the recording of its name."""
    sounds = {_stem(file): file for file in files if _suffix(file) in SOUNDS}
    found = []
    for file in files:
        if _suffix(file) == ".txt":
            sound = sounds.get(_stem(file))
            parts = sound.parts if sound is not None else file.parts
            found.append((parts, _decoded(file.name, file).strip(), file.name))
    return found


def _table_rows(name: str, tables: Sequence[SourceFile]) -> list[tuple[tuple[str, ...], str, str]]:
    """What tables say of recordings, named by their place from the table on."""
    found = []
    for table in tables:
        for number, row in _rows(table):
            place = f"{table.name}, line {number},"
            file, text = _column(row, FILE_COLUMNS), _column(row, TEXT_COLUMNS)
            if file is None or text is None:
                raise DataError(
                    f"{name}: {place} lacks a recording or a text; its columns are file_name and "
                    "text."
                )
            parts = PurePosixPath(file.replace("\\", "/")).parts
            found.append(((*table.parts[:-1], *parts), text.strip(), place.rstrip(",")))
    return found


def _rows(table: SourceFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with the number of their line. Raises DataError."""
    text = _decoded(table.name, table)
    try:
        if _suffix(table) == ".jsonl":
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    yield number, dict(json.loads(line))
            return
        first = text.partition("\n")[0]
        separator = "\t" if _suffix(table) == ".tsv" else max(",;\t", key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            yield reader.line_num, row
    except (csv.Error, ValueError, TypeError) as error:
        raise DataError(f"{table.name} is no table that can be read ({error}).") from error


def _column(row: dict[str, Any], names: Sequence[str]) -> str | None:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    return value if isinstance(value, str) else None


def _decoded(name: str, file: SourceFile) -> str:
    try:
        return file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is no text in UTF-8 ({error}); save it as that.") from error


def _suffix(file: SourceFile) -> str:
    return PurePosixPath(file.parts[-1]).suffix.lower()


def _stem(file: SourceFile) -> tuple[str, ...]:
    return (*file.parts[:-1], PurePosixPath(file.parts[-1]).stem)


def _split(file: SourceFile) -> Split | None:
    return split_of(Path(file.parts[0])) if len(file.parts) > 1 else None


# ------------------------------------------------------------ what is heard


def _kept(name: str, pairs: Sequence[_Pair], folder: Path) -> Iterator[Recording]:
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
        raise DataError(f"{name}: {_listed(faults)}. Repair or remove what is named.")


def _clause(error: MediaError) -> str:
    """What is wrong with a recording, without what a chat says to who sent it."""
    told = str(error).partition("” ")[2] or str(error)
    if told.startswith("is not a picture"):
        return "is damaged, or no recording"
    return told.partition(". ")[0].rstrip(".")


def _listed(names: Sequence[str], separator: str = "; ") -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{separator.join(names[:NAMED])}{more}"


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
