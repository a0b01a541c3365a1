"""Words that several patterns look for, and how a pattern names them.

No two ways through a repeated group may match the same words: as many times as such a word is
written, Python's `re` would try both.
"""

from __future__ import annotations

import re

# What people call the objects that a detector of COCO's categories finds, in English and French;
# the keys are the names in models/labels/coco.tsv. A detector tells no man from a woman.
OBJECTS = {
    "person": r"people|persons?|humans?|someone|somebody|anyone|anybody|personnes?|gens|"
    r"quelqu'un|du monde",
    "bicycle": r"bi(?:cycle|ke)s?|v[ée]los?|bicyclettes?",
    "car": r"cars?|automobiles?|voitures?",
    "motorcycle": r"motor(?:cycle|bike)s?|motos?|motocyclettes?",
    "airplane": r"(?:air|aero)?planes?|aircraft|avions?",
    "bus": r"bus(?:es)?|autobus",
    "train": r"trains?",
    "truck": r"trucks?|lorr(?:y|ies)|camions?",
    "boat": r"boats?|ships?|bateaux?",
    "traffic light": r"traffic lights?|feux? (?:rouges?|tricolores?)",
    "fire hydrant": r"(?:fire )?hydrants?",
    "stop sign": r"stop signs?",
    "parking meter": r"parking meters?",
    "bench": r"bench(?:es)?|bancs?",
    "bird": r"birds?|oiseaux?",
    "cat": r"(?:cat|kitten|chat|chaton)s?",
    "dog": r"dogs?|pupp(?:y|ies)|chiens?",
    "horse": r"horses?|chev(?:al|aux)",
    "sheep": r"sheep|moutons?",
    "cow": r"cows?|vaches?",
    "elephant": r"[ée]l[ée](?:ph|f)ants?",
    "bear": r"(?:bear|ours)s?",
    "zebra": r"z[eè]br(?:a|e)s?",
    "giraffe": r"giraf(?:f?e)s?",
    "backpack": r"backpacks?|rucksacks?|sacs? à dos",
    "umbrella": r"umbrellas?|parapluies?",
    "handbag": r"handbags?|sacs? à main",
    "tie": r"(?:neck)?ties?|cravates?",
    "suitcase": r"suitcases?|valises?",
    "frisbee": r"frisbees?",
    "pair of skis": r"skis?",
    "snowboard": r"snowboards?",
    "ball": r"(?:foot|basket|base|tennis )?balls?|ballons?",
    "kite": r"kites?|cerfs?-volants?",
    "baseball bat": r"(?:baseball )?bats?",
    "baseball glove": r"baseball gloves?",
    "skateboard": r"skateboards?",
    "surfboard": r"surfboards?",
    "tennis racket": r"tennis rackets?",
    "bottle": r"bottles?|bouteilles?",
    "wine glass": r"wine ?glass(?:es)?|verres? à vin",
    "cup": r"(?:cup|mug|tasse)s?",
    "fork": r"forks?|fourchettes?",
    "knife": r"kni(?:fe|ves)|couteaux?",
    "spoon": r"spoons?|cuill[eè]res?",
    "bowl": r"bowls?|bols?",
    "banana": r"bananas?|bananes?",
    "apple": r"apples?|pommes?",
    "sandwich": r"sandwich(?:e?s)?",
    "orange": r"oranges?",
    "piece of broccoli": r"broccoli|brocolis?",
    "carrot": r"carrots?|carottes?",
    "hot dog": r"hot ?dogs?",
    "pizza": r"pizzas?",
    "donut": r"do(?:ugh)?nuts?",
    "cake": r"cakes?|g[âa]teaux?",
    "chair": r"chairs?|chaises?",
    "couch": r"couch(?:es)?|sofas?|canap[ée]s?",
    "potted plant": r"(?:potted )?plants?|plantes?(?: en pot)?",
    "bed": r"beds?|lits?",
    "table": r"(?:dining )?tables?",
    "toilet": r"toilets?|toilettes",
    "TV": r"tvs?|televisions?|t[ée]l[ée](?:viseur)?s?",
    "laptop": r"laptops?|notebooks?|ordinateurs? portables?",
    "computer mouse": r"computer (?:mouse|mice)|souris",
    "remote control": r"remotes?(?: controls?)?|t[ée]l[ée]commandes?",
    "keyboard": r"keyboards?|claviers?",
    "phone": r"(?:cell|mobile|smart)? ?phones?|cellphones?|t[ée]l[ée]phones?",
    "microwave": r"microwaves?|micro-ondes?",
    "oven": r"ovens?|fours?",
    "toaster": r"toasters?|grille-pain",
    "sink": r"sinks?|[ée]viers?|lavabos?",
    "refrigerator": r"refrigerators?|fridges?|frigos?|r[ée]frig[ée]rateurs?",
    "book": r"books?|livres?",
    "clock": r"clocks?|horloges?",
    "vase": r"vases?",
    "pair of scissors": r"scissors|ciseaux",
    "teddy bear": r"teddy(?: bear)?s?|nounours",
    "hair dryer": r"hair ?dryers?",
    "toothbrush": r"toothbrush(?:es)?",
}
# Vocabulary that patterns name as <PICTURE>, <END> ...; an entry may use those below it.
WORDS = {
    "SCENE": r"(?:\s+(?:are|is|can|do|does|you|we|i|see|seen|be|count|there|here|visible|shown|in|"
    r"on|this|that|the|it|appear|of|these|background|foreground|total|<PICTURE>s?|vois-tu|voit-on|"
    r"y|a-t-il|il|a|sur|dans|cette|l|le|tu|vois|voit|visibles|l[àa]))*<END>",
    "OBJECT": rf"(?:{'|'.join(OBJECTS.values())})\b",
    "SIDE": r"(?:(?:far )?(?:left|right)|middle|cent(?:er|re)|foreground|background|front|"
    r"gauche|droite|milieu|premier plan|arri[èe]re-plan)",
    "SHOWN": r"(?:<THIS>|shown|visible|seen|there|(?:in|on) (?:it|there|the|this|that|my)\b.*|"
    r"(?:the|this|that|these|those|my) [\w ]{0,20}<PICTURE>s?)",
    "THIS": r"(?:this|that|these|those|it|here|he|she|they)",
    "BEING": r"(?:person|man|woman|guy|animal|plant|bird|dog|cat)",
    "ME": r"(?: me| us)?",
    "SOMEONE": r"(?:people|persons?)",
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
