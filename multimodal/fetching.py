"""Fetching weights as the terminal and the page show it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from multimodal.catalog.cards import ModelCard
from multimodal.errors import MultimodalError
from multimodal.weights import FetchProgress, Weights

Show = Callable[[FetchProgress], None]
Announce = Callable[[str], None]


def say_nothing(_news: object) -> None:
    """For callers without a terminal."""


@dataclass
class Fetching:
    """What is fetched now, how far each card is, or why it failed; read by the page."""

    progress: dict[str, FetchProgress] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def fetch_all(
        self,
        weights: Weights,
        cards: Iterable[ModelCard],
        show: Show = say_nothing,
        announce: Announce = say_nothing,
    ) -> None:
        """Fetch what is not there yet, one card after another; never raises. Failures are kept in
        `errors`, and met again, as an error, by the turn that needs the model."""
        for card in [card for card in cards if not weights.is_ready(card)]:
            try:
                self.fetch(weights, card, show, announce, self.stop)
            except MultimodalError as error:
                self.errors[card.name] = str(error)

    def fetch(
        self,
        weights: Weights,
        card: ModelCard,
        show: Show,
        announce: Announce,
        stop: threading.Event,
    ) -> None:
        """Fetch one card; before anything of it comes, `announce` is told its licence and size.

        Raises WeightsError, and TurnStoppedError soon after `stop` was set.
        """
        announced = False

        def tell(progress: FetchProgress) -> None:
            nonlocal announced
            self.progress[card.name] = progress
            if progress.phase == "fetching" and not announced:
                announced = True
                announce(download_terms(card, progress.total_bytes))
            show(progress)

        try:
            weights.ensure(card, tell, stop)
        finally:
            self.progress.pop(card.name, None)


def download_terms(card: ModelCard, size_bytes: int) -> str:
    """“SmolLM2 135M: Apache-2.0, 93 MB”: what a person agrees to by fetching it."""
    return f"{card.title}: {card.license}, {size_bytes / 1e6:,.0f} MB"


def progress_text(card: ModelCard, progress: FetchProgress) -> str:
    """“Fetching SmolLM2 135M (Apache-2.0): 40 of 93 MB”, and behind it what happened on the way."""
    verb = {
        "waiting": "Waiting to fetch",
        "fetching": "Fetching",
        "verifying": "Checking",
        "unpacking": "Unpacking",
        "ready": "Ready:",
    }[progress.phase]
    text = f"{verb} {card.title} ({card.license})"
    if progress.total_bytes:
        done, total = progress.done_bytes / 1e6, progress.total_bytes / 1e6
        text += f": {done:.0f} of {total:.0f} MB"
    return f"{text}; {progress.note}" if progress.note else text


def progress_fraction(progress: FetchProgress) -> float | None:
    return progress.done_bytes / progress.total_bytes if progress.total_bytes else None
