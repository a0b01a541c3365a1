"""What a card of a chat model on transformers may say under `engine`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from multimodal.backends.engine_options import EngineOptions


class ChatOptions(EngineOptions):
    """The first two by the names of transformers' `generate`; neither is on unless the card asks
    for it."""

    prompt_lookup_num_tokens: int = Field(0, ge=0)
    """Where the reply repeats two tokens of the conversation, guess so many of those that followed
    there and check them in one pass (prompt lookup decoding, A. Saxena, 2023); 0 for none. Used for
    replies at temperature 0 that look at no picture. The library starts it on an empty cache only,
    so nothing is kept between turns, and a prompt is read at once: a stop takes effect behind it,
    and it takes memory as a whole."""
    cache_implementation: Literal["dynamic", "static"] = "dynamic"
    """A cache that is "dynamic" grows with the conversation; a "static" one is of a fixed size, for
    which the library compiles the model's step where it can: on a card, without quantization."""
    prompt_cache_mib: int = Field(2048, ge=0)
    """Of host memory, for what was computed of this model's conversations."""

    @property
    def is_static(self) -> bool:
        return self.cache_implementation == "static"

    @property
    def needs_cache(self) -> bool:
        """Whether `generate` must take a cache that is made here."""
        return self.is_static or self.prompt_lookup_num_tokens > 0

    @model_validator(mode="after")
    def _check_lookup(self) -> Self:
        if self.prompt_lookup_num_tokens and self.is_static:
            raise ValueError(
                "'prompt_lookup_num_tokens' needs a cache that can be cut, and a static one cannot "
                "be; leave one of the two out of 'engine'"
            )
        if self.prompt_lookup_num_tokens and self.prompt_cache_mib:
            raise ValueError(
                "with 'prompt_lookup_num_tokens' nothing can be kept between turns; write "
                "'prompt_cache_mib = 0' beside it, or leave it out of 'engine'"
            )
        return self
