"""What a person's words ask for, in English and French: patterns only, no models, no state.

Patterns for a whole sentence are matched from its beginning, after greetings and politeness are
taken off. They are narrow on purpose: words that no pattern knows go to the text model, which
reads the description of every picture and so still knows what is meant.

Some patterns take time that grows with the square of what they read, and Python's `re` lets no
other thread run meanwhile. So every question here is answered from the `excerpt` of a message.
"""

from __future__ import annotations

import re

from multimodal.messages import Focus
from multimodal.turn.vocabulary import any_of

LEAD = any_of(
    r"(?:hi|hello|hey|dear|please|ok|okay|so|and|but|now|well|also|then|oh|wow|cool|great|thanks|"
    r"thank you|bonjour|salut|et|mais|alors|maintenant|s'il (?:te|vous) pla[îi]t|stp|svp|merci)\b"
    r"(?: there)?",
    r"(?:can|could|would|will) you (?:please |also |maybe )?(?=(?!see\b)\w)",
    r"(?:i want you to|i(?:'d| would) like you to|i need you to|try to|just)\b",
    r"(?:i want to know|do you know|tell me|let me know|show me)(?= (?:what|who|which|how)\b)",
    r"(?:(?:est-ce que )?tu (?:peux|pourrais)|(?:peux|pourrais)-tu|(?:pouvez|pourriez)-vous|"
    r"je veux que tu|j'aimerais que tu)\b(?: me| nous)?|(?:dis|dites)-moi\b",
)
DRAW = any_of(
    r"(?:draw|paint|sketch|doodle)\b(?!\s*(?:up|out|from|on|attention|conclusions?|inspiration)\b|"
    r"[^.?!]{0,25}\b(?:conclusion|comparison|parallel|distinction|lesson|inference|line between))",
    r"illustrate (?:an?|this|my) (?:story|scene|tale|poem|children)",
    r"(?:make|create|generate|show|give|design|produce|render|i want|i need|i(?:'d| would) (?:like|"
    r"love))<ME> (?:an?|another|some) (?:(?!of\b|for\b)[\w-]+,?\s+){0,3}<DRAWABLE>s? "
    r"(?:of|with|showing|that shows|for|where|depicting)\b",
    r"dessine[rsz]?\b|peins\b|peindre\b|illustre[rz]? une? (?:histoire|sc[èe]ne|conte)",
    r"(?:cr[ée]e[rz]?|g[ée]n[èeé]re[rz]?|fais|faire|montre|donne|je (?:veux|voudrais)|j'aimerais)"
    r"(?:[ -][mn]o[iu]s?)?,? (?:une?|des) (?:\w+ ){0,3}<DRAWABLE>s? ?(?:de|d'|du|avec|qui|pour)",
)
WRITE_DOWN = any_of(
    r"\b(?:transcribe|transcript|transcription|(?:write|type) (?:this |it |that )?(?:down|up|out)|"
    r"subtitles?|dictation|transcri(?:s|t|re)|retranscri\w*|sous-titres?|par [ée]crit)\b",
    r"\b(?:note[rz]?|[ée]cris|[ée]crire) ce (?:que|qui|qu')",
    r"\bwhat (?:did|does|do|is|am|are|was) (?:i|he|she|they|we|you hear|it|someone|"
    r"(?:the|this|that) \w+)?\s*(?:say|said|saying|being said)\b",
    r"\bwhat(?: is|'s| was| were) (?:being )?(?:said|spoken)\b",
    r"\bqu'est-ce (?:qu'(?:il|elle|on)s?|que je|que j'ai|qui est) (?:dit|dis|disent)\b",
    r"\bque (?:dit|dis)-(?:il|elle|on|je)\b",
)
IN_PICTURE = any_of(
    r"\b(?:text|words?|writing|letters|sign|label|page|poster|<PICTURE>|texte|mots|panneau|[ée]crit)\b"
)
# The picture itself, put into words: its findings answer that, though “explain” asks for thought.
PUT_INTO_WORDS = any_of(
    r"(?:explain|interpret|analy[sz]e|summari[sz]e|comment on|expli(?:que[rz]?)|analyse[rz]?|"
    r"commente[rz]?|r[ée]sume[rz]?|interpr[èée]te[rz]?)(?: to me|[ -]moi)? "
    r"(?:this|(?:this|that|the|my|these|cette|ce|la|ma|mon|le)? ?(?:l['’])?<PICTURE>s?)"
    r"(?: (?:to|for) (?:me|us))?<END>",
)
# What must be thought about is for the text model, even where a picture's text is the matter.
COMPOSE = any_of(
    r"(?:write(?! (?:down|out|up)\b)|compose|translate|summari[sz]e|explain|imagine|invent|suggest|"
    r"rewrite|paraphrase|make|turn|compare|correct|fix|solve|calculate|convert|explique|[ée]cris|"
    r"traduis|r[ée]sume|invente|corrige|raconte|why|pourquoi|if|should|would|could)\b",
    r"tell me (?:an?|the|some) (?:\w+ )?(?:story|joke|poem|fact)",
)
THEN_COMPOSE = any_of(
    r"\b(?:and|then|et|puis) (?:then )?(?:translate|summari[sz]e|explain|rewrite|correct|answer|"
    r"solve|write|tell me (?:why|how)|traduis|r[ée]sume|explique|[ée]cris|r[ée]ponds)\b",
    r"\b(?:in|into|to|en) (?:french|german|spanish|italian|chinese|english|anglais|fran[çc]ais)\b",
)
FACES = any_of(
    r"(?:count|how many) (?:the )?(?:different )?(?:faces|heads)\b<SCENE>",
    r"(?:is|are|do you see|can you see) (?:there )?(?:an? |any |some )?faces?<SCENE>",
    r"(?:any |who are the )?faces?<SCENE>",
    r"(?:combien )?(?:de|y a-t-il des?|il y a des?|vois-tu des?) (?:visages|t[êe]tes)\b<SCENE>",
)
# How many, whether, where, and what is on one side of the picture.
OBJECTS = any_of(
    r"(?:count|how many)(?: of)?(?: the)?(?: different)? <OBJECT><SCENE>",
    r"(?:is|are|do you see|can you see) (?:there |this |that |it |these |those )?"
    r"(?:an? |any |some |the |another )?<OBJECT><SCENE>",
    r"(?:any|who are the) <OBJECT><SCENE>|<SOMEONE><SCENE>",
    r"where(?:'s|s| is| are) (?:the |an? |any )?<OBJECT><SCENE>",
    r"what(?:'s|s| is| are| do you see| can you see) (?:on|in|at) the <SIDE>(?: side)?<SCENE>",
    r"(?:what|which|list|name|count|how many)(?: all)?(?: the| other)? (?:objects|things)\b<SCENE>",
    r"combien (?:de |d'|y a-t-il (?:de |d')|il y a (?:de |d')|vois-tu (?:de |d'))<OBJECT><SCENE>",
    r"(?:est-ce qu')?(?:il y a|y a-t-il|vois-tu)(?: une?| des| du| le| la)? ?<OBJECT><SCENE>",
    r"o[ùu] (?:est|sont|se trouve(?:nt)?) (?:l[ea]s? |l')<OBJECT><SCENE>",
    r"qu(?:'y a-t-il|'est-ce qu'il y a|e vois-tu) (?:à|au|sur la|en|dans le) <SIDE><SCENE>",
)
COLOURS = any_of(
    r"<NO_TASTE>(?:what|which|of what|in what)(?: main| other| different)? colou?rs?\b",
    r"<NO_TASTE>what(?:'s|s| is| are| was| about| were) (?:the |its |his |her |their )?"
    r"(?:main |dominant |other )?colou?rs?\b",
    r"(?:name|list|tell|describe|show|which are)<ME>(?: all)? (?:the |its )(?:main )?colou?rs?\b",
    r"(?:the |any )?colou?rs?<END>",
    r"<NO_TASTE>(?:de |quelles? sont (?:les|ses) |d[ée]cris les )?(?:quelles? )?couleurs?\b",
)
READ = any_of(
    r"(?:read|ocr|extract|copy)(?: (?:to|for) me| me| out)?(?: aloud)?"
    r"(?:,? (?:it|this|that|these|the|what|everything|all|any|its|text)\b[^?]*)?<END>",
    r"(?:transcribe|(?:re)?transcri(?:s|t|re|vez)|(?:write|type) (?:down|out|up)|recopie[rz]?)"
    r"(?:,? (?:this|that|it|the|all|everything|what|l[ea]s?|ce|cet|cette|[çc]a|tout)\b[^?]*)?<END>",
    r"what (?:does|do|did) <NO_CROWD>[^?]{0,40}\bsays?\b(?! about| to)",
    r"what[^?]{0,35}\b(?:written|printed)\b(?! by)",
    r"what(?:'s|s| is| are|'re) (?:the |its )?(?:\w+ )?(?:text|words?|writing|title|headline|"
    r"inscription|letters|numbers?)\b(?! (?:of|for|about|that|to)\b)",
    r"what (?:text|words?|letters|writing)\b(?: (?:is|are|do|does|can)\b|<END>)",
    r"what (?:\w+ )?(?:is|are) on the (?:sign|label|page|screen|board|poster|ticket|receipt)",
    r"(?:is|are) there (?:any |some )?(?:text|writing|words|letters)\b",
    r"(?:any|the) (?:text|writing|words)\b[^?]{0,25}<END>",
    r"(?:does|do|did) [^?]{0,25}(?:contain|have|include|say) (?:any |some )?(?:text|writing|words)",
    r"(?:lis|lire|lisez)\b(?! (?:une?|des) )",
    r"(?:qu'est-ce qui|qu'est-ce qu'il|que|quoi)[^?]{0,20}\b[ée]crit\b",
    r"que (?:dit|disent) (?:le|la|les|l'|ce|cet|cette|ces)\b",
    r"(?:quel est |il y a |y a-t-il )?(?:le|du|un) texte\b",
)
DESCRIBE = any_of(
    r"<NO_USE>(?:what|who)(?:'s|s| is| are|'re| was)? (?:exactly |else )?"
    r"(?:<SHOWN>|the (?:main )?(?:object|subject|thing|<BEING>))"
    r"(?: (?:thing|one|is|are|called|exactly|then|object|place|building|<BEING>|here|there|in|on|"
    r"the|this|that|left|right|middle|<PICTURE>))*<END>",
    r"what (?:else )?(?:(?:do|can|could) you|you(?: can)?) (?:see|notice)\b[^?]{0,40}<END>",
    r"what(?:'s|s| do you| does| do| is| are)?[^?]{0,25}\b(?:shows?|depicts?|represents?|shown|"
    r"depicted|going on)\b[^?]{0,20}<END>",
    r"(?:what|which)(?: (?:sort|kind|type|breed|species)(?: of)?)?(?: [\w-]+){0,2} (?:is|are|was) "
    r"<SHOWN><END>",
    r"(?:what|which) (?:sort|kind|type|breed|species|object|food|<BEING>)(?: of \w+)?<END>",
    r"(?:describe|caption|identify|recogni[sz]e|d[ée]cri(?:s|re|vez)|identifie)\b(?! your)",
    r"(?:give|write)(?: me)? (?:an?|the) (?:\w+ )?(?:caption|description)\b",
    r"(?:tell me|say) (?:what you (?:can )?see|(?:more )?about (?:this|it|the))\b[^?]{0,30}<END>",
    r"(?:look at|check out|(?:can you )?see) (?:this|it|that)\b[^?]{0,25}<END>",
    r"que (?:vois-tu|voyez-vous|voit-on|montre|repr[ée]sente)\b[^?]{0,40}<END>",
    r"qu'est-ce que (?:c'est|tu vois|vous voyez|[çc]a (?:montre|repr[ée]sente))\b[^?]{0,30}<END>",
    r"qu'(?:(?:est-ce qu'il )?y a(?:-t-il)?|est-ce qu'on voit)\b[^?]{0,40}<END>",
    r"(?:c'est|c quoi|ce que c'est)(?: quoi)?(?: [çc]a|,? cette chose|,? cet \w+|,? ce \w+)?<END>",
    r"quel(?:le)?s? (?:animal|race|objet|plante|oiseau|chien|chat|fleur|plat|sorte de \w+)\b"
    r"(?: est-ce| c'est| est-il| vois-tu| est| sur (?:cette|la) \w+)*<END>",
    r"(?:qui|quel(?:le)?) est (?:ce|cet|cette|sur) [^?]{0,30}<END>|qui est-ce<END>",
)
FINDINGS: tuple[tuple[Focus, re.Pattern[str]], ...] = (
    ("faces", FACES), ("objects", OBJECTS), ("colours", COLOURS), ("text", READ),
    ("general", DESCRIBE),
)  # fmt: skip
PICTURE_NAMED = any_of(
    r"\b(?:the|this|that|these|those|my|your|our|both|all|same|first|second|third|last|previous|"
    r"other|earlier|1st|2nd|3rd) (?:of (?:the|my) |the )?(?:[\w.-]+ ){0,2}?<PICTURE>s?\b"
    r"(?! (?:of dorian|quality|formats?|frame|size|files?))",
    r"\b(?:l'|(?:la|le|les|cette|ce|ces|ma|mes|ta) )(?:[\w.-]+ ){0,2}?"
    r"(?:image|photo|capture|dessin|clich[ée])s?\b",
    r"\b(?:what|which) <PICTURE>s?\b(?! (?:format|frame|size|file)s?)",
    r"\b(?:picture|image|photo)s? (?:number |no\.? ?|#)?(?:\d+|one|two|three)\b",
)
POINTING = any_of(
    r"\b(?:it|its|he|she|him|her|his|they|them|their|wearing|holding)\b",
    r"\b(?:these|those)\b(?! (?:days|years|times))",
    r"\bthis\b(?! (?:year|week|month|morning|afternoon|evening|time|century|world|country|day|"
    r"season|chat|conversation|app|code|sentence|question|equation|word))",
    r"\b(?:is|are|was|does|did|has|can|about|of|like|on|in|at|see|what's|who's|where's) that\b",
    r"\bthat<END>|\bthat (?:thing|one|sign|car|<BEING>)\b",
    r"\b(?:is|are) there (?:an?|any|another|anything|something|more|other)\b(?!.*\b(?:that|who)\b)",
    r"\b(?:the|its) (?:back|fore)ground\b|\b(?:do|can|could) you (?:\w+ )?see\b",
    r"\b(?:[çc]a|cela|ceci|cel(?:ui|le)-(?:ci|l[àa])|elles?|(?<!a-t-)ils?(?! y a)|fond|"
    r"l['’]arri[èe]re-plan|vois-tu|tu vois)\b|-ce\b(?! (?:que|qu'|qui)\b)",
    r"\by a-t-il (?:une?|des|du)\b|"
    r"\bc(?:e|et|ette) (?:animal|chose|chat|chien|homme|femme|personne|objet|lieu|plante)\b",
)
# “It” that stands for nothing, or for what was said rather than for what was shown.
NOT_POINTING = any_of(
    r"\bwhat (?:time|day|date|year|month)\b|\b(?:rain|snow)(?:s|ing)?\b|\bweather\b",
    r"\b(?:is|would|was) it (?:\w+ )?(?:true|possible|ok|okay|normal|better|worth|legal|hard|easy|"
    r"difficult|important|necessary|correct|just me)\b",
    r"\bhow(?:'s| is| are) (?:it|they|things) going\b|\bhow (?:far|long) (?:is|does|did) it\b",
    r"\b(?:mean|say|said) (?:by )?(?:that|it)\b|\b(?:say|do|try|make) (?:that|it|this) \w",
    r"\b(?:is|was) that (?:true|right|correct|all)\b|\bhow do you know\b",
    r"\b(?:repeat|rephrase|shorten|continue|sure|certain)\b|\b(?:shorter|longer|again)<END>",
    r"\b(?:translate|summari[sz]e|rewrite|explain) (?:that|it|this|them)\b",
    r"\b(?:helps?|helped|thank\w*|wonderful|makes? sense|get it)\b",
    r"\b(?:quelle heure|quel (?:temps|jour)|pleut|neige|fait (?:beau|chaud|froid)|traduis|"
    r"r[ée]p[èe]te|veux-tu dire|[çc]a va|[çc]a veut dire|s[ûu]re?)\b",
)
ASKING = any_of(
    r"(?:what|which|who|whose|where|when|why|how|is|are|was|were|does|do|did|has|have|can|could|"
    r"would|will|should|describe|tell|look|read|count|find|name|identify|write|guess|translate|"
    r"compare|list|summari[sz]e|explain|make)\b|.*\?<END>",
    r"(?:que|qu'|quoi|qui|quel|o[ùu]|est-|a-t|y a|combien|pourquoi|comment|d[ée]cris|lis|de quel|"
    r"sont|c'est (?:quoi|qui|quel)|[ée]cris|traduis)",
)
NAME_BEFORE = re.compile(r"\S\s+[A-Z][a-zé]+.*\b(?:it|its|he|she|him|her|his|they|them|il|elle)\b")
POINTING_WORDS = 14
"""In a longer sentence “it” most likely stands for something the sentence itself names."""
FRAGMENT_WORDS = 3
PUNCTUATION = " \t,.;:!?¿¡…-–—«»“”\"'()"
"""What a sentence may begin with before its first word."""
EXCERPT_CHARACTERS = 1000
"""Of a message, in which what it asks is looked for; half at its beginning, half at its end."""


