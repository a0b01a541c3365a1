"""MiniGPT-4's published checkpoint: a file of PyTorch with the one layer that was trained.

It may hold what its training left (an optimizer, a configuration); only the layer is taken, and
nothing that a pickle could run is run.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError

PROJECTION = "projection"
WEIGHT, BIAS = "llama_proj.weight", "llama_proj.bias"


@dataclass(frozen=True, slots=True)
class Projection:
    """The layer as it was saved in the file `name`."""

    name: str
    weight: torch.Tensor
    bias: torch.Tensor

    @property
    def reads(self) -> int:
        """Numbers of one token of a picture."""
        return self.weight.shape[1]

    def layer(self, device: str, dtype: torch.dtype) -> nn.Linear:
        made = nn.Linear(self.reads, self.weight.shape[0], device="meta")
        state = {"weight": self.weight.to(device, dtype), "bias": self.bias.to(device, dtype)}
        made.load_state_dict(state, assign=True)
        return made


def read_projection(card: ModelCard, files: Path) -> Projection:
    """The one file of *.pth in `files`, or in its folder projection/. Raises BackendError."""
    found = sorted((*files.glob("*.pth"), *files.glob(f"{PROJECTION}/*.pth")))
    if len(found) != 1:
        raise BackendError(
            f"{card.title}: there are {len(found)} files of *.pth in {files} and its folder "
            f"{PROJECTION}/ in place of one. Put MiniGPT-4's checkpoint there, and no other, "
            "beside the folders vision/ and llm/."
        )
    state = _layers(card, found[0])
    if others := sorted({WEIGHT, BIAS} ^ state.keys()):
        what = "lacks" if others[0] in {WEIGHT, BIAS} else "holds the foreign"
        raise BackendError(
            f"{card.title}: {found[0].name} {what} {others[0]}; MiniGPT-4's checkpoint consists of "
            f"{WEIGHT} and {BIAS}. Fetch the checkpoint of MiniGPT-4, not that of another model."
        )
    weight, bias = state[WEIGHT], state[BIAS]
    if weight.dim() != 2 or bias.shape != weight.shape[:1]:
        raise BackendError(
            f"{card.title}: what {found[0].name} calls llama_proj is no linear layer. Fetch the "
            "checkpoint of MiniGPT-4."
        )
    return Projection(found[0].name, weight, bias)


def _layers(card: ModelCard, path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BackendError(
            f"{card.title}: {path.name} is no checkpoint that consists of tensors, or is damaged; "
            "nothing in it was run. Fetch it again from its authors."
        ) from error
    state = saved.get("model") if isinstance(saved, dict) else None
    if not isinstance(state, dict):
        raise BackendError(
            f"{card.title}: {path.name} has no 'model' in it. Fetch the checkpoint of MiniGPT-4."
        )
    return state
