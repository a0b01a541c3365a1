"""What a person's words ask for, in English and French: patterns only, no models, no state."""

from __future__ import annotations

import re

from multimodal.messages import Focus


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


DRAW = _any_of(
    r"^\W*(please\s+|can you\s+|could you\s+|peux-tu\s+)?"
    r"(draw|paint|sketch|illustrate|dessine[rsz]?|peins)\b",
    r"\b(make|create|generate|show|give|cr[ée]e|g[ée]n[èe]re|fais)\b[^.?!]{0,30}"
    r"\b(picture|image|drawing|photo|illustration|painting|dessin)\b\s+(of|with|showing|de|d'|avec)",
)
WRITE_DOWN = _any_of(
    r"\b(transcribe|transcript|transcription|write (this |it )?down|subtitles?)\b",
    r"\b(transcri[st]|transcrire|retranscri)",
    r"\bwhat (did|does|do|is) (i|he|she|they|the \w+|this \w+)?\s*(say|said|saying)\b",
)
READ = _any_of(
    r"\bread\b",
    r"\bwhat (does|do|is|are).{0,40}\b(say|says|written|text|words?|sign)\b",
    r"\b(text|words|written|letters|ocr)\b",
    r"\b(lis|lire|texte|[ée]crit)\b",
)
COLOURS = _any_of(r"\bcolou?rs?\b", r"\bcouleurs?\b")
FACES = _any_of(
    r"\bhow many (faces|people|persons)\b",
    r"\b(faces?|anyone|anybody|people) (in|on|there|visible)\b",
    r"\b(is|are) there (a |any )?(faces?|people|person|someone|anyone)\b",
    r"\bcombien de (visages|personnes)\b",
)
DESCRIBE = _any_of(
    r"^\W*what(?:'s|s| is| are| do you see| can you see| does| do)\b[^?]{0,25}"
    r"\b(this|that|these|those|it|here|see|show|picture|image|photo|pic)\b[^?]{0,25}\??\W*$",
    r"^\W*(what|who)(?:'s| is) (this|that|it|in it|here)\b[^?]{0,25}\??\W*$",
    r"^\W*(what|which) (animal|object|thing|breed|kind|sort|food|drink|plant|bird|dog|cat)\b"
    r"[^?]{0,40}\??\W*$",
    r"\b(describe|caption|identify|recogni[sz]e)\b",
    r"\btell me (what|about)\b[^.?]{0,20}\b(see|this|it|picture|image|photo)\b",
    r"\b(d[ée]cris|d[ée]crire|que vois-tu|que voit-on|qu'est-ce que (c'est|tu vois)|c'est quoi)\b",
)
PICTURE_WORD = _any_of(
    r"\b(pictures?|images?|photos?|pics?|photographs?|screenshots?|snapshots?)\b",
)
POINTING = _any_of(
    r"\b(it|its|this|that|these|those|there|he|she|him|her|they|them)\b",
    r"\b(colou?r|background|see|look|looks|shown?|face|wearing|holding|breed)\b",
    r"\b(ça|cela|celui|couleur|fond|vois|il|elle)\b",
)
ORDINALS = {
    "first": 0,
    "1st": 0,
    "second": 1,
    "2nd": 1,
    "third": 2,
    "3rd": 2,
    "premi[èe]re": 0,
    "deuxi[èe]me": 1,
    "troisi[èe]me": 2,
}


def focus_of(words: str) -> Focus | None:
    """What the findings about a picture must answer; None if they alone cannot answer `words`."""
    if not words:
        return "general"
    if FACES.search(words):
        return "faces"
    if COLOURS.search(words):
        return "colours"
    if READ.search(words):
        return "text"
    return "general" if DESCRIBE.search(words) else None


def wants_drawing(words: str) -> bool:
    return DRAW.search(words) is not None


def wants_transcript(words: str) -> bool:
    return WRITE_DOWN.search(words) is not None


def names_a_picture(words: str) -> bool:
    return PICTURE_WORD.search(words) is not None


def points_at_something(words: str) -> bool:
    return POINTING.search(words) is not None


def ordinal_of(words: str) -> int | None:
    """0 for “the first”, 1 for “the second” ...; None where no order is named."""
    for ordinal, index in ORDINALS.items():
        if re.search(rf"\b{ordinal}\b", words, re.IGNORECASE):
            return index
    return None
