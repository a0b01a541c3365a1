"""What turns take of a card, as multiples of what can be counted without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kernels = Literal["convolution", "hearing"]


@dataclass(frozen=True, slots=True)
class PeakFactors:
    """By the kernels that compute. `convolution`: what draws, or hears plain samples. Measured on
    an H200 (PyTorch 2.11, cuDNN 9.19): 1.59 to 1.67 for decoders of 512 to 1,024 pixels, 1.51 for
    wav2vec2. `hearing`: what hears by spectrum, and writes."""

    convolution: float = 1.7
    hearing: float = 1.0

    def of(self, kernels: Kernels | None) -> float:
        """1 for kernels of which nothing was measured."""
        return {"convolution": self.convolution, "hearing": self.hearing, None: 1.0}[kernels]


ESTIMATE = PeakFactors()
"""Where the card was not measured."""
