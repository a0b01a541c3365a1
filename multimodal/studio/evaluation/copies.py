"""How much of what a model draws are pictures that it learned from (Carlini et al. 2023)."""

from __future__ import annotations

from dataclasses import replace

import torch

from multimodal.studio.records import Report

NEAR = 0.5
"""What is drawn is nearly a copy where it is closer to a picture that was learned from than this
share of what held-out pictures are in the middle."""


def copied_share(drawn: torch.Tensor, learned: torch.Tensor, held_out: torch.Tensor) -> float:
    """The share of `drawn` that are nearly copies of one of `learned`. Each has the shape
    (pictures, values); closeness is the Euclidean distance."""
    usual = torch.cdist(held_out, learned).min(dim=1).values.median()
    nearest = torch.cdist(drawn, learned).min(dim=1).values
    return float((nearest < NEAR * usual).float().mean())


def tell_copies(report: Report, share: float, drawn: int) -> Report:
    """`report` with the share of `drawn` pictures that are nearly copies, and a warning of them."""
    warnings = report.warnings
    if share:
        warnings = (
            *warnings,
            f"{share:.0%} of {drawn} pictures that it drew are nearly copies of pictures that it "
            "learned from: more pictures, or fewer epochs, make it draw new ones.",
        )
    return replace(report, warnings=warnings, figures={**report.figures, "copied_share": share})
