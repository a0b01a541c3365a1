"""How much of what a model draws are pictures that it learned from (Carlini et al. 2023)."""

from __future__ import annotations

import torch

NEAR = 0.5
"""What is drawn is nearly a copy where it is closer to a picture that was learned from than this
share of what held-out pictures are in the middle."""


def copied_share(drawn: torch.Tensor, learned: torch.Tensor, held_out: torch.Tensor) -> float:
    """The share of `drawn` that are nearly copies of one of `learned`. Each has the shape
    (pictures, values); closeness is the Euclidean distance."""
    usual = torch.cdist(held_out, learned).min(dim=1).values.median()
    nearest = torch.cdist(drawn, learned).min(dim=1).values
    return float((nearest < NEAR * usual).float().mean())
