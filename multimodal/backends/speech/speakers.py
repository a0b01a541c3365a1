"""Which model says a text, and which languages there are voices for. Pure: cards in, card out."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from multimodal.backends.speech.phonemes import can_pronounce, explain_missing_phonemizer
from multimodal.catalog.cards import ModelCard
from multimodal.errors import RequestError
from multimodal.languages import language_name
from multimodal.messages import Task

SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "HANGUL": "ko",
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "HEBREW": "he",
    "GREEK": "el",
    "THAI": "th",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "TELUGU": "te",
    "TAMIL": "ta",
}
"""First words of Unicode's names of letters, and the language that most texts of them are in."""


def can_speak(card: ModelCard) -> bool:
    return bool(card.speaks or card.voices)


def languages_of(card: ModelCard) -> tuple[str, ...]:
    """Those that the card speaks (ISO 639) and that can be pronounced here."""
    voiced = (code for voice in card.voices for code in voice.languages)
    return tuple(dict.fromkeys((*card.speaks, *filter(can_pronounce, voiced))))


def speaking_cards(cards: Iterable[ModelCard]) -> list[ModelCard]:
    """Those of `cards` that speak: models for speech before others that can do it as well."""
    return sorted(filter(can_speak, cards), key=lambda card: card.task is not Task.TTS)


def choose_speaker(
    cards: Iterable[ModelCard],
    language: str | None = None,
    voice: str | None = None,
    text_language: str | None = None,
) -> ModelCard | None:
    """The first card that says a text in `language`, with the voice of that name if one is given.

    A text known to be written in another language is translated by a model that can; None where
    there is none that speaks it.
    """
    able = speaking_cards(cards)
    if voice is not None:
        able = [card for card in able if any(v.name == voice for v in card.voices)] or able
    if language is not None:
        able = [card for card in able if language in languages_of(card)]
        own = [card for card in able if any(v.languages[0] == language for v in card.voices)]
        able = sorted(able, key=lambda card: card not in own and not card.speaks)
        if text_language is not None and text_language != language:
            able = [card for card in able if card.task is Task.SPEECH] or able
    return able[0] if able else None


def missing_voice_error(cards: Iterable[ModelCard], language: str) -> RequestError:
    """Why nothing speaks that language, with the way out."""
    cards = speaking_cards(cards)
    if any(language in voice.languages for card in cards for voice in card.voices):
        return RequestError(explain_missing_phonemizer(language))
    known = sorted({language_name(code) for card in cards for code in languages_of(card)})
    there_are = f"There are voices for {_listed(known)}." if known else "There is no voice here."
    return RequestError(f"No voice here speaks {language_name(language)}. {there_are}")


def offered_voices(
    cards: Iterable[ModelCard],
) -> Iterator[tuple[ModelCard, str, str, tuple[str, ...]]]:
    """Every voice of `cards` as (card, name, title, languages that it speaks here)."""
    for card in speaking_cards(cards):
        if not card.voices:
            yield card, "0", card.title, card.speaks
        for voice in card.voices:
            if languages := tuple(filter(can_pronounce, voice.languages)):
                yield card, voice.name, voice.title, languages


def language_of_script(text: str) -> str | None:
    """The language (ISO 639) that most letters of `text` are of where their script tells it; None
    for Latin letters, which many languages share."""
    names = (unicodedata.name(char, "") for char in text if char.isalpha())
    letters = [name.split(" ")[0] for name in names if name]
    found = Counter(SCRIPTS[name] for name in letters if name in SCRIPTS)
    if not found or found.total() * 3 < len(letters):
        return None
    if found["ja"]:  # Japanese is written with Chinese letters as well
        return "ja"
    return found.most_common(1)[0][0]


def _listed(names: list[str]) -> str:
    if len(names) > 8:
        return f"{', '.join(names[:8])} and {len(names) - 8} others"
    return ", ".join(names)