def focus_of(words: str) -> Focus | None:
    """What the findings about a picture must answer; None if they alone cannot answer `words`."""
    if not words.strip():
        return "general"
    asked: set[Focus] = set()
    for sentence in sentences(excerpt(words)):
        focus = _focus(sentence)
        if focus is None and ASKING.match(sentence):
            return None
        if focus is not None:
            asked.add(focus)
    if len(asked) > 1:
        return "general"
    return asked.pop() if asked else None


def wants_drawing(words: str) -> bool:
    return any(DRAW.match(sentence) for sentence in sentences(excerpt(words)))


def wants_transcript(words: str) -> bool:
    """Whether the words heard are themselves the answer, not what a model makes of them."""
    words = excerpt(words)
    if THEN_COMPOSE.search(words) or not WRITE_DOWN.search(words):
        return False
    return all(WRITE_DOWN.match(s) or not COMPOSE.match(s) for s in sentences(words))


def wants_text_of_picture(words: str) -> bool:
    """Whether it is the text in a picture that is to be written down, not what was said."""
    return focus_of(words) == "text" and IN_PICTURE.search(excerpt(words)) is not None


def names_a_picture(words: str) -> bool:
    return PICTURE_NAMED.search(excerpt(words)) is not None


def points_at_something(words: str) -> bool:
    """Whether a sentence asks about something it does not name: “What colour is it?”"""
    return any(map(_points, sentences(excerpt(words))))


