"""The program's own voice, heard again through the loudspeaker. Pure functions."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

SHARE = 0.7
"""Of the words that were heard, how many must be the program's own, in their order."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def is_echo(heard: str, spoken: str) -> bool:
    """Whether `heard` is what the program itself says: `spoken`, its words of the last moments.

    A recognizer gets some words of an echo wrong, so most of them are enough.
    """
    words, own = _words(heard), _words(spoken)
    if not words or not own:
        return False
    matched = SequenceMatcher(None, own, words, autojunk=False).get_matching_blocks()
    return sum(block.size for block in matched) >= SHARE * len(words)


def _words(text: str) -> list[str]:
    """Words in small letters; letters of scripts that put no space between words one by one."""
    found: list[str] = []
    for word in _WORD.findall(text.casefold()):
        found += list(word) if _UNSPACED.search(word) else [word]
    return found
