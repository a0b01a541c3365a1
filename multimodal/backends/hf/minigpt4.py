"""MiniGPT-4: a text model of transformers that reads pictures as a few embeddings in its prompt.

Its folder holds three things: vision/, a checkpoint of BLIP-2, for its vision tower and Q-Former;
llm/, the text model; and MiniGPT-4's own checkpoint, a file of *.pth of whatever name, beside them
or in projection/. Its authors publish Vicuna as PyTorch's *.bin alone, so llm/ may hold that too.

The words between two pictures are turned into tokens by themselves, as in MiniGPT-4's training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, BlipImageProcessorPil

from multimodal.backends.base import Backend
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.hf.chat_model import Prompt, tokens_of
from multimodal.backends.hf.chat_template import ChatTemplate
from multimodal.backends.hf.minigpt4_pictures import VISION, ImageEncoder, load_image_encoder
from multimodal.backends.hf.vision_chat import (
    VisionChatModel,
    chat_messages,
    digest,
    sample_request,
)
from multimodal.backends.tokenizer_files import check_tokens, load_tokenizer
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CardError
from multimodal.requests import TextRequest

if TYPE_CHECKING:
    from PIL.Image import Image

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
    """One loaded model."""

    def __init__(self, card: ModelCard, llm: Any, tokenizer: Any, pictures: ImageEncoder) -> None:
        super().__init__(card, llm, tokenizer, ChatTemplate(tokenizer, card, [SIGN]))
        self._pictures: ImageEncoder | None = pictures
        self._per_picture = pictures.tokens
        self._processor = BlipImageProcessorPil(
            size={"height": pictures.side, "width": pictures.side}
        )

    def check(self) -> None:
        """Try a prompt with a picture, too."""
        super().check()
        prompt = self._prompt(sample_request(), self._card.system_prompt)
        check_tokens(self._card, self._tokenizer, self._model, prompt.tokens)

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
        return Prompt(tokens, self._inputs(pictures, places), about, places[-1] + 1)

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

    def _inputs(self, pictures: list[Image], places: list[int]) -> dict[str, torch.Tensor]:
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "places": torch.tensor(places)}

    def _beside(self, prompt: Prompt) -> Mapping[str, torch.Tensor]:
        """The embeddings of the whole prompt, if it shows a picture."""
        llm, pictures = self._model, self._pictures
        if not prompt.inputs or pictures is None:
            return {}
        embedded = llm.get_input_embeddings()(torch.tensor([prompt.tokens], device=llm.device))
        seen = pictures(prompt.inputs["pixel_values"]).flatten(0, 1)
        embedded[0, prompt.inputs["places"].to(embedded.device)] = seen.to(embedded.dtype)
        return {"inputs_embeds": embedded}
