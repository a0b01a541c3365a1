"""Which models a person chooses among: those of the profile, then what was fine-tuned here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from multimodal.backends.registry import find_family
from multimodal.catalog.cards import Catalog, ModelCard, ModelName, Profile, truncate
from multimodal.errors import UnknownModelError

log = logging.getLogger(__name__)

FindFault = Callable[[ModelCard, ModelCard | None], str | None]
"""Why a fine-tuned model cannot be used as it lies on the disk: the end of a sentence, None where
nothing is wrong. The second card is that of the weights which must be there, since nobody fetches
them: its base, unless the profile offers that; itself where it is no adapter."""


@dataclass(frozen=True, slots=True)
class _Finetuned:
    """What was found out about `cards`, which stays true until one comes or goes. `offered`: those
    that can be used."""

    cards: tuple[ModelCard, ...] = ()
    offered: tuple[ModelCard, ...] = ()
    faults: dict[str, str] = field(default_factory=dict)


class Offer:
    """The offer of one profile of one catalog, as it is at the moment. Thread-safe."""

    def __init__(
        self, catalog: Catalog, profile: Profile, find_fault: FindFault = lambda card, weights: None
    ) -> None:
        self._catalog = catalog
        self._profile = profile
        self._find_fault = find_fault
        self._lock = threading.Lock()
        self._looked = _Finetuned()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """In the order in which they are offered."""
        return (*map(self._catalog.card, self._profile.names), *self._finetuned().offered)

    @property
    def faults(self) -> dict[str, str]:
        """Fine-tuned models that are not offered, by name: why, in a sentence."""
        return dict(self._finetuned().faults)

    def card(self, name: str) -> ModelCard:
        """A card that is offered, in any of its quantizations; a context that the profile made
        shorter stays so. Raises UnknownModelError."""
        offered = {known.base: known.name for known in self.cards}
        asked = ModelName.parse(name)
        if asked.base in offered:
            context = ModelName.parse(offered[asked.base]).context
            return self._catalog.card(str(replace(asked, context=context)))
        if (fault := self.faults.get(asked.base)) is not None:
            raise UnknownModelError(fault)
        raise UnknownModelError(
            f"The profile {self._profile.name} offers no model {truncate(name)!r}. It offers: "
            f"{', '.join(offered.values())}."
        )

    def resident(self, card: ModelCard) -> ModelCard:
        """The card of what must be in memory for `card`: its base, in the same quantization and
        context, where the engine puts an adapter onto a model that is there; else itself."""
        family = find_family(card.family)
        if card.adapter is None or family is None or not family.switches_adapters:
            return card
        return self._catalog.card(str(replace(ModelName.parse(card.name), base=card.weights_name)))

    def _finetuned(self) -> _Finetuned:
        with self._lock:
            if (cards := self._catalog.finetuned) is not self._looked.cards:
                self._looked = self._look(cards)
            return self._looked

    def _look(self, cards: tuple[ModelCard, ...]) -> _Finetuned:
        listed = {ModelName.parse(name).base: name for name in self._profile.names}
        offered, faults = list[ModelCard](), dict[str, str]()
        for card in cards:
            if card.name in listed:
                continue
            if (fault := self._fault(card)) is None:
                offered.append(self._as_offered(card, listed))
            else:
                faults[card.name] = f"{card.title} is not offered: {fault}"
                if faults[card.name] != self._looked.faults.get(card.name):
                    log.warning("%s", faults[card.name])
        return _Finetuned(cards, tuple(offered), faults)

    def _fault(self, card: ModelCard) -> str | None:
        if card.adapter is None:
            return self._find_fault(card, card)
        told = str(card.base_model)
        try:
            base = self._catalog.card(told)
        except UnknownModelError:
            return f"the model that it was made from, '{told}', is not known any more."
        if base.adapter is not None:
            return f"'{told}' is an adapter itself; name the model that it belongs to."
        family = find_family(base.family)
        if family is None or not family.takes_adapters:
            return f"engines of the family '{base.family}' take no adapter."
        is_listed = any(ModelName.parse(name).base == base.base for name in self._profile.names)
        return self._find_fault(card, None if is_listed else base)

    @staticmethod
    def _as_offered(card: ModelCard, listed: dict[str, str]) -> ModelCard:
        """An adapter in the quantization and the context in which the profile offers its base, so
        that both use one model in memory."""
        if card.adapter is None:
            return card
        known = listed.get(card.weights_name, str(card.base_model))
        return card.variant(ModelName.parse(known))
