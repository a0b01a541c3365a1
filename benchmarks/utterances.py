"""What it costs to hear an utterance without filling it up to thirty seconds, and what it saves.

    python -m benchmarks.utterances [--card whisper-base] [--voice-card piper-joe-en-us]
                                    [--voice NAME] [--language en|fr|es|it|pt|ja]

Every sentence of `spoken_sentences.toml` is said by a voice and heard twice by the same model in
the same process: as a recording is heard, and as an utterance. Word error (both sides in the normal
form of Whisper's authors), how often the language is found, and the median of the seconds.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
import tomllib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.voices import LANGUAGES, SENTENCES, Score, count, speak
from multimodal.backends.base import load
from multimodal.backends.speech.spoken_text import spoken_text
from multimodal.build import read_catalog
from multimodal.events import SpeechTranscribed
from multimodal.limits import Limits
from multimodal.media.audio import SAMPLE_RATE, decode
from multimodal.requests import TranscriptionRequest, TTSRequest
from multimodal.settings import read_settings
from multimodal.weights import Weights

BEFORE_S, AFTER_S, HISS = 0.5, 0.2, 0.002
"""What an open microphone has around an utterance: so much quiet, with that much noise (root mean
square)."""


@dataclass
class Hearing:
    score: Score = field(default_factory=Score)
    seconds: list[float] = field(default_factory=list)
    strange: int = 0
    """Utterances in a language that nobody spoke."""

    def __str__(self) -> str:
        what = "characters" if self.score.sounds else "words"
        wrong = self.score.errors / self.score.units
        return (
            f"{wrong:.1%} of the {what} wrong, {self.strange} of {len(self.seconds)} in another "
            f"language, {statistics.median(self.seconds):.2f} s"
        )


def main() -> None:
    asked = arguments()
    settings = read_settings()
    catalog, weights = read_catalog(settings), Weights(settings.weights_folder, settings.offline)

    def loaded(name: str) -> Any:
        card = catalog.card(name)
        return load(card, weights.ensure(card), "cpu")

    voice, ear = loaded(asked.voice_card), loaded(asked.card)
    noise = np.random.default_rng(0)
    hearings = {"as a recording": Hearing(), "as an utterance": Hearing()}
    for sentence in tomllib.loads(SENTENCES.read_text("utf-8"))[asked.language]:
        text = spoken_text(sentence, asked.language)
        request = TTSRequest(text, asked.language, None, asked.voice)
        said = decode(speak(voice, request, Score()), "spoken", Limits())
        quiet = (np.zeros(int(s * SAMPLE_RATE), np.float32) for s in (BEFORE_S, AFTER_S))
        waveform = np.concatenate([next(quiet), said, next(quiet)])
        waveform += noise.normal(0, HISS, len(waveform)).astype(np.float32)
        for is_utterance, hearing in enumerate(hearings.values()):
            hear(ear, waveform, bool(is_utterance), asked.language, sentence, hearing)
    voice.close()
    ear.close()
    for name, hearing in hearings.items():
        print(f"{asked.card}, {name}: {hearing}")
    usual, quick = (statistics.median(h.seconds) for h in hearings.values())
    print(f"{quick / usual:.2f} of the time")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", default="whisper-base")
    parser.add_argument("--voice-card", default="piper-joe-en-us")
    parser.add_argument("--voice")
    parser.add_argument("--language", default="en", choices=LANGUAGES)
    return parser.parse_args()


def hear(
    ear: Any,
    waveform: NDArray[np.float32],
    is_utterance: bool,
    language: str,
    sentence: str,
    hearing: Hearing,
) -> None:
    started = time.monotonic()
    request = TranscriptionRequest(waveform, is_utterance=is_utterance)
    *_, told = ear.run(request, threading.Event())
    hearing.seconds.append(time.monotonic() - started)
    assert isinstance(told, SpeechTranscribed)
    hearing.strange += told.spoken.language != language
    count(sentence, told.spoken.text, language, hearing.score)


if __name__ == "__main__":
    main()
