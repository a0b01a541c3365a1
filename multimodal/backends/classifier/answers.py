"""What a picture shows, in a sentence, from the probabilities of its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from multimodal.backends.articles import with_article

Candidate = tuple[str, float]
"""The name of a class, and how likely it is (0 to 1)."""

LEAST = 0.01
"""Candidates that are less likely are not named."""
SINGULAR = re.compile(r"[a-z][a-z' -]*")
PLURAL = re.compile(r".*[^sui]s")
"""Roughly: “cats”, but not “glass”, “bus” or “iris”."""


def candidates(probabilities: Sequence[float], names: Mapping[int, str]) -> list[Candidate]:
    """All classes, the likeliest first; of equal ones in their order."""
    order = sorted(range(len(probabilities)), key=lambda at: -probabilities[at])
    return [(names[at], probabilities[at]) for at in order]


def sentence(found: Sequence[Candidate], threshold: float, most: int) -> str:
    """“A seven (97 %); otherwise a one (2 %).”, or that it is not sure where the likeliest class is
    below `threshold`; `most` classes are named. `found` is in the order of `candidates`."""
    first, *others = [(noun(name), percent(share)) for name, share in _named(found, most)]
    if found[0][1] < threshold:
        guesses = " or ".join(f"{thing} ({share})" for thing, share in (first, *others))
        return f"I am not sure: perhaps {guesses}."
    told = f"{first[0][:1].upper()}{first[0][1:]} ({first[1]})"
    rest = " or ".join(f"{thing} ({share})" for thing, share in others)
    return f"{told}; otherwise {rest}." if rest else f"{told}."


def _named(found: Sequence[Candidate], most: int) -> list[Candidate]:
    return [found[0], *(one for one in found[1:most] if one[1] >= LEAST)]


def noun(name: str) -> str:
    """A class as it is said: the first of several names, with an article where it is one thing and
    no proper name. “golden_retriever” is “a golden retriever”; “7”, “Paris” and “cats” stay."""
    words = name.partition(",")[0].replace("_", " ").strip() or name
    if SINGULAR.fullmatch(words) and not PLURAL.fullmatch(words):
        return with_article(words)
    return words


def percent(share: float) -> str:
    """Whole, and never 100 % of what is not certain."""
    if 0.995 <= share < 1:
        return "over 99 %"
    return f"{share:.0%}".replace("%", " %")
