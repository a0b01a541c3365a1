"""MiniGPT-4's way from a picture to embeddings that its text model reads: BLIP-2's vision tower,
then its Q-Former or, in the variant without one, neighbouring patches put together; then the one
layer that MiniGPT-4 trained.

The tower and the Q-Former are read from a checkpoint of BLIP-2 in transformers' layout, of which
the language model is left where it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Blip2PreTrainedModel, Blip2QFormerModel, Blip2VisionModel

from multimodal.backends.checkpoints import element_type, from_folder
from multimodal.backends.hf.minigpt4_projection import Projection, read_projection
from multimodal.catalog.architectures import ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CardError
from multimodal.memory.estimate.footprint import usual_quantization

QFORMER, VISION = "qformer", "vision"


class VisionTower(Blip2PreTrainedModel):  # type: ignore[no-untyped-call]
    """The tower alone; `neighbours` patches that follow each other become one token."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_model = Blip2VisionModel(config.vision_config)
        self.neighbours = 1
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def width(self) -> int:
        return self.vision_model.post_layernorm.normalized_shape[0] * self.neighbours

    @property
    def tokens(self) -> int:
        """That one picture becomes."""
        return int(self.vision_model.embeddings.num_patches) // self.neighbours

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # The first token stands for the whole picture and is left out.
        patches: torch.Tensor = self.vision_model(pixel_values).last_hidden_state[:, 1:]
        return patches.reshape(len(patches), self.tokens, self.width)

    def put_together(self, width: int) -> None:
        """Make tokens of that width out of neighbours.

        This variant was trained with the tower's last normalization as it is made: neither
        weighted as BLIP-2 learned it, nor with BLIP-2's epsilon.
        """
        patches, single = self.tokens, self.width
        if width % single == 0 and patches % (width // single) == 0:
            self.neighbours = width // single
        norm = self.vision_model.post_layernorm
        fresh = nn.LayerNorm(single, device=norm.weight.device, dtype=norm.weight.dtype)
        self.vision_model.post_layernorm = fresh.requires_grad_(False)


class VisionTowerWithQFormer(VisionTower):  # type: ignore[no-untyped-call]
    """The Q-Former asks the tower with a few learned queries; its answers are the tokens."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        size = (1, config.num_query_tokens, config.qformer_config.hidden_size)
        self.query_tokens = nn.Parameter(torch.zeros(size))
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def width(self) -> int:
        return int(self.query_tokens.shape[2])

    @property
    def tokens(self) -> int:
        return int(self.query_tokens.shape[1])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        seen = self.vision_model(pixel_values).last_hidden_state
        queries = self.query_tokens.expand(len(seen), -1, -1)
        told = self.qformer(query_embeds=queries, encoder_hidden_states=seen)
        answers: torch.Tensor = told.last_hidden_state
        return answers


class ImageEncoder(nn.Module):
    """Pixels in, embeddings for the text model out."""

    def __init__(self, tower: VisionTower, projection: nn.Linear) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection

    @property
    def side(self) -> int:
        """Of the pictures that it looks at, in pixels."""
        side: Any = self.tower.vision_model.embeddings.image_size
        return int(side)

    @property
    def tokens(self) -> int:
        return self.tower.tokens

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(pictures, 3, side, side) to (pictures, tokens, width of the text model)."""
        place = self.projection.weight
        seen = self.tower(pixel_values.to(place.device))
        embeddings: torch.Tensor = self.projection(seen.to(place.dtype))
        return embeddings


def load_image_encoder(card: ModelCard, files: Path, device: str) -> ImageEncoder:
    """From `files`: BLIP-2 in the folder vision/, and MiniGPT-4's own checkpoint.

    Raises CardError where the card does not say what the model consists of, BackendError where
    the checkpoints do not fit together.
    """
    if not isinstance(card.architecture, ModulesArchitecture):
        raise CardError(
            f"{card.name}: its [architecture] must be of the kind 'modules', with a part "
            f"'{QFORMER}' if the model has a Q-Former"
        )
    trained = read_projection(card, files)
    cls: Any = VisionTowerWithQFormer if QFORMER in card.architecture.parts else VisionTower
    # What a card's quantization would save here is little, and it would cost sight.
    tower = from_folder(cls, card, files / VISION, device, quantized=False)
    if cls is VisionTower:
        tower.put_together(trained.reads)
    _check_widths(card, trained, tower.width)
    dtype = element_type(usual_quantization(card), device)
    return ImageEncoder(tower, trained.layer(device, dtype)).eval().requires_grad_(False)


def _check_widths(card: ModelCard, trained: Projection, width: int) -> None:
    if trained.reads != width:
        raise BackendError(
            f"{card.title}: {trained.name} was trained on {trained.reads} numbers a token, and "
            f"the parts that the card states make {width}. Fetch the checkpoint of this variant, "
            f"or correct whether the card has a part '{QFORMER}'."
        )
