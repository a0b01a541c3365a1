"""Which class a prompt asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = re.compile(r"\w+")


def find_class(prompt: str, labels: Sequence[str]) -> int | None:
    """The number of the class whose name stands in `prompt`, in the singular or plural, whatever
    the case; of several, the one with the longest name. None where there is none."""
    asked = _words(prompt)
    found = [
        at for at, label in enumerate(labels) if (name := _words(label)) and _contains(asked, name)
    ]
    return max(found, key=lambda at: len(labels[at]), default=None)


def _words(text: str) -> list[str]:
    return [_singular(word) for word in _WORDS.findall(text.replace("_", " ").lower())]


def _singular(word: str) -> str:
    """Roughly: “cats” and “sixes” as “cat” and “six”."""
    if len(word) > 3 and word.endswith(("xes", "shes", "ches", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word


def _contains(words: Sequence[str], name: Sequence[str]) -> bool:
    size = len(name)
    return any(list(words[at : at + size]) == list(name) for at in range(len(words) - size + 1))
