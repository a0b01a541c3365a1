"""What is measured of a card by models that run on it, beside what `memory/calibration/probes.py`
measures of it alone. The models have random weights, and the size that matters.

Run as a module, with the names of the probes, it writes one line of JSON after each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from multimodal.backends.registry import FAMILIES, import_object
from multimodal.catalog.architectures import ModelPart
from multimodal.memory.calibration.probes import PROBES as CARD_PROBES
from multimodal.memory.calibration.probes import TOKENS, Measurements, run
from multimodal.memory.devices.kernels import pack_layer
from multimodal.memory.estimate.activation import traced_bytes
from multimodal.memory.estimate.modules import build_meta_module, instantiate_module

MODULE = "multimodal.backends.probes"
"""This one, also where it is the main one of its process."""
DECODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
}
"""Stable Diffusion's decoder, of which only the size matters here."""

HEARING = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 768,
    "n_audio_head": 12,
    "n_audio_layer": 12,
    "n_vocab": 51_865,
    "n_text_ctx": 448,
    "n_text_state": 768,
    "n_text_head": 12,
    "n_text_layer": 12,
}
"""Whisper small."""
SEEING = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""CLIP's ViT-L/14 for 336 pixels."""
WRITING = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
}
"""Layers as they are in models of one to three thousand million parameters, four of them."""
NEW_TOKENS = 32
GUESSES = 10


def measure_image_decoder(
    side: int, device: torch.device, sizes: Mapping[str, Any] = DECODER
) -> Measurements:
    """The last step towards a picture of that many pixels a side."""
    part = ModelPart(library="diffusers", model="AutoencoderKL", config=sizes)
    return _peak(part, "diffusion", device, side)


def measure_speech_recognition(
    device: torch.device, dims: Mapping[str, int] = HEARING
) -> Measurements:
    """Half a minute of sound by Whisper, of a size that the card profiles begin with."""
    part = ModelPart(library="whisper", model="Whisper", config=dims)
    return _peak(part, "openai_whisper", device)


def measure_image_encoder(device: torch.device, sizes: Mapping[str, int] = SEEING) -> Measurements:
    """One picture, by what LLaVA sees with."""
    part = ModelPart(library="transformers", model="CLIPVisionModel", config=sizes)
    return _peak(part, "image_text", device)


def measure_token_decoding(
    device: torch.device, sizes: Mapping[str, int] = WRITING
) -> Measurements:
    """Tokens a second of a small model in nf4 with each of the library's caches, and how long
    checking several guessed tokens takes beside one: what looking guesses up in the prompt costs
    when they are wrong."""
    model = _text_model(device, sizes)
    ids = torch.arange(TOKENS, device=device)[None] % int(sizes["vocab_size"])
    found = {
        f"{kind}_tokens_per_s": _tokens_per_s(model, ids, kind) for kind in ("dynamic", "static")
    }
    for name, tokens in (("one_token", 1), ("guesses", 1 + GUESSES)):
        found[f"{name}_s"] = _reading_s(model, ids, tokens)
    return found


PROBES: dict[str, Callable[[torch.device], Measurements]] = {
    **CARD_PROBES,
    "decoder 512": lambda device: measure_image_decoder(512, device),
    "decoder 1024": lambda device: measure_image_decoder(1024, device),
    "hearing": measure_speech_recognition,
    "seeing": measure_image_encoder,
    "decoding": measure_token_decoding,
}


# ------------------------------------------------------------ what they need


def _peak(
    part: ModelPart, family: str, device: torch.device, side: int | None = None
) -> Measurements:
    """What one turn of a model of that family, with random weights in fp16, takes on `device`
    beside them, what is counted for it on the meta device, and how long it takes."""
    passes: Any = import_object(FAMILIES[family].forward_passes)
    counted = max(traced_bytes(passes, build_meta_module(part), TOKENS, side).values())
    with device:
        module = instantiate_module(part).eval().requires_grad_(False)
    if family == "openai_whisper":
        from multimodal.backends.speech.openai_whisper import whisper_in_half

        module = whisper_in_half(module)
    else:
        module = module.half()
    (forward,) = passes(module, TOKENS, side)
    with torch.no_grad():
        forward.run()
        _finish(device)
        before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        started_s = time.perf_counter()
        forward.run()
        _finish(device)
    seconds = time.perf_counter() - started_s
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    return {"peak_bytes": peak, "counted_bytes": counted, "turn_s": seconds}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _text_model(device: torch.device, sizes: Mapping[str, int]) -> Any:
    """A text model with random weights in nf4."""
    config = {"model_type": "llama", **sizes}
    with device:
        model: Any = instantiate_module(
            ModelPart(library="transformers", model="LlamaForCausalLM", config=config)
        )
    model.half().eval().requires_grad_(False)
    decoder = model.get_decoder()
    for path, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, name = path.rpartition(".")
            setattr(decoder.get_submodule(parent), name, pack_layer(layer, "nf4").to(device))
    model.generation_config.eos_token_id = None
    return model


def _tokens_per_s(model: Any, ids: torch.Tensor, cache: str) -> float:
    """Of `generate`, after a first time, in which kernels are loaded."""
    seconds = 0.0
    for _ in range(2):
        _finish(ids.device)
        started_s = time.perf_counter()
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            cache_implementation=cache,
            disable_compile=True,
        )
        _finish(ids.device)
        seconds = time.perf_counter() - started_s
    return NEW_TOKENS / seconds


def _reading_s(model: Any, ids: torch.Tensor, tokens: int) -> float:
    """The shortest of several passes over so many tokens."""
    found = []
    with torch.no_grad():
        for _ in range(6):
            _finish(ids.device)
            started_s = time.perf_counter()
            model(input_ids=ids[:, :tokens], use_cache=False)
            _finish(ids.device)
            found.append(time.perf_counter() - started_s)
    return min(found[1:])


if __name__ == "__main__":
    run(PROBES, sys.argv[1:])
