"""How many words are heard wrong: substitutions, deletions and insertions over the words that are
said, counted by jiwer in the alignment with the fewest.

Texts are compared as Whisper's authors do for every language (Radford et al. 2022, appendix C, as
transformers has it): small letters, without punctuation and without what stands in brackets. In
languages that put no spaces between words, characters are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from multimodal.studio.evaluation import intervals
from multimodal.studio.records import Interval

UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "km", "bo", "yue"})
"""Languages (ISO 639) whose characters are counted."""


@dataclass(frozen=True, slots=True)
class WordErrors:
    """`errors` in one recording of `words` words."""

    errors: int
    words: int


def count_word_errors(
    expected: Sequence[str], heard: Sequence[str], language: str | None = None
) -> list[WordErrors]:
    """Of each recording. One whose text has no word once it is normalized has 0 words and is not
    counted."""
    normalize = BasicTextNormalizer(split_letters=language in UNSPACED)
    found: list[WordErrors] = []
    for text, other in zip(expected, heard, strict=True):
        wanted, got = normalize(text).strip(), normalize(other).strip()
        if not wanted:
            found.append(WordErrors(0, 0))
            continue
        made = jiwer.process_words(wanted, got)
        errors = made.substitutions + made.deletions + made.insertions
        found.append(WordErrors(errors, len(wanted.split())))
    return found


def word_error_rate(found: Sequence[WordErrors]) -> float:
    """Of all words together, which may be above 1; NaN without any."""
    words = sum(one.words for one in found)
    return sum(one.errors for one in found) / words if words else math.nan


def word_error_interval(found: Sequence[WordErrors]) -> Interval | None:
    """By recordings; None of fewer than `intervals.MIN_SAMPLES`."""
    counted = [one for one in found if one.words]
    made = intervals.ratio_interval([x.errors for x in counted], [x.words for x in counted])
    return None if made is None else Interval(made.value, max(0.0, made.low), made.high)


def word_error_change(before: Sequence[WordErrors], after: Sequence[WordErrors]) -> Interval | None:
    """After minus before, paired by recording; None as in `word_error_interval`. Raises ValueError
    where the two are not of the same recordings."""
    if [x.words for x in before] != [x.words for x in after]:
        raise ValueError("before and after are not of the same recordings")
    pairs = [(x, y) for x, y in zip(before, after, strict=True) if x.words]
    return intervals.ratio_interval(
        [y.errors - x.errors for x, y in pairs], [x.words for x, _ in pairs]
    )
