"""The models of a conversation in speech, brought into memory before it begins: one that swapped
them between two sentences would leave a person waiting."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence

from multimodal.backends.base import Backend
from multimodal.catalog.cards import ModelCard
from multimodal.errors import CapacityError, DeviceFullError
from multimodal.events import EngineEvent
from multimodal.memory.estimate.factors import ESTIMATE, PeakFactors
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.manager import MemoryManager
from multimodal.requests import TTSRequest
from multimodal.sizes import gigabytes
from multimodal.turn.assistant import Assistant

REHEARSAL = "1"
"""Is pronounced in every language."""


def needed_bytes(cards: Sequence[ModelCard], factors: PeakFactors = ESTIMATE) -> int:
    """What all of them take at once while each of them works, on a device of those `factors`."""
    return sum(footprint(card, factors=factors).total for card in cards)


def check_room(memory: MemoryManager[Backend], cards: Sequence[ModelCard]) -> None:
    """Raise CapacityError where a budget, of the card or of host memory beside it, does not hold
    at once those that are kept under it; nothing is loaded or evicted."""
    for is_on_host in (False, True):
        there = [card for card in cards if memory.is_on_host(card) is is_on_host]
        needed = needed_bytes(there, memory.device.factors)
        if there and needed > (budget := memory.budget_for(there[0])):
            titles = ", ".join(card.title for card in there)
            of = " of host memory" if is_on_host else ""
            more = "" if is_on_host else ", or start with a larger --budget"
            raise CapacityError(
                f"To talk hands-free, {titles} must be in memory at once: {gigabytes(needed)}, and "
                f"the budget{of} is {gigabytes(budget)}. Choose a smaller model{more}."
            )


def load_together(
    memory: MemoryManager[Backend], cards: Sequence[ModelCard], stop: threading.Event
) -> Generator[EngineEvent, None, None]:
    """Bring them in, with progress. Raises the errors of a lease, and DeviceFullError where one
    had to leave for another."""
    for card in cards:
        with memory.lease(card, stop) as lease:
            yield from lease.wait()
    ready = {held.card for held in memory.snapshot().held if held.state == "ready"}
    for card in cards:
        if card.name not in ready:
            raise DeviceFullError(
                f"{card.title} had to leave memory for the others. Close other programs, or choose "
                "a smaller model."
            )


def warm_up(assistant: Assistant, voice: ModelCard, language: str, stop: threading.Event) -> None:
    """Say a word that nobody hears: a voice reads its dictionary of pronunciation at its first one.
    Raises the errors of `Assistant.speak`."""
    for _ in assistant.speak(TTSRequest(REHEARSAL, language), voice.name, stop):
        pass
