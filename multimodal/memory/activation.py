"""The most memory one forward takes beside weights and attention cache, found without weights.

The module runs on PyTorch's meta device, where tensors have shapes and no data, and every storage
is counted while it lives. Attention counts as the fused kernels of CUDA compute it, in place of the
whole score matrix that the meta device would make. What a kernel takes inside itself (cuDNN,
cuBLAS) is not seen; the memory manager measures the rest when a model really runs.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LATENT_SCALE = 8
"""Pixels on a side that one latent of a diffusion model stands for."""


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves(args) if isinstance(t, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in given:
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


class _Fused(TorchFunctionMode):
    """Attention that keeps no score matrix."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, _key, value, *_ = args
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))


def measured(forward: Callable[[], object]) -> int:
    """The most bytes that `forward`, on the meta device, holds at once."""
    live = _Live()
    with torch.no_grad(), live, _Fused():
        forward()
    return live.peak


@cache
def peak_bytes(module: nn.Module, tokens: int, picture_side: int | None) -> int:
    """Of one part: a text model reading `tokens`, a picture model looking at one picture of its
    own size, a speech model hearing 30 s, a diffusion model making a picture of that side.

    0 for a part whose work is none of these. Remembered, since modules are.
    """
    return max((measured(work) for work in _works(module, tokens, picture_side)), default=0)


def _works(module: Any, tokens: int, picture_side: int | None) -> list[Callable[[], object]]:
    name = type(module).__name__
    if name == "Whisper":
        return [lambda: _hear(module, 30 * 100)]
    if name.startswith("UNet2DCondition"):
        return [lambda: _denoise(module, picture_side or 512)]
    if name.startswith("Autoencoder"):
        return [lambda: _decode(module, picture_side or 512)]
    works: list[Callable[[], object]] = []
    if getattr(module, "main_input_name", "") == "input_values":
        works.append(lambda: module(_meta(1, 30 * 16_000)))
    if (seeing := _vision(module)) is not None:
        works.append(lambda: _look(seeing, picture_side))
    if (decoder := _decoder(module)) is not None:
        works.append(lambda: _read(decoder, tokens))
    return works


def _meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def _decoder(module: Any) -> Any | None:
    """The text model without its output layer, where there is one."""
    if not (hasattr(module, "can_generate") and module.can_generate()):
        return None
    decoder: nn.Module = module.get_decoder()
    return decoder


def _vision(module: nn.Module) -> nn.Module | None:
    found: nn.Module
    for name in ("vision_tower", "vision_model"):
        for path, found in module.named_modules():
            if path.rpartition(".")[2] == name:
                return found
    return None


def _read(decoder: Any, tokens: int) -> None:
    words = _meta(1, tokens, decoder.config.hidden_size)
    # A ready mask: to make one, transformers looks at values, which are not there.
    more = {"attention_mask": torch.empty((1, 1, tokens, tokens), dtype=torch.bool, device="meta")}
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        more["position_ids"] = torch.empty((1, tokens), dtype=torch.long, device="meta")
    decoder(inputs_embeds=words, use_cache=False, **more)


def _look(vision: Any, side: int | None) -> None:
    side = side or int(getattr(vision.config, "image_size", 224))
    vision(pixel_values=_meta(1, 3, side, side))


def _hear(whisper: Any, frames: int) -> None:
    sound = whisper.encoder(_meta(1, whisper.dims.n_mels, frames))
    ids = torch.empty((5, whisper.dims.n_text_ctx // 2), dtype=torch.long, device="meta")
    whisper.decoder(ids, sound.expand(5, -1, -1))


def _denoise(unet: Any, side: int) -> None:
    """Two pictures at once: with and without the prompt, as classifier-free guidance asks."""
    config, latents = unet.config, side // LATENT_SCALE
    more = {}
    if config.addition_embed_type == "text_time":
        extra = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        more = {"added_cond_kwargs": {"text_embeds": _meta(2, extra), "time_ids": _meta(2, 6)}}
    words = _meta(2, 77, config.cross_attention_dim)
    unet(_meta(2, config.in_channels, latents, latents), 0, words, **more)


def _decode(vae: Any, side: int) -> None:
    latents = side // LATENT_SCALE
    vae.decode(_meta(1, vae.config.latent_channels, latents, latents))
