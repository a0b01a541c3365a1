"""What to draw, in the person's own words: patterns only, no models, no state."""

from __future__ import annotations

import re

from multimodal.turn.intents import DRAW, sentences
from multimodal.turn.vocabulary import any_of

# Anchored at the beginning of a sentence that asks for a drawing; what they match is no prompt.
ME = r"(?: me| us|[- ](?:moi|nous))?"
PLAIN = r"(?:picture|image|drawing|dessin)"
ASKED = any_of(
    rf"(?:draw|illustrate|dessine[rsz]?|peins|peindre|illustre[rz]?){ME}\b\s*",
    r"(?:make|create|generate|show|give|design|produce|render|i want|i need|i(?:'d| would) (?:like|"
    rf"love)){ME} (?:an?|another|some) {PLAIN}s? (?:of|showing|that shows|depicting|with|for)\b\s*",
    r"(?:make|create|generate|show|give|design|produce|render|i want|i need|i(?:'d| would) (?:like|"
    rf"love)){ME}\s+(?=(?:an?|another|some)\b)",
    r"(?:cr[ée]e[rz]?|g[ée]n[èeé]re[rz]?|fais|faire|montre|donne|je (?:veux|voudrais)|j'aimerais)"
    rf"{ME},? (?:une?|des) {PLAIN}s? (?:de |d['’]|du |avec |qui |pour )\s*",
    rf"(?:cr[ée]e[rz]?|g[ée]n[èeé]re[rz]?|fais|faire|montre|donne|je (?:veux|voudrais)|j'aimerais)"
    rf"{ME},?\s+(?=(?:une?|des)\b)",
)
# Verbs that say in which way it is to be drawn.
MANNERS = (
    (any_of(rf"paint{ME}\b\s*(?=\w)"), "a painting of "),
    (any_of(rf"sketch{ME}\b\s*(?=\w)"), "a sketch of "),
    (any_of(rf"doodle{ME}\b\s*(?=\w)"), "a doodle of "),
)
THING = (
    r"(?:(?:this|that|these) [\w-]+|(?:the|my) (?:picture|image|photo|drawing|painting|sketch)|"
    r"this|it|that|these|them|him|her|me|us|[çc]a|cela|-?l[ae]s?|(?:cette|cet|ce|ces) \w+|"
    r"(?:la|l['’]|le|ma|mon) ?(?:photo|image|dessin|peinture))"
)
STYLE = (
    r"(?:(?:an?|the|une?|la|le) )?(?:[\w-]+ ){0,4}?(?:watercolou?rs?|painting|drawing|sketch|"
    r"cartoon|comic|manga|anime|illustration|picture|image|photo\w*|poster|portrait|pixel art|"
    r"lego|mosaic|sculpture|statue|engraving|woodcut|tattoo|sticker|icon|style|render(?:ing)?|"
    r"graffiti|silhouette|aquarelle|peinture|dessin|bande dessin[ée]e|croquis|gravure)\b"
)
REDRAW = tuple(
    re.compile(pattern, re.I | re.S)
    for pattern in (
        rf"(?:re)?(?:draw|paint|sketch) {THING}(?: again)? (?:as|like|into) (?P<wish>.+)",
        (
            rf"(?:re)?(?:draw|paint|sketch) {THING}(?: again)? "
            r"(?P<wish>(?:in|with|without|at|by|on) .+)"
        ),
        (
            rf"(?:turn|transform|convert|change|make) {THING} "
            rf"(?:in)?to (?:look like )?(?P<wish>{STYLE}.*)"
        ),
        rf"make (?!me |us ){THING} (?:look like |look as |(?=an? |the ))(?P<wish>{STYLE}.*)",
        (
            rf"(?:make|create|generate|give me) (?P<wish>{STYLE})(?: version)? "
            rf"(?:of|from|out of) {THING}\W*$"
        ),
        (
            rf"(?:re)?(?:dessine|peins|transforme|change)[- ]?{THING} "
            rf"(?:comme|en|dans) (?P<wish>{STYLE}.*)"
        ),
    )
)


def prompt_of(words: str) -> str:
    """The thing to draw: “a cat in the snow” of “Please draw me a cat in the snow.”"""
    said = sentences(words)
    first = next((i for i, sentence in enumerate(said) if DRAW.match(sentence)), 0)
    prompt = " ".join(filter(None, map(_thing, said[first:])))
    return prompt.rstrip(" .!?") or words.strip()


def redraw_wish(words: str) -> str | None:
    """What a picture that is there shall become, “a watercolour” of “Draw this as a watercolour”;
    None for words that do not ask to draw a picture anew."""
    for sentence in sentences(words):
        for pattern in REDRAW:
            if (found := pattern.match(sentence)) is not None:
                return found["wish"].rstrip(" .!?")
    return None


def _thing(sentence: str) -> str:
    """The sentence without the words that only ask."""
    if DRAW.match(sentence) is not None:
        for manner, lead in MANNERS:
            if (found := manner.match(sentence)) is not None:
                return lead + sentence[found.end() :].strip()
        if (asked := ASKED.match(sentence)) is not None:
            return sentence[asked.end() :].strip(" ?")
    return sentence.strip()
