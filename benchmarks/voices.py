"""What comes back of a voice: Whisper hears what was spoken, and the words are compared.

    python -m benchmarks.voices [CARD] [--voice NAME] [--language en|fr]
                                [--pronounced-by gruut|espeak]

For each voice: word error of Whisper base (both sides in the normal form of Whisper's authors),
seconds to the first sound of each text, and seconds of work for a second of sound. Times are only
comparable within one run: they depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import threading
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

from multimodal.backends.base import SpeechRequest, TTSRequest, load
from multimodal.backends.speech.phonemes import ENGINES
from multimodal.backends.speech.spoken_text import spoken_text
from multimodal.build import read_catalog
from multimodal.events import SentenceSpoken, SpeechGenerated, Transcript
from multimodal.limits import Limits
from multimodal.messages import AudioPart
from multimodal.settings import read_settings
from multimodal.sound import decode
from multimodal.weights import Weights

MODULES = {"gruut": "gruut_lang_en", "espeak": "espeakng_loader"}
EAR = "whisper-base"
SENTENCES = Path(__file__).with_name("spoken_sentences.toml")


@dataclass
class Score:
    """Sums over the sentences; times in seconds."""

    errors: int = 0
    words: int = 0
    first_s: float = 0.0
    work_s: float = 0.0
    sound_s: float = 0.0
    sentences: int = 0

    def __str__(self) -> str:
        return (
            f"{self.errors} of {self.words} words wrong ({self.errors / self.words:.1%}), first "
            f"sound after {self.first_s / self.sentences:.2f} s, {self.work_s / self.sound_s:.2f} "
            "s of work for a second of sound"
        )


def main() -> None:
    asked = arguments()
    if asked.pronounced_by:
        module = MODULES[asked.pronounced_by]
        engines = ENGINES[asked.language]
        ENGINES[asked.language] = tuple(engine for engine in engines if engine.module == module)
    settings = read_settings()
    catalog, weights = read_catalog(settings), Weights(settings.weights_folder, settings.offline)

    def loaded(name: str) -> Any:
        card = catalog.card(name)
        return load(card, weights.ensure(card), "cpu")

    voice, ear, score = loaded(asked.card), loaded(EAR), Score()
    for sentence in tomllib.loads(SENTENCES.read_text("utf-8"))[asked.language]:
        text = spoken_text(sentence, asked.language)
        request = TTSRequest(text, asked.language, None, asked.voice)
        wav = speak(voice, request, score)
        heard = hear(ear, wav, asked.language)
        count(sentence, heard, asked.language, score)
    voice.close()
    ear.close()
    print(f"{asked.card} {asked.voice or ''} in {asked.language}: {score}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("card", nargs="?", default="piper-joe-en-us")
    parser.add_argument("--voice")
    parser.add_argument("--language", default="en", choices=["en", "fr"])
    parser.add_argument("--pronounced-by", choices=MODULES)
    return parser.parse_args()


def speak(voice: Any, request: TTSRequest, score: Score) -> bytes:
    started, first, wav = time.monotonic(), None, b""
    for event in voice.run(request, threading.Event()):
        if isinstance(event, SentenceSpoken) and first is None:
            first = time.monotonic() - started
        if isinstance(event, SpeechGenerated):
            wav = event.wav
            score.sound_s += event.seconds
    score.work_s += time.monotonic() - started
    score.first_s += first or 0.0
    score.sentences += 1
    return wav


def hear(ear: Any, wav: bytes, language: str) -> str:
    waveform = decode(wav, "spoken", Limits())
    part = AudioPart("0" * 64, "audio/flac", len(waveform) / 16_000)
    *_, transcript = ear.run(SpeechRequest(part, waveform, language), threading.Event())
    assert isinstance(transcript, Transcript)
    return transcript.part.transcript or ""


def count(said: str, heard: str, language: str, score: Score) -> None:
    normal = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    expected, found = normal(said).split(), normal(heard).split()
    score.words += len(expected)
    score.errors += distance(expected, found)
    if expected != found:
        print(f"  said:  {' '.join(expected)}\n  heard: {' '.join(found)}")


def distance(one: list[str], other: list[str]) -> int:
    """Words to put in, leave out or change to make one of the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for index, word in enumerate(one, 1):
        before, row[0] = row[0], index
        for column, candidate in enumerate(other, 1):
            changed = before + (word != candidate)
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, changed)
    return row[-1]


if __name__ == "__main__":
    main()
