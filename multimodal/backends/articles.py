"""English words for things, with their articles."""

from __future__ import annotations

WITHOUT_ARTICLE = {
    "binoculars", "broccoli", "corn", "footwear", "guacamole", "hay", "mashed potato", "red wine",
    "parallel bars", "sports equipment", "game equipment", "furniture", "food", "sunglasses",
    "swimming trunks", "thatch", "toilet tissue", "wool",
}  # fmt: skip
SOUNDS_LIKE_CONSONANT = ("eu", "one", "uni")
SOUNDS_LIKE_VOWEL = ("hour",)


def with_article(word: str) -> str:
    """The word with its article, by sound."""
    if word in WITHOUT_ARTICLE:
        return word
    start = word.lower()
    vowel = start[0] in "aeiou" and not start.startswith(SOUNDS_LIKE_CONSONANT)
    return f"{'an' if vowel or start.startswith(SOUNDS_LIKE_VOWEL) else 'a'} {word}"
