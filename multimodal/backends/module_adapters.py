"""Adapters on a resident model: PEFT's layers are put around its linear layers for one turn and
taken out again, so that between two turns the model is what was loaded, layer for layer.

Everything that looks at a model between turns (its mirror in host memory, its storages) thus never
sees an adapter, and the base by itself computes exactly what it would without any. The layers that
were taken out are kept in host memory, and the next turn with them only swaps modules and copies A
and B to the device. Nothing of the base is copied or loaded.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from multimodal.backends.adapters import adapter_digest, check_adapter, mismatch, split_name
from multimodal.catalog.cards import ADAPTER_WEIGHTS, ModelCard
from multimodal.errors import BackendError
from multimodal.memory.devices.device_errors import translate_device_errors

KEPT_BYTES = 1 << 30
"""Of host memory for the adapters of one model, the newest kept."""
NAME = "default"
"""What PEFT calls each of them; no two are in a model at once."""


@dataclass(frozen=True, slots=True)
class _Adapter:
    """`layers` by the name of the base's module that they stand around, `weights` the A and B of
    each, whose tensors in host memory are `host`."""

    layers: Mapping[str, Any]
    weights: tuple[nn.Parameter, ...]
    host: tuple[torch.Tensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.host)


class Adapters:
    """Those of one model. Not thread-safe: one turn of a model runs at a time."""

    def __init__(self, base_title: str, most_bytes: int = KEPT_BYTES) -> None:
        self._base_title = base_title
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, _Adapter] = OrderedDict()

    @contextmanager
    def applied(self, model: nn.Module, card: ModelCard, device: torch.device) -> Iterator[float]:
        """Have `model`, which is on `device`, compute with the adapter of `card` in this block;
        yields the seconds that it took to put it on.

        Raises BackendError where the adapter cannot be used with this model, which stays as it was.
        """
        begun_s = time.perf_counter()
        adapter = self._find(model, card)
        try:
            with translate_device_errors(card.title):
                for weight, host in zip(adapter.weights, adapter.host, strict=True):
                    weight.data = host.to(device, non_blocking=True)
            for name, layer in adapter.layers.items():
                model.set_submodule(name, layer)
            yield time.perf_counter() - begun_s
        finally:
            for name, layer in adapter.layers.items():
                model.set_submodule(name, layer.get_base_layer())
            for weight, host in zip(adapter.weights, adapter.host, strict=True):
                weight.data = host

    @property
    def kept(self) -> int:
        """How many are kept in host memory."""
        return len(self._kept)

    def clear(self) -> None:
        self._kept.clear()

    def _find(self, model: nn.Module, card: ModelCard) -> _Adapter:
        folder, _ = check_adapter(card)
        key = adapter_digest(folder)
        if key not in self._kept:
            self._kept[key] = self._read(model, card, folder)
        self._kept.move_to_end(key)
        kept = self._kept.values()
        while self.kept > 1 and sum(one.size_bytes for one in kept) > self._most_bytes:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _read(self, model: nn.Module, card: ModelCard, folder: Path) -> _Adapter:
        """The adapter's layers around those of `model`, from which they are taken out again."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
            from peft.tuners.lora import LoraLayer
        except ImportError as error:
            raise BackendError(
                f"{card.title} needs the Python package 'peft': "
                'pip install "multimodal-chat[studio]", or pip install -e ".[studio]" in a '
                "checkout."
            ) from error
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        config: Any = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = True
        try:
            inject_adapter_in_model(config, model, NAME, low_cpu_mem_usage=True)
        except (ValueError, TypeError) as error:
            raise BackendError(
                f"{card.title} cannot be used: its adapter was made for another model than "
                f"{self._base_title}, or asks for what PEFT cannot do with it: {error}"
            ) from error
        finally:
            found = {n: part for n, part in model.named_modules() if isinstance(part, LoraLayer)}
            for name, layer in found.items():
                model.set_submodule(name, layer.get_base_layer())
            vars(model).pop("peft_config", None)
        return self._filled(card, found, tensors)

    def _filled(
        self, card: ModelCard, layers: Mapping[str, Any], tensors: dict[str, torch.Tensor]
    ) -> _Adapter:
        """`layers` with the weights `tensors`, whose shapes must be theirs."""
        weights: list[nn.Parameter] = []
        for name, tensor in tensors.items():
            module, part = split_name(card, name)
            if module not in layers:
                raise mismatch(card, module, self._base_title, "no such layer", "a linear layer")
            holder = (layers[module].lora_A if part == "a" else layers[module].lora_B)[NAME]
            if holder.weight.shape != tensor.shape:
                shapes = (tuple(found.shape) for found in (holder.weight, tensor))
                raise mismatch(card, f"{module} (lora_{part})", self._base_title, *map(str, shapes))
            holder.weight = nn.Parameter(tensor, requires_grad=False)
            weights.append(holder.weight)
        for module, layer in layers.items():
            if any(holder.weight.is_meta for holder in (layer.lora_A[NAME], layer.lora_B[NAME])):
                raise mismatch(card, module, self._base_title, "a layer to adapt", "nothing")
            layer.eval()
        return _Adapter(layers, tuple(weights), tuple(weight.data for weight in weights))
