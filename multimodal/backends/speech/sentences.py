"""Sentences of a text, also of one that is still being written.

A full stop ends a sentence where white space and no small letter follows, and where it is not that
of an abbreviation, an initial, or the number of a list; the full stops of Chinese and Japanese end
one wherever they stand. Nothing is cut inside a number or an address, since those hold no white
space. Pure functions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CLOSING = "\"'”’»)]}」』）】〉》*_"
"""What may stand between a full stop and the white space after it."""
_ENGLISH = (
    "mr mrs ms dr prof sr jr st mt rev gen sgt capt lt gov sen rep vs e.g i.e eg ie cf approx dept "
    "eds inc ltd corp ave blvd u.s u.k a.m p.m jan feb apr aug sept oct nov"
)
_FRENCH, _GERMAN = "mme mmes mlle mlles p.ex", "z.b d.h u.a bzw ggf evtl hr fr str"
_ROMANCE = "sra srta dra ud uds sig dott"
ABBREVIATIONS = frozenset(" ".join((_ENGLISH, _FRENCH, _GERMAN, _ROMANCE)).split())
"""Words with a full stop that a sentence goes on behind, in small letters and without it."""
_NUMBERED = "no nos nr p pp fig figs eq eqs vol art chap sec ca mar jun jul"
BEFORE_NUMBERS = frozenset(_NUMBERED.split())
"""Those that it goes on behind where a number follows."""

_END = re.compile(
    rf"(?P<cjk>[。！？｡]+[{re.escape(CLOSING)}]*)"
    rf"|(?P<stop>[.!?…]+)[{re.escape(CLOSING)}]*(?=\s)"
    r"|(?P<line>[ \t]*\n\s*)"
)
_WORD_BEFORE = re.compile(r"([^\W\d_](?:[^\W\d_]|\.(?=[^\W\d_]))*)\.$")
_NUMBER_OF_A_LIST = re.compile(r"(?:^|\n)\s*\d{1,3}\.$")
_HAS_A_WORD = re.compile(r"\w")
_CLAUSE = re.compile(r"(?<=[,;:–—])\s+|(?<=[，、；：])\s*")


@dataclass(frozen=True, slots=True)
class Segmentation:
    """`sentences`: those that are whole. `rest`: what may still go on, if more is written."""

    sentences: tuple[str, ...]
    rest: str


def segment(text: str) -> Segmentation:
    """The sentences of a growing `text`, and what is left of it behind them.

    As the text grows, sentences found before stay as they were: what more may change is left in
    `rest`. Those without a letter or a digit are left out.
    """
    found: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if end["cjk"] is not None and end.end() == len(text):
            continue  # a closing bracket may follow
        if end["stop"] is not None and not _ends_sentence(text, start, end):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    return Segmentation(tuple(filter(_HAS_A_WORD.search, found)), text[start:])


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a `text` that is whole; those without a letter or a digit are left out."""
    found = segment(text)
    last = found.rest.strip()
    return (*found.sentences, last) if _HAS_A_WORD.search(last) else found.sentences


def clauses(sentence: str, most: int) -> list[str]:
    """`sentence` in pieces of at most `most` characters: cut between clauses where it can be, else
    between words, else anywhere."""
    pieces: list[str] = []
    for clause in _CLAUSE.split(sentence):
        if pieces and len(pieces[-1]) + 1 + len(clause) <= most:
            is_unspaced = pieces[-1][-1:] in "，、；："  # words are written without spaces there
            pieces[-1] += clause if is_unspaced else f" {clause}"
        else:
            pieces += _words(clause, most)
    return [piece for piece in pieces if _HAS_A_WORD.search(piece)]


def _words(clause: str, most: int) -> list[str]:
    pieces: list[str] = []
    for word in clause.split():
        if pieces and len(pieces[-1]) + 1 + len(word) <= most:
            pieces[-1] += f" {word}"
        else:
            pieces += [word[at : at + most] for at in range(0, len(word), most)]
    return pieces


def _ends_sentence(text: str, start: int, end: re.Match[str]) -> bool:
    rest = text[end.end() :].lstrip()
    if not rest:
        return False  # what follows decides, and is not written yet
    if end["stop"] != ".":
        return not rest[0].islower()
    before = text[start : end.end("stop")]
    if _NUMBER_OF_A_LIST.search(before) or rest[0].islower():
        return False
    word = _WORD_BEFORE.search(before)
    if word is None:
        return True
    is_initial = len(word[1]) == 1 and word[1].isupper() and word[1] != "I"
    is_numbered = rest[0].isdigit() and word[1].lower() in BEFORE_NUMBERS
    return not (is_initial or is_numbered or word[1].lower() in ABBREVIATIONS)
