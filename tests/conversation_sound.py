"""What a microphone hears of a person who talks to the program: sentences, coughs and noise."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal.backends.base import TTSRequest, load
from multimodal.catalog.cards import Catalog
from multimodal.events import SpeechGenerated
from multimodal.limits import Limits
from multimodal.media.audio import SAMPLE_RATE, decode, wav

Samples = NDArray[np.float32]
_chance = np.random.default_rng(7)


class Speaker:
    """A person with the embedded profile's voice."""

    def __init__(self, catalog: Catalog, weights: Path) -> None:
        self._voice: Any = load(catalog.card("piper-joe-en-us"), weights, "cpu")

    def says(self, text: str) -> Samples:
        *_, spoken = self._voice.run(TTSRequest(text, "en"), threading.Event())
        assert isinstance(spoken, SpeechGenerated)
        return decode(spoken.wav, "spoken.wav", Limits())

    def close(self) -> None:
        self._voice.close()


def rest(seconds: float) -> Samples:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def cough() -> Samples:
    """Two bursts of noise that die away."""
    bursts = []
    for seconds in (0.16, 0.22):
        count = int(seconds * SAMPLE_RATE)
        fading = np.exp(-np.arange(count) / (0.05 * SAMPLE_RATE))
        noise = np.convolve(_chance.normal(size=count) * fading, np.ones(4) / 4, "same")
        bursts += [0.5 * noise.astype(np.float32), rest(0.12)]
    return np.concatenate(bursts)


def hiss(seconds: float, level: float = 0.05) -> Samples:
    return _chance.normal(0, level, int(seconds * SAMPLE_RATE)).astype(np.float32)


def save(path: Path, parts: Sequence[Samples]) -> Path:
    """Write the parts one after another, in a room that is not quite still; return `path`."""
    sound = np.concatenate([*parts])
    path.write_bytes(wav(sound + hiss(len(sound) / SAMPLE_RATE, 0.001)[: len(sound)]))
    return path
