"""The recordings of a job as a trainer takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from multimodal.media.audio import decode
from multimodal.studio.data.prepare import Row
from multimodal.studio.data.recordings import LIMITS, RECORDINGS
from multimodal.studio.recipes.speech_model import Item, Samples, SpeechModel


class SpeechDataset(Dataset[Item]):
    """`rows` are those of `studio.data.recordings` in the job's data folder `data`. Items are read
    and computed when they are wanted: spectra of an hour take 1.4 GB."""

    def __init__(self, rows: Sequence[Row], data: Path, speech: SpeechModel) -> None:
        self._rows, self._data, self._speech = rows, data, speech

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        row = self._rows[index]
        return self._speech.item(read_recording(row, self._data), row["text"])


def read_recording(row: Row, data: Path) -> Samples:
    """That of a row in the data folder `data`."""
    path = data / RECORDINGS / row["audio"]
    return decode(path.read_bytes(), row["name"], LIMITS)


def longest_s(rows: Sequence[Row]) -> float:
    """Seconds of the longest recording."""
    return max((float(row["seconds"]) for row in rows), default=0.0)
