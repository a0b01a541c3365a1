"""Control tokens of a GGUF model, escaped where somebody writes them.

llama.cpp makes a control token of every `<|im_end|>`, whoever wrote it. The file's header lists
them; reading it takes a second or two, so it is read when a text first holds anything that looks
like one.
"""

from __future__ import annotations

import mmap
import re
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from gguf import GGUFReader, TokenType

from multimodal.backends.special_tokens import SpecialTokenEscaper, template_token_texts

TYPES, TOKENS, TEMPLATE = (
    f"tokenizer.{name}" for name in ("ggml.token_type", "ggml.tokens", "chat_template")
)
SUSPICIOUS = re.compile(r"[<\[\]|\uff5c\u2581]")
"""Every control token that is known of any model has one of these: brackets, bars (full-width too),
and the mark that stands for a space."""


HEADER_BYTES = 1 << 26
"""More than the header of any model has, whose largest piece is the vocabulary."""


class GgufTokenEscaper:
    """Of the model in the file `path`; `chat_template`: the card's own, if it has one."""

    def __init__(self, path: Path, chat_template: str = "") -> None:
        self._path = path
        self._chat_template = chat_template
        self._reading = threading.Lock()

    def escape(self, text: str, is_typed: bool) -> str:
        """`text` with every control token in it broken up, so that it is read as its characters.
        In what a person typed those are broken up too that the chat template writes; a model's own
        words may hold them, as `</think>` ends its thoughts."""
        if not SUSPICIOUS.search(text):
            return text
        with self._reading:
            anybody, person = self._read
        return person(text) if is_typed else anybody(text)

    @cached_property
    def has_template(self) -> bool:
        """Whether the card or the file says how a conversation is written. The name is looked for
        as it is: reading the header would take a second or two."""
        if self._chat_template:
            return True
        with (
            self._path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return data.find(TEMPLATE.encode(), 0, HEADER_BYTES) >= 0

    @cached_property
    def _read(self) -> tuple[Callable[[str], str], Callable[[str], str]]:
        reader = GGUFReader(self._path)
        types, tokens, own = (reader.get_field(name) for name in (TYPES, TOKENS, TEMPLATE))
        control: set[str] = set()
        if types is not None and tokens is not None:
            places = (at for at, kind in enumerate(types.contents()) if kind == TokenType.CONTROL)
            control = {str(tokens.contents(place)) for place in places}
        template = self._chat_template or (str(own.contents()) if own is not None else "")
        return SpecialTokenEscaper(control), SpecialTokenEscaper(
            control | template_token_texts(template)
        )