def excerpt(words: str) -> str:
    """The beginning and the end of a longer message, with an ellipsis between them: what is asked
    stands before or after the letter, the log or the poem that is asked about."""
    words = words.strip()
    if len(words) <= EXCERPT_CHARACTERS:
        return words
    half = EXCERPT_CHARACTERS // 2
    head, tail = words[:half], words[-half:]
    # A word that was cut in two is left out, unless there is no other.
    opening, ending = re.match(r".*\s", head, re.DOTALL), re.search(r"\s.*", tail, re.DOTALL)
    head = opening[0] if opening else head
    tail = ending[0] if ending else tail
    return f"{head}…{tail}"


def sentences(words: str) -> list[str]:
    """All sentences, without the greetings and politeness they begin with."""
    bare = (_bare(sentence) for sentence in re.split(r"(?<=[.?!…])\s+|\n+", words))
    return [sentence for sentence in bare if sentence]


def _bare(sentence: str) -> str:
    """Each greeting is looked at once, where it stands: a copy of the rest for every one of many
    would take time by the square of them."""
    end, start = len(sentence.rstrip(" ?!.")), 0
    while True:
        while start < len(sentence) and sentence[start] in PUNCTUATION:
            start += 1
        lead = LEAD.match(sentence, start)
        if lead is None or lead.end() == end:
            return sentence[start:]
        start = lead.end()


def _composes(sentence: str) -> bool:
    return bool(COMPOSE.match(sentence) or THEN_COMPOSE.search(sentence))


def _focus(sentence: str) -> Focus | None:
    if PUT_INTO_WORDS.match(sentence):
        return "general"
    if _composes(sentence):
        return None
    return next((focus for focus, asked in FINDINGS if asked.match(sentence)), None)


def _points(sentence: str) -> bool:
    if NOT_POINTING.search(sentence):
        return False
    focus, length = _focus(sentence), len(re.findall(r"\w[\w'’-]*", sentence))
    if focus is not None and (focus != "general" or length <= FRAGMENT_WORDS):
        return True
    return (
        length <= POINTING_WORDS
        and ASKING.match(sentence) is not None
        and POINTING.search(sentence) is not None
        and NAME_BEFORE.search(sentence) is None
    )
