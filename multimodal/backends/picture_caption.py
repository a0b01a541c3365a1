"""Findings about a picture put into plain English sentences, the same for the same findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multimodal.backends.picture_findings import Text
from multimodal.backends.picture_labels import LIKELY, SURE, Labels
from multimodal.messages import Focus

TEXT_LEADS_SHARE = 0.06
TEXT_LEADS_CHARACTERS = 16
QUOTED_CHARACTERS = 300
DESCRIBED_CHARACTERS = 800
WITHOUT_ARTICLE = {
    "binoculars", "broccoli", "corn", "footwear", "guacamole", "hay", "mashed potato", "red wine",
    "parallel bars", "sunglasses", "swimming trunks", "thatch", "toilet tissue", "wool",
}  # fmt: skip
SOUNDS_LIKE_CONSONANT = ("eu", "uni")
SOUNDS_LIKE_VOWEL = ("hour",)
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class Findings:
    labels: Labels
    text: Text
    faces: int
    colours: tuple[str, ...]
    colourless: bool = False
    size: tuple[int, int] = (0, 0)
    reduced_from: tuple[int, int] | None = None
    """Width and height as it was looked at, and as it was sent where that is more."""


def answer(found: Findings, focus: Focus) -> str:
    """The reply to a question about the picture that the findings alone can answer."""
    if focus == "text":
        told = (_all_text(found.text), _left_out(found.text), _made_smaller(found))
        return "\n\n".join(filter(None, told))
    if focus == "colours":
        verb = "colour is" if len(found.colours) == 1 else "colours are"
        return f"The main {verb} {_listed(found.colours)}."
    if focus == "faces":
        return _faces(found.faces) or "I can find no face seen from the front in this picture."
    return caption(found)


def caption(found: Findings) -> str:
    """What the picture shows, its text, faces and colours, the most telling first."""
    shown, text = _shown(found), _quoted(found.text)
    led_by_text = _is_about_text(found.text)
    sentences = [text, shown if _is_sure(found) else ""]
    if not led_by_text:
        sentences = [shown, text]
    sentences += [_left_out(found.text), _faces(found.faces), _colours(found.colours)]
    sentences.append(_made_smaller(found) if found.text.lines else "")
    return " ".join(filter(None, sentences))


def description(found: Findings) -> str:
    """All findings, short, as context for a text model."""
    parts = [_shown(found)] if not _is_about_text(found.text) else ["It is mostly text."]
    if found.text.lines:
        parts.append(f"Text in it: “{_cut(' / '.join(found.text.lines), DESCRIBED_CHARACTERS)}”.")
    parts += [_left_out(found.text), _faces(found.faces) or "No faces.", _colours(found.colours)]
    if found.text.lines and (told := _made_smaller(found)):
        parts.append(told)
    return " ".join(filter(None, parts))


def _is_about_text(text: Text) -> bool:
    return text.characters >= TEXT_LEADS_CHARACTERS and text.share >= TEXT_LEADS_SHARE


def _shown(found: Findings) -> str:
    best, closer = found.labels.best, found.labels.closer
    share = "" if found.colourless else f" ({min(99, round(100 * best.probability))} %)"
    if found.labels.certainty >= LIKELY:
        verb = "This looks like" if _is_sure(found) else "This may be"
        more = f", most likely {_a(closer.word)}" if closer and closer.word != best.word else ""
        return f"{verb} {_a(best.word)}{more}{share}."
    if found.faces:
        return "This shows people." if found.faces > 1 else "This shows a person."
    guesses = " or ".join(_a(name.word) for name in found.labels.others[:2])
    return f"I am not sure what this shows; it might be {guesses}."


def _is_sure(found: Findings) -> bool:
    """Never of a picture without colour: the network learned from colour photographs, and takes
    the moon for a worm and the outline of a horse for a hound."""
    return found.labels.certainty >= SURE and not found.colourless


def _quoted(text: Text) -> str:
    if not text.lines:
        return ""
    return f"The picture contains text: “{_cut(' / '.join(text.lines), QUOTED_CHARACTERS)}”."


def _all_text(text: Text) -> str:
    if not text.lines:
        return "I can find no text in this picture that I could read."
    lines = "\n".join(text.lines)
    return f"The picture says:\n\n{lines}"


def _left_out(text: Text) -> str:
    if text.is_whole:
        return ""
    return "There is more text in it than is read of one picture; the end was left out."


def _made_smaller(found: Findings) -> str:
    if found.reduced_from is None:
        return ""
    sent, seen = (f"{width}x{height}" for width, height in (found.reduced_from, found.size))
    change = f"was made smaller, from {sent} to {seen} pixels"
    return f"The picture {change}; small print may be misread."


def _faces(count: int) -> str:
    if count == 0:
        return ""
    number = COUNTS[count] if count < len(COUNTS) else str(count)
    return f"I can see {number} face{'s' if count > 1 else ''}."


def _colours(names: Sequence[str]) -> str:
    return f"Main colour{'s' if len(names) > 1 else ''}: {_listed(names)}."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _a(word: str) -> str:
    """The word with its article, by sound."""
    if word in WITHOUT_ARTICLE:
        return word
    start = word.lower()
    vowel = start[0] in "aeiou" and not start.startswith(SOUNDS_LIKE_CONSONANT)
    return f"{'an' if vowel or start.startswith(SOUNDS_LIKE_VOWEL) else 'a'} {word}"


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters].rsplit(' ', 1)[0]} …"
