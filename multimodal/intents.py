"""What a person's words ask for, in English and French: patterns only, no models, no state.

Patterns for a whole sentence are matched from its beginning, after greetings and politeness are
taken off. They are narrow on purpose: words that no pattern knows go to the text model, which
reads the description of every picture and so still knows what is meant.
"""

from __future__ import annotations

import re


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


_PICTURE = r"(?:picture|image|photo|pic|photograph|screenshot|snapshot|drawing|capture|dessin)"
_DRAWABLE = (
    r"(?:picture|image|drawing|photo|photograph|illustration|painting|sketch|portrait|logo|icon|"
    r"poster|wallpaper|avatar|dessin|tableau|ic[ôo]ne|affiche)"
)

LEAD = _any_of(
    r"(?:hi|hello|hey|dear|please|ok|okay|so|and|but|now|well|also|then|oh|wow|cool|great|thanks|"
    r"thank you|bonjour|salut|et|mais|alors|ok|maintenant|s'il te pla[îi]t|s'il vous pla[îi]t|"
    r"stp|svp|merci)\b(?: there)?",
    r"(?:can|could|would|will) you (?:please |also |maybe )?(?=(?!see\b)\w)",
    r"(?:i want you to|i(?:'d| would) like you to|i need you to|try to|just)\b",
    r"(?:i want|i need|i(?:'d| would) (?:like|love)|let me know)(?= (?:an?|some|to know)\b)",
    r"(?:to know|do you know|tell me|let me know|show me)(?= (?:what|who|which|how|if|whether)\b)",
    r"(?:peux-tu|peux tu|tu peux|pouvez-vous|pourrais-tu|pourriez-vous|tu pourrais|est-ce que tu "
    r"peux|je veux que tu|j'aimerais que tu)\b(?: me| nous)?",
    r"(?:dis-moi|dites-moi)\b",
)

