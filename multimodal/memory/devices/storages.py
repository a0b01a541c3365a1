"""Where a PyTorch module really keeps its bytes, what bitsandbytes hides among them.

`parameters()` misses the quantization state: scales, code books and offsets are plain attributes of
a 4-bit weight's `quant_state`, and of an 8-bit layer's `state` after its first forward (read in
bitsandbytes 0.50). Tied tensors, and views of one storage, count once. Tensors that are not
strided have no storage that could be moved and are left out: the sparse `alignment_heads` of
openai-whisper is one, some hundred bytes that only times of single words need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

QUANT_STATE = ("absmax", "code", "offset")
EIGHT_BIT_STATE = ("CB", "SCB")


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One place that holds a tensor: the attribute `name` of `owner`, or its data where the owner
    is itself a parameter or buffer (`name` is ""). `layer` is the module it belongs to."""

    owner: Any
    name: str
    layer: str

    @property
    def tensor(self) -> torch.Tensor:
        found: torch.Tensor = getattr(self.owner, self.name) if self.name else self.owner.data
        return found

    def rebind(self, tensor: torch.Tensor) -> None:
        """Let this place hold another tensor of the same shape, perhaps on another device."""
        if self.name:
            setattr(self.owner, self.name, tensor)
        else:
            self.owner.data = tensor


def slots(module: nn.Module) -> Iterator[TensorSlot]:
    """Every place of `module` that holds a strided tensor; those that share a tensor come
    separately."""
    return (slot for slot in _places(module) if slot.tensor.layout is torch.strided)


def _places(module: nn.Module) -> Iterator[TensorSlot]:
    for layer, part in module.named_modules():
        for parameter in part.parameters(recurse=False):
            yield TensorSlot(parameter, "", layer)
            yield from _attributes(parameter, EIGHT_BIT_STATE, layer)
            state = getattr(parameter, "quant_state", None)
            while state is not None:
                yield from _attributes(state, QUANT_STATE, layer)
                state = getattr(state, "state2", None)
        for buffer in part.buffers(recurse=False):
            yield TensorSlot(buffer, "", layer)
        if (state := getattr(part, "state", None)) is not None:
            yield from _attributes(state, EIGHT_BIT_STATE, layer)


def storage_bytes(module: nn.Module) -> int:
    """Bytes of all storages that `module` holds, each counted once."""
    found = {slot.tensor.untyped_storage().data_ptr(): slot.tensor for slot in slots(module)}
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def _attributes(owner: Any, names: tuple[str, ...], layer: str) -> Iterator[TensorSlot]:
    for name in names:
        if isinstance(getattr(owner, name, None), torch.Tensor):
            yield TensorSlot(owner, name, layer)
