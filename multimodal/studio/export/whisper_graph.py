"""Whisper of transformers as two graphs in ONNX, under the names of
`backends/onnx/whisper_graphs.py`.

What the decoder looks at of the sound, keys and values of each of its layers, is computed with the
encoder, once for a window, as transformers keeps it in its cache. A cache that holds them is read
by the decoder in place of the sound, which its graph therefore does not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from multimodal.backends.hf.prefix_cache import CACHE_ARGUMENT
from multimodal.backends.onnx.decoder import LOGITS, PAST, PRESENT, TOKENS, cache_names
from multimodal.backends.onnx.layout import ENCODER
from multimodal.backends.onnx.whisper_graphs import CROSS, FEATURES, OWN
from multimodal.studio.export.onnx_graph import (
    DYNAMIC,
    NEW,
    SEEN,
    TEXT_OPSET,
    Pairs,
    key_values,
    write_graph,
)

FRAMES_PER_POSITION = 2
"""Of a spectrum, by the stride of the encoder's second convolution."""


def write_whisper(model: Any, folder: Path) -> None:
    """Write `model`, in the type of its weights, as `ENCODER` and `MODEL` in `folder`. Raises
    JobError where PyTorch's exporter does not take it."""
    config = model.config
    frames = FRAMES_PER_POSITION * config.max_source_positions
    features = torch.zeros(1, config.num_mel_bins, frames, dtype=model.dtype)
    own, cross = _pairs(model, features)
    layers = len(own)
    write_graph(
        _Encoder(model).eval(),
        (features,),
        folder,
        (FEATURES,),
        cache_names(PRESENT, layers, CROSS),
        ({},),
        TEXT_OPSET,
        ENCODER,
    )
    write_graph(
        _Decoder(model).eval(),
        (torch.ones(1, NEW, dtype=torch.long), own, cross),
        folder,
        (
            TOKENS,
            *cache_names(PAST, layers, OWN),
            *cache_names(PAST, layers, CROSS),
        ),
        (LOGITS, *cache_names(PRESENT, layers, OWN)),
        ({1: DYNAMIC}, [({2: DYNAMIC}, {2: DYNAMIC})] * layers, [({}, {})] * layers),
        TEXT_OPSET,
    )


class _Encoder(nn.Module):
    """Features in, keys and values for the decoder out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_features: torch.Tensor) -> Any:
        # Of the one token nothing is left in the graph, since nothing of it comes out.
        ids = torch.zeros(1, 1, dtype=torch.long)
        told = self.model(input_features, decoder_input_ids=ids, use_cache=True)
        return key_values(told[CACHE_ARGUMENT].cross_attention_cache)


class _Decoder(nn.Module):
    """The words so far, with keys and values as plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, own: Pairs, cross: Pairs) -> Any:
        cache = EncoderDecoderCache(DynamicCache(own), DynamicCache(cross))
        unread = cross[0][0].new_zeros(1, 1, self.model.config.d_model)
        told = self.model(
            encoder_outputs=(unread,),
            decoder_input_ids=input_ids,
            use_cache=True,
            **{CACHE_ARGUMENT: cache},
        )
        return told.logits, key_values(told[CACHE_ARGUMENT].self_attention_cache)


@torch.no_grad()
def _pairs(model: Any, features: torch.Tensor) -> Sequence[Pairs]:
    """Keys and values of some tokens and of the sound, in the shapes that the model makes."""
    ids = torch.ones(1, SEEN, dtype=torch.long)
    cache = model(features, decoder_input_ids=ids, use_cache=True)[CACHE_ARGUMENT]
    return key_values(cache.self_attention_cache), key_values(cache.cross_attention_cache)
