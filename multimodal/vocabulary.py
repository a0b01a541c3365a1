"""Words that several patterns look for, and how a pattern names them.

No two ways through a repeated group may match the same words: as many times as such a word is
written, Python's `re` would try both.
"""

from __future__ import annotations

import re

# Vocabulary that patterns name as <PICTURE>, <END> ...; an entry may use those below it.
WORDS = {
    "SCENE": r"(?:\s+(?:are|is|can|do|does|you|we|i|see|seen|be|count|there|here|visible|shown|in|"
    r"on|this|that|the|it|appear|of|these|background|foreground|total|<PICTURE>s?|vois-tu|voit-on|"
    r"y|a-t-il|il|a|sur|dans|cette|l|le|tu|vois|voit|visibles|l[àa]))*<END>",
    "SHOWN": r"(?:<THIS>|shown|visible|seen|there|(?:in|on) (?:it|there|the|this|that|my)\b.*|"
    r"(?:the|this|that|these|those|my) [\w ]{0,20}<PICTURE>s?)",
    "THIS": r"(?:this|that|these|those|it|here|he|she|they)",
    "BEING": r"(?:person|man|woman|guy|animal|plant|bird|dog|cat)",
    "ME": r"(?: me| us)?",
    "SOMEONE": r"(?:faces?|people|persons?|humans?|someone|somebody|anyone|anybody)",
    "DRAWABLE": r"(?:picture|image|drawing|photo|photograph|illustration|painting|sketch|portrait|"
    r"logo|icon|poster|wallpaper|avatar|dessin|tableau|ic[ôo]ne|affiche)",
    "PICTURE": r"(?:picture|image|photo|pic|photograph|screenshot|snapshot|drawing|capture|dessin)",
    # Questions that need thought, not findings.
    "NO_TASTE": r"(?!.*\b(?:would|should|could|match|best|go(?:es)?\b|wear|mix|paint|stands? for|"
    r"mean|symboli[sz]e|blind|theory|wavelength|you get|favou?rite|irait|signifie|pr[ée]f[ée]r))",
    "NO_USE": r"(?!.*\b(?:used?|for|made?|means?|costs?|worth|good|eat|doing|history|next|wrong|"
    r"happen\w*|difference|common|about to|feel\w*|think\w*|weighs?|dangerous|from)\b)",
    "NO_CROWD": r"(?!(?:people|they|you|we|i|experts?|scientists?|critics|the (?:bible|law))\b)",
    "END": r"\W*$",
}


def any_of(*patterns: str) -> re.Pattern[str]:
    pattern = "|".join(f"(?:{pattern})" for pattern in patterns)
    for name, words in WORDS.items():
        pattern = pattern.replace(f"<{name}>", words)
    return re.compile(pattern, re.IGNORECASE)
