"""What a card may ask of transformers' `generate` under `engine`, by the library's own names.

- `prompt_lookup_num_tokens`: where the reply repeats two tokens of the conversation, guess so many
  of those that followed there and check them in one pass (prompt lookup decoding, A. Saxena, 2023).
  Used for replies at temperature 0 that look at no picture. The library starts it on an empty
  cache only, so nothing is kept between turns, and a prompt is read at once: a stop takes effect
  behind it, and it takes memory as a whole.
- `cache_implementation`: "dynamic", which grows with the conversation, or "static", of a fixed
  size, for which the library compiles the model's step where it can: on a card, without
  quantization.

Neither is on unless the card asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from transformers import GenerationMixin

from multimodal.backends.engine_options import whole_number
from multimodal.backends.hf.prefix_cache import PROMPT_CACHE_MIB, can_be_kept, empty_cache
from multimodal.catalog.cards import ModelCard
from multimodal.errors import CardError

CacheImplementation = Literal["dynamic", "static"]
LOOKUP, CACHE = "prompt_lookup_num_tokens", "cache_implementation"
REPLACED = {"prompt_lookup": LOOKUP, "static_cache": CACHE, "compile": CACHE}


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """`prompt_lookup_num_tokens`: 0 for none."""

    prompt_lookup_num_tokens: int = 0
    cache_implementation: CacheImplementation = "dynamic"

    @property
    def is_static(self) -> bool:
        return self.cache_implementation == "static"


def decoding_options(card: ModelCard, model: Any) -> DecodingOptions:
    """What `card` asks for. Raises CardError for what transformers does not do with `model`."""
    engine = card.engine
    for old, new in REPLACED.items():
        if old in engine:
            raise CardError(
                f"{card.name}: there is no engine option '{old}'; did you mean '{new}'?"
            )
    lookup, cache = engine.get(LOOKUP, 0), str(engine.get(CACHE, "dynamic"))
    if isinstance(lookup, bool) or not isinstance(lookup, int) or lookup < 0:
        raise CardError(f"{card.name}: '{LOOKUP}' is a number of tokens, such as 10, or 0 for none")
    if cache not in get_args(CacheImplementation):
        known = ", ".join(get_args(CacheImplementation))
        raise CardError(f"{card.name}: there is no {CACHE} '{cache}' here. Known: {known}.")
    options = DecodingOptions(lookup, cast(CacheImplementation, cache))
    if (lookup or options.is_static) and not accepts_cache(model):
        raise CardError(
            f"{card.name}: leave '{LOOKUP}' and '{CACHE}' out of 'engine': "
            f"{type(model).__name__} makes its cache itself"
        )
    if lookup:
        _check_lookup(card, options, engine)
    return options


def accepts_cache(model: Any) -> bool:
    """Whether `generate` continues a cache that it is given, of a kind that can be cut."""
    own = type(model).generate is not GenerationMixin.generate
    return not own and can_be_kept(empty_cache(model))


def _check_lookup(
    card: ModelCard, options: DecodingOptions, engine: Mapping[str, str | int | float | bool]
) -> None:
    if options.is_static:
        raise CardError(
            f"{card.name}: '{LOOKUP}' needs a cache that can be cut, and a static one cannot be; "
            "leave one of the two out of 'engine'"
        )
    if whole_number(card, "prompt_cache_mib", PROMPT_CACHE_MIB):
        raise CardError(
            f"{card.name}: with '{LOOKUP}' nothing can be kept between turns; "
            "write 'prompt_cache_mib = 0' beside it, or leave it out of 'engine'"
        )
