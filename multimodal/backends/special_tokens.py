"""What somebody types is text, also where it spells a sign by which a model tells turns apart.

A tokenizer makes one control token of every `<|im_end|>`, whoever wrote it, so that a message could
forge the turns after it. Here such a sign gets a space into it, and is read as its characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from multimodal.catalog.cards import ModelCard
from multimodal.errors import CardError

BRACKETED = re.compile(r"<\|?[^\s\0<>|]+\|?>|\[/?[A-Z_]+\]")
"""`<|user|>`, `</s>`, `[/INST]`: how chat templates write their signs, tokens or not."""
GENERATION = re.compile(r"{%[-+]?\s*(?:end)?generation\s*[-+]?%}")
"""Marks the words of the model for training."""
LITERALS = {"data", "string"}


class SpecialTokenEscaper:
    """Keeps `signs` apart from what is typed."""

    def __init__(self, signs: Iterable[str]) -> None:
        known = {sign.strip() for sign in signs}
        longest_first = sorted({s for s in known if len(s) > 1}, key=len, reverse=True)
        self._sign = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def __call__(self, text: str) -> str:
        while self._sign.search(text):  # what is left of one sign may be another
            text = self._sign.sub(lambda sign: f"{sign[0][:1]} {sign[0][1:]}", text)
        return text


def check_template(card: ModelCard) -> None:
    """Raise CardError for a chat_template of `card` that is no template of Jinja, with the tags
    that transformers and llama.cpp add."""
    try:
        _environment().parse(GENERATION.sub("", card.chat_template))
    except TemplateSyntaxError as error:
        raise CardError(
            f"{card.name}: chat_template, line {error.lineno}: {error.message}"
        ) from error


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])


def special_token_texts(tokenizer: Any) -> set[str]:
    """What the tokenizer never takes for text: what opens and ends texts and, mostly, turns."""
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def template_token_texts(template: str) -> set[str]:
    """What the chat template writes in brackets, such as Llama 2's [INST], which is no token."""
    pieces = _environment().lex(template)
    written = "\0".join(piece for _, kind, piece in pieces if kind in LITERALS)
    return set(BRACKETED.findall(written))
