"""What a person's words ask for, by the patterns of `languages/`: no models, no state.

Patterns for a whole sentence are matched from its beginning, after greetings and politeness are
taken off. They are narrow on purpose: words that no pattern knows go to the text model, which
reads the description of every picture and so still knows what is meant.

Some patterns take time that grows with the square of what they read, and Python's `re` lets no
other thread run meanwhile. So every question here is answered from the `excerpt` of a message.
"""

from __future__ import annotations

import re

from multimodal.messages import Focus
from multimodal.turn.vocabulary import compile_any

LEAD = compile_any("lead")
DRAW = compile_any("draw")
WRITE_DOWN = compile_any("write_down")
IN_PICTURE = compile_any("in_picture")
PUT_INTO_WORDS = compile_any("put_into_words")
COMPOSE = compile_any("compose")
THEN_COMPOSE = compile_any("then_compose")
FOCUSES: tuple[Focus, ...] = ("faces", "objects", "colours", "text", "general")
FINDINGS = tuple((focus, compile_any(focus)) for focus in FOCUSES)
PICTURE_NAMED = compile_any("picture_named")
POINTING = compile_any("pointing")
NOT_POINTING = compile_any("not_pointing")
ASKING = compile_any("asking")
NAME_BEFORE = compile_any("name_before")
QUESTION = re.compile(r".*\?\W*$")
POINTING_WORDS = 14
"""In a longer sentence “it” most likely stands for something the sentence itself names."""
FRAGMENT_WORDS = 3
PUNCTUATION = " \t,.;:!?¿¡…-–—«»“”\"'()"
"""What a sentence may begin with before its first word."""
EXCERPT_CHARACTERS = 1000
"""Of a message, in which what it asks is looked for; half at its beginning, half at its end."""


def focus_of(words: str) -> Focus | None:
    """What the findings about a picture must answer; None if they alone cannot answer `words`."""
    if not words.strip():
        return "general"
    asked: set[Focus] = set()
    for sentence in sentences(excerpt(words)):
        focus = _focus(sentence)
        if focus is None and _asks(sentence):
            return None
        if focus is not None:
            asked.add(focus)
    if len(asked) > 1:
        return "general"
    return asked.pop() if asked else None


def wants_drawing(words: str) -> bool:
    return any(DRAW.match(sentence) for sentence in sentences(excerpt(words)))


def wants_transcript(words: str) -> bool:
    """Whether the words heard are themselves the answer, not what a model makes of them."""
    words = excerpt(words)
    if THEN_COMPOSE.search(words) or not WRITE_DOWN.search(words):
        return False
    return all(WRITE_DOWN.match(s) or not COMPOSE.match(s) for s in sentences(words))


def wants_text_of_picture(words: str) -> bool:
    """Whether it is the text in a picture that is to be written down, not what was said."""
    return focus_of(words) == "text" and IN_PICTURE.search(excerpt(words)) is not None


def names_a_picture(words: str) -> bool:
    return PICTURE_NAMED.search(excerpt(words)) is not None


def points_at_something(words: str) -> bool:
    """Whether a sentence asks about something it does not name: “What colour is it?”"""
    return any(map(_points, sentences(excerpt(words))))


def excerpt(words: str) -> str:
    """The beginning and the end of a longer message, with an ellipsis between them: what is asked
    stands before or after the letter, the log or the poem that is asked about."""
    words = words.strip()
    if len(words) <= EXCERPT_CHARACTERS:
        return words
    half = EXCERPT_CHARACTERS // 2
    head, tail = words[:half], words[-half:]
    # A word that was cut in two is left out, unless there is no other.
    opening, ending = re.match(r".*\s", head, re.DOTALL), re.search(r"\s.*", tail, re.DOTALL)
    head = opening[0] if opening else head
    tail = ending[0] if ending else tail
    return f"{head}…{tail}"


def sentences(words: str) -> list[str]:
    """All sentences, without the greetings and politeness they begin with."""
    bare = (_bare(sentence) for sentence in re.split(r"(?<=[.?!…])\s+|\n+", words))
    return [sentence for sentence in bare if sentence]


def _bare(sentence: str) -> str:
    """Each greeting is looked at once, where it stands: a copy of the rest for every one of many
    would take time by the square of them."""
    end, start = len(sentence.rstrip(" ?!.")), 0
    while True:
        while start < len(sentence) and sentence[start] in PUNCTUATION:
            start += 1
        lead = LEAD.match(sentence, start)
        if lead is None or lead.end() == end:
            return sentence[start:]
        start = lead.end()


def _composes(sentence: str) -> bool:
    return bool(COMPOSE.match(sentence) or THEN_COMPOSE.search(sentence))


def _focus(sentence: str) -> Focus | None:
    if PUT_INTO_WORDS.match(sentence):
        return "general"
    if _composes(sentence):
        return None
    return next((focus for focus, asked in FINDINGS if asked.match(sentence)), None)


def _asks(sentence: str) -> bool:
    return (ASKING.match(sentence) or QUESTION.match(sentence)) is not None


def _points(sentence: str) -> bool:
    if NOT_POINTING.search(sentence):
        return False
    focus, length = _focus(sentence), len(re.findall(r"\w[\w'’-]*", sentence))
    if focus is not None and (focus != "general" or length <= FRAGMENT_WORDS):
        return True
    return (
        length <= POINTING_WORDS
        and _asks(sentence)
        and POINTING.search(sentence) is not None
        and NAME_BEFORE.search(sentence) is None
    )
