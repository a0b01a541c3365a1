"""Articles, numbers and lists in English."""

from __future__ import annotations

from collections.abc import Sequence

WITHOUT_ARTICLE = {
    "binoculars", "broccoli", "corn", "footwear", "guacamole", "hay", "mashed potato", "red wine",
    "parallel bars", "sports equipment", "game equipment", "furniture", "food", "sunglasses",
    "swimming trunks", "thatch", "toilet tissue", "wool",
}  # fmt: skip
SOUNDS_LIKE_CONSONANT = ("eu", "uni")
SOUNDS_LIKE_VOWEL = ("hour",)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MOST_COUNTED = 8
"""Of more objects the detector misses too many for a number to mean much."""


def with_article(word: str) -> str:
    """The word with its article, by sound."""
    if word in WITHOUT_ARTICLE:
        return word
    start = word.lower()
    vowel = start[0] in "aeiou" and not start.startswith(SOUNDS_LIKE_CONSONANT)
    return f"{'an' if vowel or start.startswith(SOUNDS_LIKE_VOWEL) else 'a'} {word}"


def spell_number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def pluralize(count: int, singular: str, plural: str) -> str:
    """“a dog”, “two dogs”, “many dogs”."""
    if count == 1:
        return with_article(singular)
    return f"{spell_number(count) if count <= MOST_COUNTED else 'many'} {plural}"


def join_list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def capitalized(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
