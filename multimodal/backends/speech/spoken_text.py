"""Markdown of an answer in, words that can be said aloud out.

Signs for the eye go: markup, addresses (their host is said), emoji. Blocks of code are named and
not read letter by letter, a picture is its description, a table one row after another. What is left
is plain text, a block a line; digits stay, since each language's pronunciation reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

CODE_SAID = {
    "en": "Here is a block of code.",
    "fr": "Voici un bloc de code.",
    "de": "Hier steht ein Stück Code.",
    "es": "Aquí hay un bloque de código.",
    "it": "Ecco un blocco di codice.",
    "pt": "Aqui está um bloco de código.",
    "ja": "ここにコードがあります。",
    "zh": "这里有一段代码。",
}
"""What is said in place of a block of code; nothing in other languages."""
ENGLISH_SIGNS = (
    (r"\be\.g\.", "for example"),
    (r"\bi\.e\.", "that is"),
    (r"\betc\.", "et cetera."),
    (r"\bvs\.", "versus"),
    (r"\bapprox\.", "approximately"),
    (r"(\d)\s*°\s*C\b", r"\1 degrees Celsius"),
    (r"(\d)\s*°\s*F\b", r"\1 degrees Fahrenheit"),
    (r"(\d)\s*°", r"\1 degrees"),
    (r"(\d)\s*km/h\b", r"\1 kilometres an hour"),
    (r"(\d)\s*m/s\b", r"\1 metres a second"),
    (r"(\d)\s*km\b", r"\1 kilometres"),
    (r"(\d)\s*kg\b", r"\1 kilograms"),
    (r"(\d)\s*cm\b", r"\1 centimetres"),
    (r"(\d)\s*mm\b", r"\1 millimetres"),
    (r"(\d)\s*GB\b", r"\1 gigabytes"),
    (r"(\d)\s*MB\b", r"\1 megabytes"),
    # Not in dates and telephone numbers.
    (r"(?<![\d.–-])(\d{1,3})-(?=\d{1,3}(?![\d–-]))", r"\1 to "),
    (r"(\d)\s*[–—]\s*(?=\d)", r"\1 to "),
    (r"\s*&\s*", " and "),
    (r"(?<=[\w)])\s*≈\s*(?=\S)", " is about "),
    (r"(?<=[\w)])\s*=\s*(?=\S)", " equals "),
    (r"(?<=[\w)])\s*[×·*]\s*(?=[\w(])", " times "),
    (r"(?<=\d)\s*\+\s*(?=\d)", " plus "),
    (r"(?<=\w)\^2\b|²", " squared"),
    (r"(?<=\w)\^3\b|³", " cubed"),
    (r"\s*(?:→|⇒|->)\s*", ", "),
)
_SIGNS = {"en": tuple((re.compile(sign), words) for sign, words in ENGLISH_SIGNS)}
_ADDRESS = re.compile(r"\b(?:https?://|www\.)[^\s<>\"']+", re.IGNORECASE)
_EMOJI = re.compile(
    "[\U0001f000-\U0001faff\U000e0020-\U000e007f\u2190-\u21ff\u2300-\u23ff\u2460-\u24ff"
    "\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff\ufe0e\ufe0f\u200d\u20e3]+"
)
_LATEX = re.compile(r"\\[a-zA-Z]+|[\\{}$^_&~]")
_LEFT_OVER = re.compile(r"[*_`#|~<>\[\]{}\\]+")
_WHITE = re.compile(r"[^\S\n]+")
_END_OF_A_LINE = re.compile(r"[.!?…:;,。！？：；，、]['\"”’»)\]）」』]*$")
_WORD = re.compile(r"\w")

_parser = MarkdownIt("commonmark", {"html": False}).enable("table").enable("strikethrough")
_parser.use(dollarmath_plugin, allow_digits=False)


def spoken_text(markdown: str, language: str = "en") -> str:
    """What is said of `markdown`, a block a line, each ended by a mark; "" where it has no words.

    `language` (ISO 639) is that of the text; signs such as "&" and "km/h" are put into words of it
    where they are known.
    """
    lines = (_line(block, language) for block in _blocks(_parser.parse(markdown), language))
    return "\n".join(line for line in lines if _WORD.search(line))


def _blocks(tokens: Sequence[Token], language: str) -> Iterator[str]:
    row: list[str] | None = None
    for token in tokens:
        if token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            yield ", ".join(filter(None, row or []))
            row = None
        elif token.type in {"fence", "code_block"}:
            yield CODE_SAID.get(language, "")
        elif token.type == "inline":
            words = _inline(token.children or [])
            if row is None:
                yield words
            else:
                row.append(words.strip())
        elif token.type == "math_block":
            yield _formula(token.content)


def _inline(tokens: Sequence[Token]) -> str:
    said = []
    for token in tokens:
        if token.type in {"softbreak", "hardbreak"}:
            said.append(" ")
        elif token.type == "math_inline":
            said.append(_formula(token.content))
        else:  # text, code, and of a picture its description
            said.append(token.content)
    return "".join(said)


def _formula(latex: str) -> str:
    """What can be said of a formula: its names and numbers, squares and cubes."""
    powers = re.sub(r"\^(?:2|\{2\})", "²", re.sub(r"\^(?:3|\{3\})", "³", latex))
    return _LATEX.sub(" ", powers)


def _line(block: str, language: str) -> str:
    said = _ADDRESS.sub(lambda found: _host(found[0]), block)
    for sign, words in _SIGNS.get(language, ()):
        said = sign.sub(words, said)
    said = _LEFT_OVER.sub(" ", _EMOJI.sub(" ", said))
    said = _WHITE.sub(" ", said).strip()
    said = re.sub(r"\s+([.,;:!?])(?=\s|$)", r"\1", said) if language != "fr" else said
    return said if not said or _END_OF_A_LINE.search(said) else f"{said}."


def _host(address: str) -> str:
    """“example.org” of an address in full; what ends the sentence stays."""
    bare = address.rstrip(".,;:!?)")
    try:
        host = urlsplit(bare if "//" in bare else f"//{bare}").hostname or ""
    except ValueError:
        host = ""
    return host.removeprefix("www.") + address[len(bare) :]
