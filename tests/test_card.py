"""What only a card shows: every engine's real modules, loaded onto it by the program's own code,
leave for host memory and come back by its own streams. Run on a machine with an NVIDIA card by

    MULTIMODAL_TEST_CARD=1 pytest tests/test_card.py
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import wait_until
from own_models import write_profile
from PIL import Image
from tiny_engines import CASES, ENGINES, answer, modules_of
from tiny_models import add_model, save_causal
from tiny_seeing import save_llava

from multimodal.backends.base import Backend, load
from multimodal.backends.probes import PROBES
from multimodal.build import build
from multimodal.calibrate import calibrate
from multimodal.catalog.cards import ModelCard
from multimodal.chats.service import Chats
from multimodal.memory.devices.base import CUDA_CONTEXT_BYTES
from multimodal.memory.devices.cuda import Cuda, load_calibration
from multimodal.memory.devices.host_slabs import CudaPageLocks
from multimodal.memory.devices.mirror import HostMirror
from multimodal.memory.devices.storages import storage_bytes
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.headroom import model_bytes
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Controls
from multimodal.settings import read_settings

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a card, and MULTIMODAL_TEST_CARD=1"
)
CACHED = ("causal_lm mistral", "nf4-double")


@pytest.fixture(scope="module")
def device() -> Iterator[Cuda]:
    found = Cuda()
    yield found
    found.free_cached()


def settled_answer(backend: Backend, asks: str, speech: Any) -> list[str]:
    """The second answer: from then on, the prompt is there already. A card computes many words at
    once by other kernels than a few, and random weights let the last bit decide."""
    assert answer(backend, asks, speech)
    return answer(backend, asks, speech)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_engine_answers_the_same_after_it_left_the_card(
    name: str, kind: str, tmp_path: Path, device: Cuda, speech: Any
) -> None:
    engine = ENGINES[name]
    backend = load(engine.make(tmp_path, kind), tmp_path, "cuda")
    before = settled_answer(backend, engine.asks, speech)
    held = device.finish_load("tiny", backend)
    assert held == sum(storage_bytes(module) for module in modules_of(backend)) > 0
    for _ in range(3):
        assert device.park("tiny", backend) >= held
        device.restore("tiny", backend)
        assert answer(backend, engine.asks, speech) == before
    backend.close()
    device.drop_mirror("tiny")


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_engine_answers_the_same_with_layers_that_only_visit(
    name: str, kind: str, tmp_path: Path, speech: Any
) -> None:
    engine = ENGINES[name]
    backend = load(engine.make(tmp_path, kind), tmp_path, "cuda")
    before = settled_answer(backend, engine.asks, speech)
    mirrors = [
        HostMirror(module, torch.device("cuda", 0), CudaPageLocks(torch.device("cuda", 0)))
        for module in modules_of(backend)
    ]
    for mirror in mirrors:
        mirror.evict()
        mirror.restore(0)
    assert answer(backend, engine.asks, speech) == before
    for mirror in mirrors:
        mirror.evict()
        mirror.restore()
    assert answer(backend, engine.asks, speech) == before
    backend.close()


def test_an_engine_computes_in_one_thread_until_it_is_closed(tmp_path: Path, speech: Any) -> None:
    before = set(threading.enumerate())
    engine = ENGINES["seamless"]
    backend = load(engine.make(tmp_path, "bf16"), tmp_path, "cuda")
    used = []
    for _ in range(3):
        assert answer(backend, engine.asks, speech)
        used.append({one for one in threading.enumerate() if one.name == "engine"} - before)
    assert len(used[0]) == 1
    assert used == [used[0]] * 3
    backend.close()
    wait_until(lambda: used[0].isdisjoint(threading.enumerate()))


def test_leaving_gives_the_memory_back(tmp_path: Path, device: Cuda) -> None:
    device.free_cached()
    empty = torch.cuda.memory_allocated()
    backend = load(ENGINES["seamless"].make(tmp_path, "bf16"), tmp_path, "cuda")
    device.finish_load("tiny", backend)
    loaded = torch.cuda.memory_allocated() - empty
    assert loaded > 0
    device.park("tiny", backend)
    assert torch.cuda.memory_allocated() - empty <= 0.01 * loaded
    backend.close()
    device.drop_mirror("tiny")


class _Folders:
    """The manager's source of tiny models: one folder each, named after its card."""

    def __init__(self, files: Path) -> None:
        self._files = files

    def fetch(self, card: ModelCard, report: Any) -> Path:
        return self._files / card.name

    def load(self, card: ModelCard, files: Path, engine: str) -> Backend:
        return load(card, files, engine)


