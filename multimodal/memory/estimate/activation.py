"""The most memory one forward takes beside weights and attention cache, found without weights.

The module runs on PyTorch's meta device, where tensors have shapes and no data, and every storage
is counted while it lives. Attention counts as the fused kernels of CUDA compute it, in place of the
whole score matrix that the meta device would make. What a kernel takes inside itself is not seen:
for convolutions a measured share is added, and the memory manager measures the rest when a model
really runs.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # its only name, in PyTorch's own docs

from multimodal.memory.estimate.factors import ESTIMATE, PeakFactors

Make = Callable[..., torch.Tensor]
PACKED = (torch.uint8, torch.int8)
SOUND_S = 30
LATENT_SCALE = 8
"""Pixels on a side that one latent of a diffusion model stands for."""


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


def measured(forward: Callable[[], object]) -> int:
    """The most bytes that `forward`, on the meta device, holds at once."""
    live = LiveStorages()
    with torch.no_grad(), live, _Fused():
        forward()
    return live.peak


@cache
def counted_bytes(module: nn.Module, tokens: int, picture_side: int | None) -> int:
    """Of one part on the meta device; 0 for a part that `forward_passes` knows none for.
    Remembered, since modules are."""
    return max((measured(work) for work in forward_passes(module, tokens, picture_side)), default=0)


def peak_bytes(
    module: nn.Module, tokens: int, picture_side: int | None, factors: PeakFactors = ESTIMATE
) -> int:
    """What one part on the meta device will take on a card that has those `factors`."""
    counted = counted_bytes(module, tokens, picture_side)
    if _is_convolutional(module):
        return int(counted * factors.convolution)
    return int(counted * factors.hearing) if type(module).__name__ == "Whisper" else counted


def _is_convolutional(module: Any) -> bool:
    """Whether most of its work is convolutions: what makes pictures, or hears plain samples."""
    draws = type(module).__name__.startswith(("Autoencoder", "UNet2DCondition"))
    return draws or getattr(module, "main_input_name", "") == "input_values"


Work = Callable[[], object]


def forward_passes(module: Any, tokens: int, picture_side: int | None) -> list[Work]:
    """What a part does in one turn, on the device and in the format of its weights: a text model
    reads `tokens`, a picture model looks at one picture of its own size, a speech model hears 30 s
    (and speaks as long, where it can), a diffusion model takes one step towards a picture of that
    side, its decoder makes one."""
    parameters = list(module.parameters())  # some are made on the CPU whatever the device
    first = next((p for p in parameters if p.is_meta), parameters[0])

    def make(*shape: int) -> torch.Tensor:
        """From -1 to 1, so that every weight has something to do."""
        dtype = torch.bfloat16 if first.dtype in PACKED else first.dtype
        if first.is_meta:
            return torch.empty(shape, dtype=dtype, device=first.device)
        count = math.prod(shape)
        # In fp32 first: fp16 cannot count that far, and would give no numbers.
        return torch.linspace(-1, 1, count, device=first.device).to(dtype).reshape(shape)

    name = type(module).__name__
    if name == "Whisper":
        return [lambda: _hear(module, make)]
    if name.startswith("UNet2DCondition"):
        return [lambda: _denoise(module, make, picture_side or 512)]
    if name.startswith("Autoencoder"):
        return [lambda: _decode(module, make, picture_side or 512)]
    found: list[Work] = []
    if name.startswith("SeamlessM4T"):
        found += [lambda: _hear_frames(module, make), lambda: _voice(module.vocoder, make)]
    if getattr(module, "main_input_name", "") == "input_values":
        found.append(lambda: module(make(1, SOUND_S * 16_000)))
    if (seeing := _vision(module)) is not None:
        found.append(lambda: _look(seeing, make, picture_side))
    if (decoder := _decoder(module)) is not None:
        found.append(lambda: _read(decoder, make, tokens))
    return found


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
    return module if type(module).__name__.endswith("VisionModel") else None


def _read(decoder: Any, make: Make, tokens: int) -> None:
    words = make(1, tokens, decoder.config.hidden_size)
    # A ready mask: to make one, transformers looks at values, which may not be there.
    allowed = torch.ones((1, 1, tokens, tokens), dtype=torch.bool, device=words.device).tril()
    more = {"attention_mask": allowed}
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        more["position_ids"] = torch.arange(tokens, device=words.device)[None]
    decoder(inputs_embeds=words, use_cache=False, **more)


def _look(vision: Any, make: Make, side: int | None) -> None:
    side = side or int(getattr(vision.config, "image_size", 224))
    vision(pixel_values=make(1, 3, side, side))


def _hear(whisper: Any, make: Make) -> None:
    """The sound, then half of the words it may have, for five beams."""
    sound = whisper.encoder(make(1, whisper.dims.n_mels, SOUND_S * 100))
    ids = torch.zeros((5, whisper.dims.n_text_ctx // 2), dtype=torch.long, device=sound.device)
    whisper.decoder(ids, sound.expand(5, -1, -1))


def _hear_frames(seamless: Any, make: Make) -> None:
    """Two of the 10 ms frames are read as one."""
    frames = SOUND_S * 50
    seamless.speech_encoder(make(1, frames, seamless.config.feature_projection_input_dim))


def _voice(vocoder: Any, make: Make) -> None:
    """One unit of speech stands for 20 ms; unit, speaker and language are read together."""
    vocoder.hifi_gan(make(1, vocoder.hifi_gan.conv_pre.in_channels, SOUND_S * 50))


def _denoise(unet: Any, make: Make, side: int) -> None:
    """Two pictures at once: with and without the prompt, as classifier-free guidance asks."""
    config, latents = unet.config, side // LATENT_SCALE
    more = {}
    if config.addition_embed_type == "text_time":
        extra = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        more = {"added_cond_kwargs": {"text_embeds": make(2, extra), "time_ids": make(2, 6)}}
    words = make(2, 77, config.cross_attention_dim)
    unet(make(2, config.in_channels, latents, latents), 0, words, **more)


def _decode(vae: Any, make: Make, side: int) -> None:
    latents = side // LATENT_SCALE
    vae.decode(make(1, vae.config.latent_channels, latents, latents))
