"""Text models of transformers: chat templates, streaming, and second turns that compute only what
is new.

A long prompt is read in pieces, so that a stop takes effect soon and little memory is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, StoppingCriteriaList

from multimodal.backends.base import Backend, TextRequest, stream
from multimodal.backends.chat_template import ChatTemplate
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.generation import (
    Emit,
    Over,
    Reply,
    end_tokens,
    generation_config,
    processors,
)
from multimodal.backends.prefix_cache import PrefixCaches
from multimodal.backends.sampling import Settled, settled
from multimodal.backends.trimming import left_out, surplus_turns, too_long
from multimodal.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.memory.footprint import DEFAULT_TOKENS
from multimodal.messages import Progress

PIECE_TOKENS = 512
PROMPT_CACHE_MIB = 1024


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model and the tokenizer of the folder `files`."""
    check_folder(card, files)
    tokenizer = AutoTokenizer.from_pretrained(files, local_files_only=True, trust_remote_code=False)
    return CausalLM(card, from_folder(AutoModelForCausalLM, card, files, device), tokenizer)


class CausalLM:
    """One loaded text model; it answers one conversation at a time."""

    def __init__(self, card: ModelCard, model: Any, tokenizer: Any) -> None:
        self._card = card
        self._model: Any | None = model
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, card)
        mib = int(card.engine.get("prompt_cache_mib", PROMPT_CACHE_MIB))
        self._caches = PrefixCaches(mib << 20)
        self._turn = threading.Lock()

    def run(self, request: TextRequest, stop: threading.Event) -> Generator[Any, None, None]:
        """Yield Progress while a long prompt is read, TextDelta as words come, then one Usage.

        Raises PromptError when the newest message alone exceeds the context.
        """
        return stream(lambda emit, stopped: self._answer(request, emit, stopped), stop)

    def close(self) -> None:
        self._model = None
        self._caches.clear()

    def modules(self) -> list[torch.nn.Module]:
        """What may be moved off the device and back while nobody asks."""
        return [self._model] if self._model is not None else []

    @torch.no_grad()
    def _answer(self, request: TextRequest, emit: Emit, stopped: Callable[[], bool]) -> None:
        if self._model is None:
            raise BackendError(f"{self._card.title} was unloaded before it could answer")
        reads = self._card.context_tokens or DEFAULT_TOKENS
        context = min(reads, request.context_tokens or reads)
        chosen = settled(request.sampling, self._card, context)
        with self._turn:
            tokens = self._fitting(request, context, context - chosen.max_tokens, emit)
            self._write(tokens, chosen, emit, stopped)

    def _fitting(self, request: TextRequest, context: int, room: int, emit: Emit) -> list[int]:
        """The prompt's tokens, without the oldest turns if it is too long."""
        turns = list(request.turns)
        system = request.system_prompt or self._card.system_prompt
        while len(tokens := self._tokens(system, turns)) > room:
            if len(turns) <= 2:
                raise too_long(self._card, len(tokens), context)
            lengths = [len(text) for _, text in turns]
            dropped = surplus_turns(lengths, len(tokens), room, context // 4)
            turns = turns[dropped:]
            emit(left_out(self._card, dropped, context))
        return tokens

    def _tokens(self, system: str, turns: list[tuple[Any, str]]) -> list[int]:
        said = [{"role": role, "content": text} for role, text in turns]
        text = self._template.text(system, said)
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _write(
        self, tokens: list[int], chosen: Settled, emit: Emit, stopped: Callable[[], bool]
    ) -> None:
        model: Any = self._model
        cache = self._caches.take(tokens, model.device) or DynamicCache(config=model.config)
        cached = cache.get_seq_length()
        ids = torch.tensor([tokens], device=model.device)
        stop_words = (*chosen.stop, *self._template.stop_words)
        reply = Reply(self._tokenizer, stop_words, emit, stopped)
        self._read(ids, cache, emit, stopped)
        if not stopped():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                generation_config=generation_config(model, self._tokenizer, chosen),
                logits_processor=processors(chosen, len(tokens), model.device),
                stopping_criteria=StoppingCriteriaList([Over(reply)]),
                streamer=reply,
            )
        self._caches.keep([*tokens, *reply.tokens], cache)
        ends = set(end_tokens(model, self._tokenizer)) & set(reply.tokens[-1:])
        emit(reply.usage(len(tokens), cached, chosen, bool(ends)))

    def _read(self, ids: torch.Tensor, cache: Any, emit: Emit, stopped: Callable[[], bool]) -> None:
        """Compute the prompt but for its last piece, which `generate` reads."""
        model: Any = self._model
        start = cache.get_seq_length()
        while ids.shape[1] - start > PIECE_TOKENS and not stopped():
            piece = ids[:, start : start + PIECE_TOKENS]
            model.base_model(piece, past_key_values=cache, use_cache=True)
            start += PIECE_TOKENS
            emit(Progress("Reading the conversation", start / ids.shape[1]))
