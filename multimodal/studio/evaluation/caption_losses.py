"""How well a model that sees predicts the captions of pictures, in nats, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from multimodal.studio.data.masks import IGNORED
from multimodal.studio.evaluation.perplexity import SampleLoss, evaluation_mode, row_losses

if TYPE_CHECKING:
    from multimodal.studio.recipes.caption_dataset import CaptionDataset

Collate = Callable[[Sequence[Any]], Mapping[str, torch.Tensor]]


@torch.no_grad()
def caption_losses(
    model: Any, captions: CaptionDataset, collate: Collate, batch: int
) -> list[SampleLoss]:
    """The loss of each caption over its tokens and the one that ends it; `batch` at once, in their
    order. Logarithms are taken in fp32 and summed in fp64. Modules get back the mode they were
    in."""
    found: list[SampleLoss] = []
    with evaluation_mode(model):
        for start in range(0, len(captions), batch):
            some = [captions[at] for at in range(start, min(start + batch, len(captions)))]
            inputs = {name: it.to(model.device) for name, it in collate(some).items()}
            following = inputs.pop("labels")[:, 1:]
            totals = row_losses(model(**inputs).logits[:, :-1], following)
            counts = (following != IGNORED).sum(dim=1).tolist()
            found += [SampleLoss(*pair) for pair in zip(totals.tolist(), counts, strict=True)]
    return found