class Unlimited(Cuda):
    """A card whose kernels may take more than the small budget of its models."""

    def set_limit(self, budget_bytes: int) -> None:
        super().set_limit(self.capacity_bytes())


def test_the_manager_swaps_two_models_on_the_card(tmp_path: Path) -> None:
    """By its own leases, under a budget that holds one of them."""
    name, kind = CACHED
    cards = {}
    for called in ("one", "two"):
        (tmp_path / called).mkdir()
        card = ENGINES[name].make(tmp_path / called, kind)
        cards[called] = card.model_copy(update={"name": called, "title": called})
    device = Unlimited()
    budget = round(1.7 * footprint(cards["one"]).resident)
    manager: MemoryManager[Backend] = MemoryManager(device, budget, _Folders(tmp_path))
    said: dict[str, list[str]] = {"one": [], "two": []}
    for _ in range(4):
        for called, card in cards.items():
            with manager.lease(card, threading.Event(), 0) as lease:
                for _step in lease.wait():
                    pass
                said[called] += [str(answer(lease.backend, "text", None))]
    assert [len(set(answers[1:])) for answers in said.values()] == [1, 1]
    decided = manager.snapshot().decisions
    assert [d.how for d in decided] == ["loaded"] * 2 + ["restored"] * 6
    assert all(d.victims for d in decided[1:])
    assert all(d.seconds > 0 for d in decided)
    manager.close()
    assert manager.snapshot().mirrored == ()


def save_program(data: Path) -> None:
    """A data folder with a model that talks and one that sees, and a profile of them for a card."""
    models = data / "models"
    for name, task, make, more in (
        ("talker", "text-generation", partial(save_causal, family="mistral"), {}),
        ("seer", "image-to-text", save_llava, {"converses": True}),
    ):
        config = make(data / name)
        seen = task == "image-to-text"
        add_model(
            models,
            name,
            task,
            data / name,
            family="image_text" if seen else "causal_lm",
            model="AutoModelForImageTextToText" if seen else "AutoModelForCausalLM",
            config=config,
            quantization=["nf4-double"],
            **more,
        )
    offers = {"text-generation": ["talker"], "image-to-text": ["seer"]}
    write_profile(models, "one-card", offers, device="cuda", budget="4GB")


def test_the_whole_program_answers_on_the_card(tmp_path: Path) -> None:
    """Built as the page builds it: the card is found, and the budget is kept from what it has."""
    save_program(tmp_path)
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    program = build(read_settings(data=tmp_path, profile="one-card"))
    chats = Chats(program.store, program.media, program.assistant)
    models = []
    for pictures in ([], [(tmp_path / "red.png", "red.png")], []):
        talk = program.store.create("ann")
        chats.open("ann", talk).say("What colour is the car?", pictures)
        *_, last = chats.open("ann", talk).answer(threading.Event(), Controls())
        assert last.reply.outcome is not None
        assert last.reply.outcome.error is None, last.reply.outcome.error
        assert last.reply.text
        models += [timing.card for timing in last.reply.outcome.timings]
    assert models == ["talker", "seer", "talker"]
    snapshot = program.memory.snapshot()
    assert snapshot.device == torch.cuda.get_device_name()
    assert not snapshot.simulated
    assert snapshot.budget_bytes == 4_000_000_000 - CUDA_CONTEXT_BYTES
    assert {held.card for held in snapshot.held} == {"talker", "seer"}
    program.close()


def test_the_card_is_measured_and_planned_with(tmp_path: Path) -> None:
    found = calibrate(read_settings(data=tmp_path), lambda name, probe: None)
    assert {name: probe.error for name, probe in found.probes.items()} == dict.fromkeys(PROBES, "")
    assert found.context_bytes is not None
    assert 100_000_000 < found.context_bytes < 2_000_000_000
    assert found.bus_bytes_per_s is not None
    known = load_calibration(tmp_path)
    assert known == found
    device = Cuda(calibration=known)
    assert device.context_bytes == found.context_bytes
    assert device.bus_bytes_per_s() == found.bus_bytes_per_s
    assert model_bytes(4_000_000_000, device) == 4_000_000_000 - found.context_bytes
