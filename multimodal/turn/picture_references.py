"""Which of several pictures words refer to, in English and French: patterns only.

By their order (“the second picture”), all of them, or by leaving out what is asked (“And this?”):
such an elliptic question asks of its picture what was asked of the one before.
"""

from __future__ import annotations

from multimodal.turn.intents import excerpt, sentences
from multimodal.turn.vocabulary import any_of

MANY = any_of(
    r"\b(?:both|all(?: of)?(?: the| my| these)?|(?:the|these|my) (?:two|three|four|\d)) "
    r"<PICTURE>s\b|\b(?:les (?:deux|trois|quatre|\d)|toutes les) (?:images|photos)\b",
    r"\b(?:compare|difference between) (?:the|these|my) <PICTURE>s\b",
)
ORDINALS = (
    (0, r"first|1st|premi[èe]re?"),
    (1, r"second|2nd|deuxi[èe]me|seconde"),
    (2, r"third|3rd|troisi[èe]me"),
    (3, r"fourth|4th|quatri[èe]me"),
    (-1, r"last|latest|newest|derni[èe]re?"),
    (-2, r"previous|other|pr[ée]c[ée]dente?|autre"),
)
NUMBERS = ((0, "1|one"), (1, "2|two"), (2, "3|three"), (3, "4|four"), (-2, "pr[ée]c[ée]dente"))
ORDERS = tuple(
    [(i, any_of(rf"\b(?:{word}) (?:\w+ )?(?:<PICTURE>|one)\b")) for i, word in ORDINALS]
    + [(i, any_of(rf"\b<PICTURE> (?:number |#)?(?:{word})\b")) for i, word in NUMBERS]
)
# After what “and” and “now” leave of a sentence; nothing may follow.
ORDER = r"(?:(?:what|how) about |same (?:for|with) |qu'en est-il d[eu] |pareil pour |quid d[eu] )?"
BARE_ORDERS = tuple(
    (index, any_of(rf"{ORDER}(?:the |la |le |l['’])?(?:{word})(?: one| <PICTURE>)?<END>"))
    for index, word in ORDINALS
)
ELLIPTIC = any_of(
    rf"{ORDER}(?:(?:this|that|these|those)(?: (?:new )?(?:ones?|<PICTURE>s?))?|"
    r"the (?:new|next) (?:ones?|<PICTURE>s?)|[çc]a|ceci|cela|cel(?:le|ui)s?-(?:ci|l[àa])|"
    r"ce(?:lles|ux)-(?:ci|l[àa])|ce(?:tte|s)? (?:nouvelles? )?<PICTURE>s?|"
    r"(?:la|le) (?:nouvelle|nouveau|suivante?))(?: (?:here|now|then|too|aussi|maintenant))?<END>",
    r"(?:here|now|l[àa]|ici|maintenant)<END>",
    r"(?:(?:the )?same (?:question|again|thing|here)|ditto|idem|m[êe]me (?:question|chose))<END>",
)

ELLIPTIC_CHARACTERS = 200
"""A longer message says what it asks."""
COMPARING = any_of(
    r"\b(?:than|compar\w+|differ\w*|diff[ée]r\w+|same|alike|similar|both|others?|autres?|m[êe]mes?)\b"
)


def compares(words: str) -> bool:
    """Whether a question about one picture needs others, too."""
    return COMPARING.search(excerpt(words)) is not None and not is_elliptic(words)


def is_elliptic(words: str) -> bool:
    """Whether the words only point, and say nothing of what is asked: “And this one?”"""
    said = _short_sentences(words)
    return bool(said) and all(
        ELLIPTIC.match(sentence) or _bare_order(sentence) is not None for sentence in said
    )


def means_many_pictures(words: str) -> bool:
    return MANY.search(excerpt(words)) is not None


def ordinals_of(words: str) -> tuple[int, ...]:
    """0 for “the first picture”, 1 for “picture 2”, -1 for “And the last?” ...; all there are."""
    shown = excerpt(words)
    named = (index for index, order in ORDERS if order.search(shown))
    bare = (_bare_order(sentence) for sentence in _short_sentences(words))
    return tuple(dict.fromkeys([*named, *(index for index in bare if index is not None)]))


def ordinal_of(words: str) -> int | None:
    return next(iter(ordinals_of(words)), None)


def _short_sentences(words: str) -> list[str]:
    return sentences(words) if len(words) <= ELLIPTIC_CHARACTERS else []


def _bare_order(sentence: str) -> int | None:
    return next((index for index, order in BARE_ORDERS if order.match(sentence)), None)
