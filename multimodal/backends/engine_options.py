"""Options under `engine` in a card, read when the model is loaded."""

from __future__ import annotations

from multimodal.catalog.cards import ModelCard
from multimodal.errors import CardError


def whole_number(card: ModelCard, name: str, default: int, least: int = 0) -> int:
    """The option `name`, `default` unless given. Raises CardError for anything but a whole number
    of at least `least`."""
    value = card.engine.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise CardError(
            f"{card.name}: engine.{name} is {value!r}; write a whole number of at least {least}, "
            "or leave it out"
        )
    return value
