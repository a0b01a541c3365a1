"""A text model of transformers as one graph in ONNX, for prompts and for replies alike.

PyTorch's exporter follows one pass through the model, with a past of a few tokens, and is told
which sizes may be others. The attention cache of transformers is an object that no graph can hold:
its keys and values go in and come out one by one, under the names of `backends/onnx/decoder.py`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from multimodal.backends.hf.prefix_cache import CACHE_ARGUMENT, can_be_kept
from multimodal.backends.onnx.decoder import (
    LOGITS,
    MASK,
    PAST,
    POSITIONS,
    PRESENT,
    TOKENS,
    cache_names,
)
from multimodal.backends.onnx.layout import MODEL
from multimodal.errors import JobError

SEEN, NEW = 5, 3
"""Tokens of the past, and new ones, in the pass that the exporter follows. Any other numbers would
do, but for 0 and 1, which it takes for constants."""
OPSET, TEXT_OPSET = 20, 23
"""Of the graphs. The second has operators for attention, with which ONNX Runtime wrote a token
behind 3,000 others in 116 ms, and 673 ms without (SmolLM2 135M, one busy core)."""
DYNAMIC = torch.export.Dim.DYNAMIC
Pairs = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer."""
OTHER_MODEL = (
    "The ONNX export takes text models whose attention cache holds keys and values alone, and "
    "'{}' models keep other states as well. Export it as safetensors."
)


def check_cache(config: Any) -> None:
    """Raise JobError for a model whose cache a graph cannot hand on."""
    if not can_be_kept(DynamicCache(config=config.get_text_config(decoder=True))):
        raise JobError(OTHER_MODEL.format(config.model_type))


def write_decoder(model: Any, folder: Path) -> None:
    """Write `model`, in the type of its weights, as `MODEL` in `folder`. Raises JobError where
    PyTorch's exporter does not take it."""
    past = _past(model)
    ids = torch.ones(1, NEW, dtype=torch.long)
    places = torch.arange(SEEN, SEEN + NEW)[None]
    mask = torch.ones(1, SEEN + NEW, dtype=torch.long)
    pair = ({2: DYNAMIC}, {2: DYNAMIC})
    write_graph(
        _WithCache(model).eval(),
        (ids, mask, places, past),
        folder,
        (TOKENS, MASK, POSITIONS, *cache_names(PAST, len(past))),
        (LOGITS, *cache_names(PRESENT, len(past))),
        ({1: DYNAMIC}, {1: DYNAMIC}, {1: DYNAMIC}, [pair] * len(past)),
        TEXT_OPSET,
    )


def write_graph(
    model: nn.Module,
    inputs: tuple[Any, ...],
    folder: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: tuple[Any, ...],
    opset: int = OPSET,
    name: str = MODEL,
) -> None:
    """Write what `model` computes of `inputs` as `name` in `folder`, its weights beside it. Raises
    JobError where PyTorch's exporter does not take it."""
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise JobError(
            f"PyTorch's ONNX exporter does not take this model ({first}). Export it as safetensors."
        ) from error
    if program is None:
        raise JobError("PyTorch's ONNX exporter wrote nothing. Export it as safetensors.")
    program.save(folder / name, external_data=True)


def key_values(cache: Any) -> Pairs:
    """Of each layer of a cache of transformers."""
    return [(it.keys, it.values) for it in cache.layers]


class _WithCache(nn.Module):
    """The model with keys and values as plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: Pairs,
    ) -> Any:
        told = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **{CACHE_ARGUMENT: DynamicCache(past)},
        )
        return told.logits, key_values(told[CACHE_ARGUMENT])


@torch.no_grad()
def _past(model: Any) -> Pairs:
    """Keys and values of some tokens, in the shapes that the model itself makes."""
    told = model(torch.ones(1, SEEN, dtype=torch.long), use_cache=True)
    return key_values(told[CACHE_ARGUMENT])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The block without what the exporter tells of its steps and of libraries it does not find."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
