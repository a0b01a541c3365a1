"""The real modules of every engine that runs on PyTorch, as its own `load` makes them: what they
hold is counted, and they leave for a mirror and come back the same. The CPU stands in for the
device; `test_card` does it on a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_memory import CardOnCpu
from tiny_engines import CASES, ENGINES, WHISPER, answer, modules_of
from torch import nn
from whisper.model import Whisper

from multimodal.backends.base import load
from multimodal.backends.speech.openai_whisper import whisper_in_half
from multimodal.memory.devices.mirror import Mirror
from multimodal.memory.devices.storages import slots, true_bytes

CPU = torch.device("cpu")


def contents(modules: list[nn.Module]) -> list[torch.Tensor]:
    return [slot.tensor.clone() for module in modules for slot in slots(module)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_an_engine_loads_is_counted_and_comes_back_from_its_mirror(
    name: str, kind: str, tmp_path: Path
) -> None:
    backend = load(ENGINES[name].make(tmp_path, kind), tmp_path, "cpu")
    modules = modules_of(backend)
    parameters = {id(p): p for module in modules for p in module.parameters()}.values()
    held = sum(true_bytes(module) for module in modules)
    assert held >= 0.99 * sum(p.nbytes for p in parameters) > 0
    before = contents(modules)
    mirrors = [Mirror(module, CPU) for module in modules]
    for mirror in mirrors:
        mirror.evict()
        mirror.restore()
    after = contents(modules)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert sum(true_bytes(module) for module in modules) <= sum(m.size_bytes for m in mirrors)
    backend.close()


# On a CPU, bitsandbytes packs 4-bit weights anew as they are used; a mirror never runs there.
UNCHANGED = [(name, ENGINES[name].kinds[0]) for name in ENGINES]


@pytest.mark.parametrize(("name", "kind"), UNCHANGED)
def test_an_engine_answers_the_same_after_it_was_evicted(
    name: str, kind: str, tmp_path: Path, speech: Any
) -> None:
    engine = ENGINES[name]
    backend = load(engine.make(tmp_path, kind), tmp_path, "cpu")
    before = answer(backend, engine.asks, speech)
    mirrors = [Mirror(module, CPU) for module in modules_of(backend)]
    for mirror in mirrors:
        mirror.evict()
        mirror.restore()
    assert answer(backend, engine.asks, speech) == before
    assert before
    backend.close()


def test_a_card_counts_what_it_is_handed_before_it_mirrors_it(tmp_path: Path) -> None:
    """As `Cuda` does with every model that was just loaded; without room for a mirror here."""
    device = CardOnCpu(0)
    backend = load(ENGINES["openai_whisper"].make(tmp_path, "fp32"), tmp_path, "cpu")
    (model,) = modules_of(backend)
    dense = [buffer for buffer in model.buffers() if not buffer.is_sparse]
    assert len(dense) < len(list(model.buffers())), "Whisper's alignment heads are sparse"
    assert device.loaded("whisper", backend) == sum(
        tensor.nbytes for tensor in (*model.parameters(), *dense)
    )


def test_whisper_computes_in_half_as_on_a_card() -> None:
    """Its layers that normalise take no weights of 16 bits."""
    torch.manual_seed(0)
    model = Whisper(WHISPER).eval()
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)
    sound_seen, tokens = torch.randn(1, 80, 3000), torch.arange(50)[None]
    with torch.no_grad():
        full = model(sound_seen, tokens)
        half = whisper_in_half(model)(sound_seen.half(), tokens)
    assert torch.allclose(half, full, atol=0.05 * float(full.abs().max()))
    wide = [name for name, p in model.named_parameters() if p.dtype == torch.float32]
    assert wide
    assert all("_ln." in name or ".ln" in name for name in wide)
