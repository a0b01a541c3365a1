"""Models of full size with random weights, as a card describes them: what moving costs does not
depend on what the weights say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.initialization import no_init_weights
from whisper.model import Whisper

from multimodal.backends.registry import FAMILIES, import_object
from multimodal.backends.speech.openai_whisper import whisper_in_half
from multimodal.catalog.architectures import ModelPart, ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.memory.estimate.modules import instantiate_module, quantizable
from multimodal.memory.transfers import ReportProgress

SPREAD = 0.02


class RandomModel:
    """A backend that knows how to be moved and how to run once."""

    def __init__(self, card: ModelCard, device: str) -> None:
        shape = card.architecture
        if not isinstance(shape, ModulesArchitecture):
            raise BackendError(f"{card.name}: not made of PyTorch modules")
        kind = card.quantization[0]
        self._passes: Any = import_object(FAMILIES[card.family].forward_passes)
        self._side = shape.picture_side
        self._parts = [random_module(part, kind, device) for part in shape.parts.values()]

    def modules(self) -> Sequence[nn.Module]:
        return self._parts

    @torch.no_grad()
    def run_once(self, tokens: int) -> None:
        """What one turn does, without writing words."""
        for part in self._parts:
            for forward in self._passes(part, tokens, self._side):
                forward.run()

    @torch.no_grad()
    def output(self, tokens: int = 32) -> torch.Tensor:
        """What the last layer of the last work says, of the first part that does any."""
        last: list[torch.Tensor] = []

        def hear(_module: nn.Module, _inputs: Any, made: Any) -> None:
            if isinstance(made, torch.Tensor):
                last[:] = [made]

        part = next(p for p in self._parts if self._passes(p, tokens, self._side))
        layers = [layer for layer in part.modules() if not list(layer.children())]
        hooks = [layer.register_forward_hook(hear) for layer in layers]
        for forward in self._passes(part, tokens, self._side):
            forward.run()
        for hook in hooks:
            hook.remove()
        return last[0].float().cpu()

    def close(self) -> None:
        self._parts = []


class RandomSource:
    """The memory manager's source of random models; their "files" are nowhere."""

    def fetch(self, card: ModelCard, report: ReportProgress) -> Path:
        return Path()

    def load(self, card: ModelCard, files: Path, engine: str) -> RandomModel:
        return RandomModel(card, engine)


def random_module(part: ModelPart, kind: str, device: str) -> nn.Module:
    """`part` on `device`, its linear layers quantized as bitsandbytes would."""
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    with no_init_weights():
        module = _typed(instantiate_module(part), dtype).eval().requires_grad_(False)
    if hasattr(module, "tie_weights"):
        # which the missing initialisation would have done
        module.tie_weights()  # type: ignore[operator]
    packed = set(quantizable(module, part.keeps_fp32)) if part.quantized and "4" in kind else set()
    to_inputs: set[int] = set()
    for name, layer in list(module.named_modules()):
        if name in packed:
            module.set_submodule(name, _four_bit(layer, kind, device))
            continue
        for parameter in layer.parameters(recurse=False):
            if id(parameter) not in to_inputs:
                to_inputs.add(id(parameter))
                fresh = torch.randn(parameter.shape, dtype=parameter.dtype, device=device)
                parameter.data = fresh.mul_(SPREAD)
    return module.to(device)


def _typed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`module` in `dtype`; Whisper as it is loaded on a card, some of whose layers stay in fp32."""
    if isinstance(module, Whisper) and dtype is not torch.float32:
        return whisper_in_half(module)
    return nn.Module.to(module, dtype)


def _four_bit(layer: Any, kind: str, device: str) -> nn.Module:
    import bitsandbytes as bnb

    made = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=torch.bfloat16,
        compress_statistics=kind.endswith("-double"),
        quant_type=kind.partition("-")[0],
        device="meta",
    )
    weight = torch.randn(layer.weight.shape, dtype=torch.bfloat16, device=device) * SPREAD
    made.weight = bnb.nn.Params4bit(  # type: ignore[misc]
        weight.cpu() if device == "cpu" else weight,
        requires_grad=False,
        compress_statistics=kind.endswith("-double"),
        quant_type=kind.partition("-")[0],
        module=made,
    ).to(device)
    if layer.bias is not None:
        made.bias = nn.Parameter(torch.zeros(layer.out_features, device=device), False)
    return made.eval().requires_grad_(False)
