"""What to draw, in the person's own words, by the patterns of `languages/`: no models, no state."""

from __future__ import annotations

from multimodal.turn.intents import DRAW, sentences
from multimodal.turn.vocabulary import compile_any, compile_drawing_styles, compile_each

# Matched at the beginning of a sentence that asks for a drawing.
ASKED = compile_any("drawing_request")
MANNERS = compile_drawing_styles()
REDRAW = compile_each("redraw")


def prompt_of(words: str) -> str:
    """The thing to draw: “a cat in the snow” of “Please draw me a cat in the snow.”"""
    said = sentences(words)
    first = next((i for i, sentence in enumerate(said) if DRAW.match(sentence)), 0)
    prompt = " ".join(filter(None, map(_subject, said[first:])))
    return prompt.rstrip(" .!?") or words.strip()


def redraw_wish(words: str) -> str | None:
    """What a picture that is there shall become, “a watercolour” of “Draw this as a watercolour”;
    None for words that do not ask to draw a picture anew."""
    for sentence in sentences(words):
        for pattern in REDRAW:
            if (found := pattern.match(sentence)) is not None:
                return found["wish"].rstrip(" .!?")
    return None


def _subject(sentence: str) -> str:
    """The sentence without the words that only ask."""
    if DRAW.match(sentence) is not None:
        for manner, lead in MANNERS:
            if (found := manner.match(sentence)) is not None:
                return lead + sentence[found.end() :].strip()
        if (asked := ASKED.match(sentence)) is not None:
            return sentence[asked.end() :].strip(" ?")
    return sentence.strip()
