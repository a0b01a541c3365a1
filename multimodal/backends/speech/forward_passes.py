"""What speech models on PyTorch compute for 30 s of sound."""

from __future__ import annotations

from typing import Any

import torch

from multimodal.memory.estimate.activation import (
    ForwardPass,
    InputMaker,
    decoder_passes,
    input_maker,
)
from multimodal.memory.estimate.quantization import CACHE_BYTES

SOUND_S = 30
BEAMS = 5
"""Of Whisper, unless its card says otherwise."""


def whisper_passes(module: Any, tokens: int, picture_side: int | None) -> list[ForwardPass]:
    """Of openai-whisper, with keys and values of the sound and of the words so far."""
    dims = module.dims
    cache = 2 * dims.n_text_layer * dims.n_text_state * CACHE_BYTES
    cache *= (dims.n_audio_ctx + dims.n_text_ctx) * BEAMS
    return [ForwardPass(lambda: _hear(module, input_maker(module)), "hearing", cache)]


def wav2vec2_passes(module: Any, tokens: int, picture_side: int | None) -> list[ForwardPass]:
    """Plain samples, most of whose work is convolutions."""
    make = input_maker(module)
    return [ForwardPass(lambda: module(make(1, SOUND_S * 16_000)), "convolution")]


def seamless_passes(module: Any, tokens: int, picture_side: int | None) -> list[ForwardPass]:
    """It hears, writes, and speaks as long as it heard."""
    make, vocoder = input_maker(module), module.vocoder.hifi_gan
    # Two of the 10 ms frames are read as one. One unit of speech stands for 20 ms; unit, speaker
    # and language are read together.
    heard = 1, SOUND_S * 50, module.config.feature_projection_input_dim
    spoken = 1, vocoder.conv_pre.in_channels, SOUND_S * 50
    return [
        ForwardPass(lambda: module.speech_encoder(make(*heard))),
        ForwardPass(lambda: vocoder(make(*spoken))),
        *decoder_passes(module, tokens),
    ]


def _hear(whisper: Any, make: InputMaker) -> None:
    """The sound, then half of the words it may have, for every beam."""
    sound = whisper.encoder(make(1, whisper.dims.n_mels, SOUND_S * 100))
    ids = torch.zeros((BEAMS, whisper.dims.n_text_ctx // 2), dtype=torch.long, device=sound.device)
    whisper.decoder(ids, sound.expand(BEAMS, -1, -1))