DRAW = _any_of(
    r"(?:draw|paint|sketch|doodle)\b(?!\w|\s*(?:up|out|from|on|attention|conclusions?|inspiration)\b"
    r"|[^.?!]{0,25}\b(?:conclusions?|comparisons?|parallels?|distinctions?|lessons?|inferences?|"
    r"lines? between)\b)",
    r"illustrate (?:an?|this|my) (?:story|scene|tale|poem|children)",
    r"(?:(?:make|create|generate|show|give|design|produce|render|imagine|do)\b(?: me| us)? )?"
    r"(?:an?|another|some)\s+(?:(?!of\b|for\b)[\w-]+,?\s+){0,3}" + _DRAWABLE + r"s?\b\s+"
    r"(?:of|with|showing|that shows|for|where|depicting)\b",
    r"dessine[rsz]?\b|peins\b|peindre\b|illustre[rz]?\s(?:une? (?:histoire|sc[èe]ne|conte))",
    r"(?:(?:cr[ée]e[rz]?|g[ée]n[èe]re[rz]?|g[ée]n[ée]rer|fais|faire|montre|donne|je veux|je voudrais|"
    r"j'aimerais)(?:[ -]moi|[ -]nous)?,?\s)(?:une?|des)\s(?:\w+\s){0,3}" + _DRAWABLE + r"s?\b\s*"
    r"(?:de|d'|du|avec|o[ùu]|qui|pour)",
)
WRITE_DOWN = _any_of(
    r"\b(?:transcribe|transcript|transcription|(?:write|type) (?:this |it |that )?(?:down|up|out)|"
    r"subtitles?|dictation)\b",
    r"\b(?:transcri[st]|transcrire|retranscri|sous-titres?|par [ée]crit)",
    r"\b(?:note[rz]?|[ée]cris|[ée]crire) ce (?:que|qui|qu')",
    r"\bwhat (?:did|does|do|is|am|are|was) (?:i|he|she|they|we|you hear|it|someone|"
    r"(?:the|this|that) \w+)?\s*(?:say|said|saying|being said)\b",
    r"\bwhat(?: is|'s| was| were) (?:being )?(?:said|spoken)\b",
    r"\bqu'est-ce (?:qu'(?:il|elle|on)s?|que je|que j'ai|qui est) (?:dit|dis|disent)\b",
    r"\bque (?:dit|dis)-(?:il|elle|on|je)\b",
)
# What must be thought about is for the text model, even where a picture's text is the matter.
COMPOSE = _any_of(
    r"(?:write|compose|translate|summari[sz]e|explain|imagine|invent|suggest|rewrite|paraphrase|"
    r"make up|make|turn|compare|correct|fix|solve|calculate|convert|explique|[ée]cris|traduis|"
    r"r[ée]sume|invente|compare|corrige|imagine|raconte|why|pourquoi|if|should|would|could)\b",
    r"tell me (?:an?|the|some) (?:\w+ )?(?:story|joke|poem|fact)",
)
THEN_COMPOSE = _any_of(
    r"\b(?:and|then|et|puis) (?:then )?(?:translate|summari[sz]e|explain|rewrite|correct|answer|"
    r"solve|write|tell me (?:why|how)|traduis|r[ée]sume|explique|[ée]cris|r[ée]ponds)\b",
    r"\b(?:in|into|to|en) (?:french|german|spanish|italian|chinese|english|anglais|fran[çc]ais)\b",
)
_SCENE = (
    r"(?:\s+(?:are|is|can|do|does|you|we|i|see|seen|be|count|there|here|visible|shown|in|on|this|"
    r"that|the|it|appear|of|these|background|foreground|altogether|total|" + _PICTURE + r"s?|"
    r"vois-tu|voit-on|y|a-t-il|il|a|sur|dans|cette|la|l|le|tu|vois|on|voit|visibles?|l[àa]))*"
)
_SOMEONE = r"(?:faces?|people|persons?|humans?|someone|somebody|anyone|anybody)"
_FACES = _any_of(
    r"(?:count|how many) (?:the )?(?:different )?(?:faces|people|persons|humans|heads)\b"
    + _SCENE
    + r"\W*$",
    r"(?:is|are|do you see|can you see) (?:there )?(?:an? |any |some )?"
    + _SOMEONE
    + _SCENE
    + r"\W*$",
    r"(?:any |who are the )?(?:faces?|people|persons)" + _SCENE + r"\W*$",
    r"combien (?:de|y a-t-il de|il y a de|vois-tu de) (?:visages|personnes|gens|t[êe]tes)\b"
    + _SCENE
    + r"\W*$",
    r"(?:il y a|y a-t-il|vois-tu) (?:du monde|quelqu'un|des gens|des personnes|des visages)"
    + _SCENE
    + r"\W*$",
)
_NO_COLOUR = (
    r"(?!.*\b(?:would|should|could|match|matches|best|goes?|wear|mix|paint|stands? for|mean|means|"
    r"symboli[sz]es?|blind|theory|wavelength|you get|favou?rite|irait|mets|signifie|pr[ée]f[ée]r)"
    r"\w*)"
)
_COLOURS = _any_of(
    _NO_COLOUR + r"(?:what|which|of what|in what)(?: main| other| different)? colou?rs?\b",
    _NO_COLOUR + r"what(?:'s|s| is| are| was| about| were) (?:the |its |his |her |their )?"
    r"(?:main |dominant |other )?colou?rs?\b",
    r"(?:name|list|tell me|describe|read|look at|show me|which are)(?: me)?(?: all)?"
    r" (?:the |its )(?:main |dominant )?colou?rs?\b",
    r"(?:the |any )?colou?rs?\W*$",
    _NO_COLOUR + r"(?:de |quelles? sont (?:les|ses) |d[ée]cris les |et )?(?:quelles? )?couleurs?\b",
)
_NOBODY = (
    r"(?!(?:people|they|you|we|i|experts?|scientists?|critics|historians|the (?:bible|law))\b)"
)
_READ = _any_of(
    r"(?:read|ocr|extract|copy)(?: (?:to|for) me| me| out)?(?: aloud)?"
    r"(?:,? (?:it|this|that|these|the|what|everything|all|any|its|text)\b[^?]*)?\W*$",
    r"what (?:does|do|did) " + _NOBODY + r"[^?]{0,40}\bsays?\b(?! about| to)",
    r"what (?:is|are|'s|was)?[^?]{0,30}\b(?:written|printed)\b(?! by)",
    r"what(?:'s|s| is| are|'re) (?:the |its )?(?:\w+ )?(?:text|words?|writing|title|headline|"
    r"inscription|letters|numbers?)\b(?! (?:of|for|about|that|to)\b)",
    r"what (?:text|words?|letters|writing)\b(?: (?:is|are|do|does|can)\b|\W*$)",
    r"what (?:\w+ )?(?:is|are) on the (?:sign|label|page|screen|board|poster|ticket|receipt)",
    r"(?:is|are) there (?:any |some )?(?:text|writing|words|letters)\b",
    r"(?:any|the) (?:text|writing|words)\b[^?]{0,25}\W*$",
    r"(?:does|do|did) [^?]{0,25}(?:contain|have|include|say) (?:any |some )?(?:text|writing|words)",
    r"(?:lis|lire|lisez)\b(?! (?:une?|des) )",
    r"(?:qu'est-ce qui|qu'est-ce qu'il|que|quoi)[^?]{0,20}\b[ée]crit\b",
    r"que (?:dit|disent) (?:le|la|les|l'|ce|cet|cette|ces)\b[^?]{0,40}",
    r"(?:quel est |il y a |y a-t-il )?(?:le|du|un) texte\b",
)
_THIS = r"(?:this|that|these|those|it|here|he|she|they)"
_REASONED = (
    r"(?!.*\b(?:used?|for|made?|means?|costs?|worth|good|eat|doing|history|happen\w*|next|wrong|"
    r"difference|common|about to|feel\w*|think\w*|weighs?|dangerous|poisonous|from)\b)"
)
_SHOWN = (
    r"(?:" + _THIS + r"|(?:shown|visible|seen|there)|(?:in|on) (?:it|there|the|this|that|my)\b.*|"
    r"(?:the|this|that|these|those|my) [\w ]{0,20}" + _PICTURE + r"s?)"
)
_DESCRIBE = _any_of(
    _REASONED + r"(?:what|who)(?:'s|s| is| are|'re| was)? (?:(?:exactly|else) )?"
    r"(?:" + _SHOWN + r"|the (?:main )?(?:object|subject|thing|animal|person|man|woman))"
    r"(?: (?:thing|one|is|are|called|exactly|then|object|animal|person|man|woman|plant|bird|dog|"
    r"cat|place|building|guy|here|there|in|on|the|this|that|left|right|middle|" + _PICTURE + r"))*"
    r"\W*$",
    r"what (?:else )?(?:do|can|could) you (?:see|recogni[sz]e|make out|notice)\b[^?]{0,40}\W*$",
    r"what (?:do you|does|do|is|are)?[^?]{0,25}\b(?:shows?|depicts?|represents?|shown|depicted|going "
    r"on)\b[^?]{0,20}\W*$",
    r"(?:what|which)(?: (?:sort|kind|type|breed|species)(?: of)?)?(?: [\w-]+){0,2} (?:is|are|was) "
    r"(?:" + _SHOWN + r")\W*$",
    r"(?:what|which) (?:sort|kind|type|breed|species|animal|object|plant|bird|food)(?: of \w+)?\W*$",
    r"(?:describe|caption|identify|recogni[sz]e)\b(?! your| yourself)",
    r"(?:give|write)(?: me)? (?:an?|the) (?:\w+ )?(?:caption|description)\b",
    r"(?:tell me|say) (?:what you (?:can )?see|(?:more )?about (?:this|it|the|that))\b[^?]{0,30}\W*$",
    r"what you (?:can )?see\b[^?]{0,30}\W*$",
    r"(?:look at|check out|see) (?:this|it|that)\b[^?]{0,25}\W*$",
    r"(?:d[ée]cris|d[ée]crire|d[ée]crivez|identifie)\b",
    r"que (?:vois-tu|voyez-vous|voit-on|montre|repr[ée]sente)\b[^?]{0,40}\W*$",
    r"qu'est-ce que (?:c'est|tu vois|vous voyez|[çc]a (?:montre|repr[ée]sente))\b[^?]{0,30}\W*$",
    r"qu'(?:est-ce qu'il )?y a(?:-t-il)?\b[^?]{0,40}\W*$|qu'est-ce qu'on voit\b[^?]{0,40}\W*$",
    r"(?:c'est|c quoi|ce que c'est)(?: quoi)?(?: [çc]a|,? cette chose|,? cet \w+|,? ce \w+)?\W*$",
    r"quel(?:le)?s? (?:animal|race|objet|plante|oiseau|chien|chat|fleur|plat|sorte de \w+)\b"
    r"(?: est-ce| c'est| est-il| vois-tu| est| sur (?:cette|la) \w+)*\W*$",
    r"(?:qui|quel(?:le)?) est (?:ce|cet|cette|sur) [^?]{0,30}\W*$|qui est-ce\W*$",
)
PICTURE_WORD = _any_of(
    r"\b(?:the|this|that|these|those|my|your|our|both|all|same|first|second|third|last|previous|"
    r"other|earlier|what|which|on|in|1st|2nd|3rd)\s+(?:of the |of my |the )?(?:[\w.-]+ ){0,2}?"
    + _PICTURE
    + r"s?\b(?! (?:of dorian|quality|format|frame|size|files?|formats))",
    r"\b(?:la|le|les|l'|cette|ce|ces|ma|mes|ta|sur|premi[èe]re|deuxi[èe]me|derni[èe]re)\s*"
    r"(?:[\w.-]+ ){0,2}?(?:image|photo|capture|dessin|clich[ée])s?\b",
    r"\b(?:picture|image|photo)s? (?:number |no\.? ?|#)?(?:\d+|one|two|three)\b",
)
POINTING = _any_of(
    r"\b(?:it|its|he|she|him|her|his|they|them|their)\b",
    r"\b(?:these|those)\b(?! (?:days|years|times))",
    r"\bthis\b(?! (?:year|week|month|morning|afternoon|evening|time|century|world|country|day|"
    r"season|chat|conversation|app|code|sentence|question|equation|word))",
    r"\b(?:is|are|was|does|did|has|can|about|of|like|on|in|at|see|what's|who's|where's) that\b"
    r"|\bthat\W*$|\bthat (?:thing|one|dog|cat|animal|man|woman|person|sign|guy|car)\b",
    r"\b(?:is|are) there (?:an?|any|another|anything|something|more|other)\b(?! \w+ (?:that|which))",
    r"\b(?:the|its) (?:back|fore)ground\b",
    r"\b(?:wearing|holding)\b|\b(?:do|can|could) you (?:\w+ )?see\b",
    r"\b(?:[çc]a|cela|ceci|celui-(?:ci|l[àa])|celle-(?:ci|l[àa])|elles?|ils?|l['’]arri[èe]re-plan|"
    r"fond|vois-tu|tu vois)\b|-ce\b(?! (?:que|qu'|qui)\b)|\b(?:cet|cette|ce) (?:animal|chose|chat|"
    r"chien|homme|femme|personne|objet|lieu|plante|voiture)\b|\by a-t-il (?:une?|des|du)\b",
)
# “It” that stands for nothing, or for what was said rather than for what was shown.
NOT_POINTING = _any_of(
    r"\bwhat (?:time|day|date|year|month)\b|\b(?:rain|snow)(?:s|ing)?\b|\bweather\b",
    r"\b(?:is|would|was) it (?:\w+ )?(?:true|possible|ok|okay|normal|better|worth|legal|hard|easy|"
    r"difficult|important|necessary|correct|just me)\b",
    r"\bhow(?:'s| is| are) (?:it|they|things) going\b|\bhow (?:far|long) (?:is|does|would|did) it\b",
    r"\b(?:mean|say|said) (?:by )?(?:that|it)\b|\b(?:repeat|rephrase|shorten|continue)\b|"
    r"\b(?:say|do|try|make) (?:that|it|this) (?:\w+)\b|\b(?:is|was) that (?:true|right|correct|all)\b",
    r"\b(?:sure|certain|talk|chat)\b|\b(?:shorter|longer|simpler|again)\W*$",
    r"\b(?:translate|summari[sz]e|rewrite|explain) (?:that|it|this|them)\b|\bhow do you know\b",
    r"\b(?:helps?|helped|thank\w*|wonderful|makes? sense|get it)\b",
    r"\b(?:quelle heure|quel (?:temps|jour)|pleut|neige|fait (?:beau|chaud|froid)|traduis|r[ée]p[èe]te|"
    r"veux-tu dire|[çc]a va|[çc]a veut dire|s[ûu]re?)\b",
)
ASKING = _any_of(
    r"(?:what|which|who|whose|where|when|why|how|is|are|was|were|does|do|did|has|have|can|could|"
    r"would|will|should|describe|tell|look|read|count|find|name|identify|write|any|the|anything|"
    r"guess|translate|compare|list|summari[sz]e|explain|make)\b",
    r"(?:que|qu'|quoi|qui|quel|o[ùu]|est-|a-t|y a|combien|pourquoi|comment|d[ée]cris|lis|de quel|"
    r"sont|c'est|[ée]cris|traduis|compare)",
    r".*\?\W*$",
)
NAME_BEFORE = re.compile(r"\S\s+[A-Z][a-zé]+.*\b(?:it|its|he|she|him|her|his|they|them|il|elle)\b")
MANY = _any_of(
    r"\b(?:both|all(?: of)?(?: the| my| these)?|(?:the|these|my) (?:two|three|four|\d))"
    r" (?:of the )?" + _PICTURE + r"s\b",
    r"\b(?:les (?:deux|trois|quatre|\d)|toutes les) (?:images|photos)\b",
    r"\b(?:compare|difference between) (?:the|these|my) " + _PICTURE + r"s\b",
)
ORDINALS = {
    r"first|1st|premi[èe]re?|1[èe]?re|(?:number |#)?(?:1|one)": 0,
    r"second|2nd|deuxi[èe]me|seconde?|(?:number |#)?(?:2|two)": 1,
    r"third|3rd|troisi[èe]me|(?:number |#)?(?:3|three)": 2,
    r"fourth|4th|quatri[èe]me|(?:number |#)?(?:4|four)": 3,
    r"last|latest|newest|derni[èe]re?": -1,
    r"previous|pr[ée]c[ée]dente?|other|autre": -2,
}
_PERSONAL_WORDS = 14
