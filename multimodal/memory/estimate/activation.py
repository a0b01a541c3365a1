"""The most memory one forward takes beside weights and attention cache, found without weights.

What runs is declared by the family of the card (`backends/registry.py`). The module is on PyTorch's
meta device, where tensors have shapes and no data, and every storage is counted while it lives.
Attention counts as the fused kernels of CUDA compute it, in place of the whole score matrix that
the meta device would make. What a kernel takes inside itself is not seen: for convolutions a
measured share is added, and the memory manager measures the rest when a model really runs.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # its only name, in PyTorch's own docs

from multimodal.memory.estimate.factors import ESTIMATE, Kernels, PeakFactors

PACKED = (torch.uint8, torch.int8)


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(tensor.untyped_storage()) for tensor in _tensors_in(args)}
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors_in(made):
            if id(tensor.untyped_storage()) not in given:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size_bytes: int) -> None:
        self.now -= size_bytes


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Those that an operator takes or gives, also in lists and tuples of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)


class _Fused(TorchFunctionMode):
    """Attention that keeps no score matrix. Masks, of whose values nothing is known on the meta
    device, hide nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return True
        if func is functional.scaled_dot_product_attention:
            query, _key, value, *_ = args
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))


def trace_peak_bytes(forward: Callable[[], object]) -> int:
    """The most bytes that `forward`, on the meta device, holds at once."""
    live = LiveStorages()
    with torch.no_grad(), live, _Fused():
        forward()
    return live.peak


InputMaker = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """`run` computes it once, on the device and in the format of the module's weights. `kernels`:
    which of `PeakFactors` its kernels take of what is counted; None for what is counted alone.
    `cache_bytes`: the attention cache that it fills, of a model whose library is not transformers:
    that of a text model of transformers is told by its configuration."""

    run: Callable[[], object]
    kernels: Kernels | None = None
    cache_bytes: int = 0


ForwardPasses = Callable[[Any, int, int | None], Sequence[ForwardPass]]
"""What the engine of a family runs of one part of a card in one turn, by the module, how many
tokens it reads, and the pixels on a side of a picture that it looks at or makes. Empty for a part
that takes next to nothing beside the others."""


@cache
def traced_bytes(
    passes: ForwardPasses, module: nn.Module, tokens: int, picture_side: int | None
) -> Mapping[Kernels | None, int]:
    """The most that any pass of a part on the meta device holds at once, by the kernels that
    compute it. Remembered, since modules are."""
    found: dict[Kernels | None, int] = {}
    for forward in passes(module, tokens, picture_side):
        found[forward.kernels] = max(found.get(forward.kernels, 0), trace_peak_bytes(forward.run))
    return found


def peak_bytes(
    passes: ForwardPasses,
    module: nn.Module,
    tokens: int,
    picture_side: int | None,
    factors: PeakFactors = ESTIMATE,
) -> int:
    """What one part on the meta device will take on a card that has those `factors`; 0 where
    `passes` has none of it."""
    counted = traced_bytes(passes, module, tokens, picture_side)
    return max((int(size * factors.of(kernels)) for kernels, size in counted.items()), default=0)


def input_maker(module: nn.Module) -> InputMaker:
    """A function from a shape to an input for `module`: on the device and in the format of its
    weights (16 bits for packed ones), from -1 to 1, so that every weight has something to do."""
    parameters = list(module.parameters())  # some are made on the CPU whatever the device
    first = next((p for p in parameters if p.is_meta), parameters[0])

    def make(*shape: int) -> torch.Tensor:
        dtype = torch.bfloat16 if first.dtype in PACKED else first.dtype
        if first.is_meta:
            return torch.empty(shape, dtype=dtype, device=first.device)
        count = math.prod(shape)
        # In fp32 first: fp16 cannot count that far, and would give no numbers.
        return torch.linspace(-1, 1, count, device=first.device).to(dtype).reshape(shape)

    return make


def decoder_passes(module: Any, tokens: int) -> list[ForwardPass]:
    """Reading `tokens` by the text model of a module of transformers, without its output layer;
    none where it writes no text."""
    if not (hasattr(module, "can_generate") and module.can_generate()):
        return []
    return [ForwardPass(lambda: _read(module.get_decoder(), input_maker(module), tokens))]


def _read(decoder: Any, make: InputMaker, tokens: int) -> None:
    words = make(1, tokens, decoder.config.hidden_size)
    # A ready mask: to make one, transformers looks at values, which may not be there.
    allowed = torch.ones((1, 1, tokens, tokens), dtype=torch.bool, device=words.device).tril()
    more = {"attention_mask": allowed}
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        more["position_ids"] = torch.arange(tokens, device=words.device)[None]
    decoder(inputs_embeds=words, use_cache=False, **more)
