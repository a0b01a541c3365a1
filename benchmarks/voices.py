"""What comes back of a voice: Whisper hears what was spoken, and the words are compared.

    python -m benchmarks.voices [CARD] [--voice NAME] [--language en|fr|es|it|pt|ja]
                                [--pronounced-by gruut|espeak]

For each voice: word error of Whisper base (both sides in the normal form of Whisper's authors, and
numbers in digits), seconds to the first sound of each text, and seconds of work for a second of
sound. Japanese has no spaces, so characters are compared, as written and as read (kana by Open
JTalk): one word may be written in several ways. Times are only comparable within one run: they
depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import threading
import time
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_to_num import alpha2digit
from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

from multimodal.backends.base import load
from multimodal.backends.speech.phonemes import ENGINES
from multimodal.backends.speech.spoken_text import spoken_text
from multimodal.build import read_catalog
from multimodal.events import SentenceSpoken, SpeechGenerated, SpeechTranscribed
from multimodal.limits import Limits
from multimodal.media.audio import decode
from multimodal.requests import TranscriptionRequest, TTSRequest
from multimodal.settings import read_settings
from multimodal.weights import Weights

MODULES = {"gruut": "gruut_lang_en", "espeak": "espeakng_loader"}
EAR = "whisper-base"
SENTENCES = Path(__file__).with_name("spoken_sentences.toml")
LANGUAGES = ("en", "fr", "es", "it", "pt", "ja")
LARGEST_LEFT = 1.5
"""Of numbers in words, which stay so: "un" and "une" are articles as well."""


@dataclass
class Score:
    """Sums over the sentences; times in seconds. `units` are words, or of Japanese characters;
    `sounds` are kana."""

    errors: int = 0
    units: int = 0
    misread: int = 0
    sounds: int = 0
    first_s: float = 0.0
    work_s: float = 0.0
    sound_s: float = 0.0
    sentences: int = 0

    def __str__(self) -> str:
        what = "characters" if self.sounds else "words"
        read = ""
        if self.sounds:
            read = f" and {self.misread} of {self.sounds} kana ({self.misread / self.sounds:.1%})"
        return (
            f"{self.errors} of {self.units} {what} wrong ({self.errors / self.units:.1%}){read}, "
            f"first sound after {self.first_s / self.sentences:.2f} s, "
            f"{self.work_s / self.sound_s:.2f} s of work for a second of sound"
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
    parser.add_argument("--language", default="en", choices=LANGUAGES)
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
    *_, transcript = ear.run(TranscriptionRequest(waveform, language), threading.Event())
    assert isinstance(transcript, SpeechTranscribed)
    return transcript.spoken.text


def count(said: str, heard: str, language: str, score: Score) -> None:
    expected, found = units(said, language), units(heard, language)
    score.units += len(expected)
    score.errors += distance(expected, found)
    if language == "ja":
        readings = kana(said), kana(heard)
        score.sounds += len(readings[0])
        score.misread += distance(*readings)
    if expected != found:
        between = "" if language == "ja" else " "
        print(f"  said:  {between.join(expected)}\n  heard: {between.join(found)}")


def units(text: str, language: str) -> list[str]:
    """What is compared: words in their normal form, of Japanese letters and digits."""
    if language == "ja":
        return [char for char in unicodedata.normalize("NFKC", text) if char.isalnum()]
    if language == "en":
        return str(EnglishTextNormalizer()(text)).split()
    return str(BasicTextNormalizer()(alpha2digit(text, language, LARGEST_LEFT))).split()


def kana(text: str) -> list[str]:
    """How a Japanese text is read."""
    import pyopenjtalk

    return [char for char in pyopenjtalk.g2p(text, kana=True) if char.isalnum()]


def distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Units to put in, leave out or change to make one of the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for index, word in enumerate(one, 1):
        before, row[0] = row[0], index
        for column, candidate in enumerate(other, 1):
            changed = before + (word != candidate)
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, changed)
    return row[-1]


if __name__ == "__main__":
    main()
