"""MiniGPT-4: a text model of transformers that reads pictures as a few embeddings in its prompt.

Its folder holds three things: vision/, a checkpoint of BLIP-2, for its vision tower and Q-Former;
llm/, the text model; and MiniGPT-4's own checkpoint, a file of *.pth of whatever name, beside them
or in projection/. Its authors publish Vicuna as PyTorch's *.bin alone, so llm/ may hold that too.

A picture goes through BLIP-2's vision tower, then its Q-Former or, in the variant without one,
neighbouring patches are put together; then through the one layer that MiniGPT-4 trained. The
language model of BLIP-2 is left where it is.

The words between two pictures are turned into tokens by themselves, as in MiniGPT-4's training.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Blip2PreTrainedModel,
    Blip2QFormerModel,
    Blip2VisionModel,
    BlipImageProcessorPil,
)

from multimodal.backends.base import Backend
from multimodal.backends.checkpoints import check_folder, element_type, from_folder
from multimodal.backends.hf.chat_model import Prompt, tokens_of
from multimodal.backends.hf.chat_template import ChatTemplate
from multimodal.backends.hf.vision_chat import VisionChatModel, chat_messages, digest
from multimodal.backends.tokenizer_files import load_tokenizer
from multimodal.catalog.architectures import ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CardError
from multimodal.memory.estimate.footprint import usual_quantization
from multimodal.requests import TextRequest

PROJECTION = "projection"
WEIGHT, BIAS = "llama_proj.weight", "llama_proj.bias"


def read_projection(card: ModelCard, files: Path) -> tuple[str, nn.Linear]:
    """The name of the one file of *.pth in `files`, or in its folder projection/, and the layer as
    it was saved there; what else its training left is not taken. Raises BackendError."""
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
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return found[0].name, layer


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
    name, trained = read_projection(card, files)
    cls: Any = VisionTowerWithQFormer if QFORMER in card.architecture.parts else VisionTower
    # What a card's quantization would save here is little, and it would cost sight.
    tower = from_folder(cls, card, files / VISION, device, quantized=False)
    if cls is VisionTower:
        tower.put_together(trained.in_features)
    if trained.in_features != tower.width:
        raise BackendError(
            f"{card.title}: {name} was trained on {trained.in_features} numbers a token, and the "
            f"parts that the card states make {tower.width}. Fetch the checkpoint of this variant, "
            f"or correct whether the card has a part '{QFORMER}'."
        )
    layer = trained.to(torch.device(device), element_type(usual_quantization(card), device))
    return ImageEncoder(tower, layer).eval().requires_grad_(False)


LLM = "llm"
SIGN = "<ImageHere>"
"""Where a chat template wants a picture. A person may type it too."""
PLACE = 0
"""The token that holds a picture's place until its embeddings are put there."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the parts that lie in the folder `files`."""
    check_folder(card, files / VISION)
    check_folder(card, files / LLM, pickled=True)
    if SIGN not in card.chat_template:
        raise CardError(f"{card.name}: its 'chat_template' must write {SIGN} for a picture")
    pictures = load_image_encoder(card, files, device)
    tokenizer = load_tokenizer(files / LLM)
    llm = from_folder(AutoModelForCausalLM, card, files / LLM, device, pickled=True)
    made, read = pictures.projection.out_features, llm.get_input_embeddings().embedding_dim
    if made != read:
        raise BackendError(
            f"{card.title}: its pictures become embeddings of {made} numbers, and the text model "
            f"in {LLM}/ reads {read}. Put the text model there that the checkpoint was trained for."
        )
    model = MiniGPT4(card, llm, tokenizer, pictures)
    model.check()
    return model


class MiniGPT4(VisionChatModel):
    def __init__(self, card: ModelCard, llm: Any, tokenizer: Any, pictures: ImageEncoder) -> None:
        super().__init__(card, llm, tokenizer, ChatTemplate(tokenizer, card, [SIGN]))
        self._pictures: ImageEncoder | None = pictures
        self._per_picture = pictures.tokens
        self._processor = BlipImageProcessorPil(
            size={"height": pictures.side, "width": pictures.side}
        )

    def close(self) -> None:
        super().close()
        self._pictures = None

    def modules(self) -> list[torch.nn.Module]:
        return [*super().modules(), *([self._pictures] if self._pictures is not None else [])]

    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        text = self._template.text(system, chat_messages(request))
        pictures = list(request.images)
        tokens, places = self._tokens(text, len(pictures))
        if not pictures:
            return Prompt(tokens)
        # A person may write the token that holds a place: where the pictures are tells it apart.
        about = f"{digest(pictures)} at {places[:: self._per_picture]}"
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"]
        inputs = {"pixel_values": pixels, "places": torch.tensor(places)}
        return Prompt(tokens, inputs, about, places[-1] + 1)

    def _tokens(self, text: str, pictures: int) -> tuple[list[int], list[int]]:
        """Of the prompt, and where in them the pictures are to be."""
        before, *behind = text.split(SIGN)
        if len(behind) != pictures:
            raise CardError(
                f"{self._card.name}: its 'chat_template' wrote {SIGN} {len(behind)} times for "
                f"{pictures} pictures; it must write it once for each"
            )
        tokens = list(tokens_of(self._tokenizer, before))
        places: list[int] = []
        for words in behind:
            places += range(len(tokens), len(tokens) + self._per_picture)
            tokens += [PLACE] * self._per_picture
            tokens += self._tokenizer(words, add_special_tokens=False)["input_ids"]
        return tokens, places

    def _beside(self, prompt: Prompt) -> Mapping[str, torch.Tensor]:
        """The embeddings of the whole prompt, if it shows a picture."""
        llm, pictures = self._model, self._pictures
        if not prompt.inputs or pictures is None:
            return {}
        embedded = llm.get_input_embeddings()(torch.tensor([prompt.tokens], device=llm.device))
        seen = pictures(prompt.inputs["pixel_values"]).flatten(0, 1)
        embedded[0, prompt.inputs["places"].to(embedded.device)] = seen.to(embedded.dtype)
        return {"inputs_embeds": embedded}
