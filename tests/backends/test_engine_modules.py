"""Modules of engines as a card holds them. `test_contract` has what is true of every engine."""

from __future__ import annotations

from pathlib import Path

import torch
from small_memory import CardOnCpu
from tiny_engines import ENGINES, WHISPER, modules_of
from whisper.model import Whisper

from multimodal.backends.base import load
from multimodal.backends.speech.openai_whisper import whisper_in_half


def test_a_card_counts_what_it_is_handed_before_it_mirrors_it(tmp_path: Path) -> None:
    """As `Cuda` does with every model that was just loaded; without room for a mirror here."""
    device = CardOnCpu(0)
    backend = load(ENGINES["openai_whisper"].make(tmp_path, "fp32"), tmp_path, "cpu")
    (model,) = modules_of(backend)
    dense = [buffer for buffer in model.buffers() if not buffer.is_sparse]
    assert len(dense) < len(list(model.buffers())), "Whisper's alignment heads are sparse"
    assert device.finish_load("whisper", backend) == sum(
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
