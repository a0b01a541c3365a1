"""A conversation as the text that a model was taught to go on with.

The tokenizer's own template is used; where it has none, the card's; where the card has none, names
before each turn, as models read that were never taught to chat.

Only the template writes control tokens. What a person typed never makes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import TemplateError

from multimodal.backends.special_tokens import (
    SpecialTokenEscaper,
    special_token_texts,
    template_token_texts,
)
from multimodal.catalog.cards import ModelCard
from multimodal.events import Notice

PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% else %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endif %}{% endfor %}Assistant:"
)
PLAIN_STOPS = ("\nUser:", "\nAssistant:")

Said = Sequence[dict[str, Any]]


class ChatTemplate:
    """`tokenizer` is transformers' own, or a processor that has a template too. `signs`: what
    stands for a picture, and is not to be typed either."""

    def __init__(self, tokenizer: Any, card: ModelCard, signs: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        own = getattr(tokenizer, "chat_template", None)
        self._template = card.chat_template or (None if own else PLAIN)
        never = special_token_texts(getattr(tokenizer, "tokenizer", tokenizer)) | set(signs)
        self._apart = SpecialTokenEscaper(never)
        # A model's own words may hold such signs for its template, as `</think>` ends its thoughts.
        self._typed_apart = SpecialTokenEscaper(never | _signs_of(self._template or own))

    @property
    def is_plain(self) -> bool:
        """Whether there was no template, so that turns are told apart by names alone."""
        return self._template == PLAIN

    @property
    def stop_words(self) -> tuple[str, ...]:
        """What shows that the model goes on with the person's part."""
        return PLAIN_STOPS if self.is_plain else ()

    def escaped(self, text: str) -> str:
        """`text` as a prompt has it: with nothing in it that would make a control token."""
        return self._apart(text)

    def text(self, system: str, said: Said) -> str:
        """The prompt. A template that refuses a system message gets it in the first turn."""
        said, system = [self._as_text(turn) for turn in said], self._apart(system)
        if not system:
            return self._applied(said)
        content = said[0]["content"]
        opening: Any = system
        first: Any = f"{system}\n\n{content}"
        if not isinstance(content, str):  # a list of parts
            opening = [{"type": "text", "text": system}]
            first = [{"type": "text", "text": f"{system}\n\n"}, *content]
        try:
            return self._applied([{"role": "system", "content": opening}, *said])
        except TemplateError:
            return self._applied([{**said[0], "content": first}, *said[1:]])

    def _as_text(self, turn: dict[str, Any]) -> dict[str, Any]:
        apart, content = self._apart, turn["content"]
        if turn["role"] == "user":
            apart = self._typed_apart
        if isinstance(content, str):
            return {**turn, "content": apart(content)}
        parts = [{**p, "text": apart(p["text"])} if "text" in p else p for p in content]
        return {**turn, "content": parts}

    def _applied(self, said: Said) -> str:
        told: str = self._tokenizer.apply_chat_template(
            list(said), chat_template=self._template, add_generation_prompt=True, tokenize=False
        )
        return told


def missing_template_notice(card: ModelCard) -> Notice:
    """For a reply of a model that has no template."""
    return Notice(
        f"{card.title} has no chat template, so it read this conversation as lines that begin with "
        "“User:” and “Assistant:”. A model that was not taught to chat often answers beside the "
        "point; if it was, write its template into its card as 'chat_template'."
    )


def _signs_of(template: Any) -> set[str]:
    """Some tokenizers have several templates, each by its name."""
    several = template.values() if isinstance(template, dict) else [template]
    return set().union(*map(template_token_texts, several))
