"""Whether samples that lie in one row are kept apart by a model's attention."""

from __future__ import annotations

from typing import Any

import torch

TOLERANCE = 0.05
"""Of the spread of the logits, for what bfloat16 rounds differently."""
LENGTH = 12


def keeps_samples_apart(model: Any) -> bool:
    """Whether a sample is computed alike alone and behind another in one flat row, told apart only
    by its positions, as TRL packs them.

    transformers makes a mask of positions that begin anew (`find_packed_sequence_indices`) for the
    architectures and kinds of attention that ask it for one; others see the whole row. It is
    tried, since neither names itself.
    """
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(2 * LENGTH, device=model.device)[None] * 7 % vocabulary
    positions = torch.arange(LENGTH, device=model.device)[None]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = _logits(model, ids[:, LENGTH:], positions)
            packed = _logits(model, ids, torch.cat([positions, positions], dim=1))
    finally:
        model.train(was_training)
    difference = (alone - packed[:, LENGTH:]).square().mean().sqrt()
    return bool(difference <= TOLERANCE * alone.std())


def _logits(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return logits.float()
