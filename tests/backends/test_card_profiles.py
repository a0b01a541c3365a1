"""The models that every profile for a card begins with load, answer, leave and come back through
the class that uses a card, with the CPU behind it: tiny checkpoints of the same architectures and
engines. `test_card` does the same on a card."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from small_memory import CardOnCpu
from tiny_engines import ENGINES, answer

from multimodal.backends.base import Backend, load
from multimodal.backends.compute_device import runs_on_cpu
from multimodal.catalog.architectures import ModulesArchitecture
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.manager import MemoryManager
from multimodal.memory.transfers import ReportProgress

PROFILES = ("gpu-8gb", "gpu-12gb", "gpu-24gb")
TINY = {
    "AutoModelForCausalLM": "causal_lm mistral",
    "LlavaForConditionalGeneration": "image_text llava",
    "AutoModelForImageTextToText": "image_text llava",
    "Whisper": "openai_whisper",
    "StableDiffusionPipeline": "diffusion sd",
}


class FullCard(CardOnCpu):
    """A card of so many bytes, of which what was loaded is taken."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes * 10)
        self.size_bytes = size_bytes
        self.held: dict[str, int] = {}

    def capacity_bytes(self) -> int:
        return self.size_bytes

    def usable_bytes(self) -> int:
        return self.size_bytes

    def free_bytes(self) -> int:
        return self.size_bytes - sum(self.held.values())

    def set_limit(self, budget_bytes: int) -> None:
        """The books alone keep it."""

    def begin_load(self, card: str, size_bytes: int, parked: bool = False) -> None:
        super().begin_load(card, size_bytes, parked)
        self.held[card] = size_bytes

    def remove(self, card: str) -> None:
        self.held.pop(card, None)

    def reset_turn_peak(self) -> None:
        """Nothing is measured on the CPU."""

    def turn_peak_bytes(self) -> int:
        return 0


class TinySource:
    """Checkpoints that were saved before, by the names of their cards."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.loaded: list[str] = []

    def fetch(self, card: ModelCard, report: ReportProgress) -> Path:
        return self.folders[card.name]

    def load(self, card: ModelCard, files: Path, engine: str) -> Backend:
        assert engine == "cuda", "the manager asks for the card"
        self.loaded.append(card.name)
        return load(card, files, "cpu")


def tiny_of(card: ModelCard) -> str:
    """The tiny engine of the same family and architecture."""
    assert isinstance(card.architecture, ModulesArchitecture)
    parts = {part.model for part in card.architecture.parts.values()}
    if card.family == "diffusion":
        kinds = {"sdxl"} if "CLIPTextModelWithProjection" in parts else {"sd"}
        return f"diffusion {kinds.pop()}"
    (model,) = parts
    return TINY[model]


@pytest.mark.parametrize("name", PROFILES)
def test_what_a_profile_for_a_card_begins_with_answers_leaves_and_comes_back(
    name: str, catalog: Catalog, tmp_path: Path, speech: Any
) -> None:
    profile = catalog.profile(name)
    real = [catalog.card(card) for card in profile.defaults]
    cards: list[ModelCard] = []
    asks: dict[str, str] = {}
    folders: dict[str, Path] = {}
    for card in (card for card in real if not runs_on_cpu(card)):
        engine = ENGINES[tiny_of(card)]
        folder = tmp_path / card.task
        folder.mkdir()
        made = engine.make(folder, engine.kinds[0])
        assert made.family == card.family
        cards.append(made.model_copy(update={"name": card.task}))
        asks[card.task], folders[card.task] = engine.asks, folder
    assert len(cards) == 4, "text, pictures, speech and drawing"

    most = max(footprint(card).total for card in cards)
    device, source = FullCard(most), TinySource(folders)
    memory: MemoryManager[Backend] = MemoryManager(device, most, source)
    answers: dict[str, list[list[str]]] = {card.name: [] for card in cards}
    for _ in range(2):
        for card in cards:
            with memory.lease(card, threading.Event()) as lease:
                for _event in lease.wait():
                    pass
                answers[card.name].append(answer(lease.backend, asks[card.name], speech))
            assert memory.snapshot().used_bytes <= most
    hows = [decision.how for decision in memory.snapshot().decisions]
    assert hows.count("restored") >= 3, "they took turns, and came back from their mirrors"
    assert len(source.loaded) == len(cards), "nothing was read from the disk twice"
    for said in answers.values():
        assert said[0]
        assert said[1] == said[0]
    memory.close()
