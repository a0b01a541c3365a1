"""What every talking model of transformers does alike: fit the conversation into its context, use
again what was computed of it, read what is new, and write the reply.

A long prompt is read in pieces, so that a stop takes effect soon and little memory is needed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import GenerationMixin, StoppingCriteriaList

from multimodal.backends.base import TextRequest, stream
from multimodal.backends.chat_template import ChatTemplate
from multimodal.backends.decoder import Decoder
from multimodal.backends.generation import (
    Emit,
    Over,
    Reply,
    end_tokens,
    generation_config,
    processors,
)
from multimodal.backends.loaded import Loaded
from multimodal.backends.prefix_cache import PrefixCaches, can_be_kept, empty_cache
from multimodal.backends.sampling import Settled, settled
from multimodal.backends.static_step import forget_compiled
from multimodal.backends.trimming import left_out, surplus_turns, too_long
from multimodal.cards import ModelCard
from multimodal.events import Event, Progress
from multimodal.memory.footprint import DEFAULT_TOKENS

PIECE_TOKENS = 512
PROMPT_CACHE_MIB = 2048


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads. `inputs` are tensors beside the tokens: the pictures in them, which
    `about` names and which end at token `seen_until`."""

    tokens: list[int]
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    about: str = ""
    seen_until: int = 0


class Talker(Loaded[Any], ABC):
    """One loaded model; it answers one conversation at a time."""

    def __init__(self, card: ModelCard, model: Any, tokenizer: Any, template: ChatTemplate) -> None:
        super().__init__(card, model)
        self._tokenizer = tokenizer
        self._template = template
        mib = int(card.engine.get("prompt_cache_mib", PROMPT_CACHE_MIB))
        self._caches = PrefixCaches(mib << 20)
        self._decoder = Decoder(card, model)
        self._turn = threading.Lock()

    def run(self, request: TextRequest, stop: threading.Event) -> Generator[Event, None, None]:
        """Yield Progress while a long prompt is read, TextDelta as words come, then one Usage.

        Raises PromptError when the newest message alone exceeds the context.
        """
        return stream(lambda emit, stopped: self._answer(request, emit, stopped), stop)

    def close(self) -> None:
        if self._held is not None:
            forget_compiled(self._held)
        super().close()
        self._caches.clear()

    @abstractmethod
    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        """The conversation as this model reads it."""

    def _beside(self, prompt: Prompt) -> Mapping[str, torch.Tensor]:
        """What `generate` gets beside the tokens when nothing of the pictures is known yet."""
        return prompt.inputs

    # ------------------------------------------------------------ one answer

    @torch.no_grad()
    def _answer(self, request: TextRequest, emit: Emit, stopped: Callable[[], bool]) -> None:
        reads = self._card.context_tokens or DEFAULT_TOKENS
        context = min(reads, request.context_tokens or reads)
        chosen = settled(request.sampling, self._card, context)
        with self._turn:
            prompt = self._fitting(request, context, context - chosen.max_tokens, emit)
            self._write(prompt, chosen, context, emit, stopped)

    def _fitting(self, request: TextRequest, context: int, room: int, emit: Emit) -> Prompt:
        """The prompt, without the oldest turns if it is too long."""
        system = request.system_prompt or self._card.system_prompt
        total = 0
        while (count := len((prompt := self._prompt(request, system)).tokens)) > room:
            if len(request.turns) <= 2:
                raise too_long(self._card, count, context, len(request.pictures))
            lengths = [len(text) for _, text in request.turns]
            dropped = surplus_turns(lengths, count, room, context // 4)
            kept = tuple((at - dropped, seen) for at, seen in request.pictures if at >= dropped)
            request = replace(request, turns=request.turns[dropped:], pictures=kept)
            total += dropped
        if total:
            emit(left_out(self._card, total, context))
        return prompt

    def _write(
        self,
        prompt: Prompt,
        chosen: Settled,
        context: int,
        emit: Emit,
        stopped: Callable[[], bool],
    ) -> None:
        model: Any = self._model
        cache = self._cache_for(prompt, chosen.max_tokens, context)
        cached = int(cache.get_seq_length()) if cache is not None else 0
        inputs = {} if cached else self._beside(prompt)
        ids = torch.tensor([prompt.tokens], device=model.device)
        reply = Reply(self._tokenizer, (*chosen.stop, *self._template.stop_words), emit, stopped)
        if cache is not None and not inputs:
            self._read(ids, cache, emit, stopped)
        if not stopped():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=generation_config(model, self._tokenizer, chosen),
                logits_processor=processors(chosen, ids.shape[1], model.device),
                stopping_criteria=StoppingCriteriaList([Over(reply)]),
                **inputs,
                **self._manner(prompt, cache, reply, emit),
            )
            reply.end()
        if cache is not None:
            kept = self._decoder.kept(model, cache)
            self._caches.keep([*prompt.tokens, *reply.tokens], kept, prompt.about)
        ends = set(end_tokens(model, self._tokenizer)) & set(reply.tokens[-1:])
        emit(reply.usage(ids.shape[1], cached, chosen, bool(ends)))

    def _manner(
        self, prompt: Prompt, cache: Any | None, reply: Reply, emit: Emit
    ) -> dict[str, Any]:
        """How `generate` is to write: by the decoder's loop, if the cache is ours."""
        if cache is None:
            return {"streamer": reply}
        loop = self._decoder.decoding(self._model, cache, reply, prompt.tokens, emit)
        return {"past_key_values": cache, "custom_generate": loop}

    def _cache_for(self, prompt: Prompt, reply_tokens: int, context: int) -> Any | None:
        """What is known of this conversation, or an empty cache; None for a model that makes its
        cache itself, or one that cannot be kept."""
        model: Any = self._model
        if type(model).generate is not GenerationMixin.generate:
            return None
        begun = empty_cache(model)
        if not can_be_kept(begun):
            return None
        device = self._decoder.keeps_on(model)
        known = self._caches.take(prompt.tokens, device, prompt.about, prompt.seen_until)
        tokens = len(prompt.tokens) + reply_tokens
        return self._decoder.cache(model, known or begun, tokens, context)

    def _read(self, ids: torch.Tensor, cache: Any, emit: Emit, stopped: Callable[[], bool]) -> None:
        """Compute the prompt but for its last piece, which `generate` reads."""
        model: Any = self._model
        start = int(cache.get_seq_length())
        while ids.shape[1] - start > PIECE_TOKENS and not stopped():
            piece = ids[:, start : start + PIECE_TOKENS]
            model.base_model(input_ids=piece, past_key_values=cache, use_cache=True)
            start += PIECE_TOKENS
            emit(Progress("Reading the conversation", start / ids.shape[1]))


def tokens_of(tokenizer: Any, text: str) -> Sequence[int]:
    """`text` in tokens; what opens every text is put before it, unless the template did."""
    found: Sequence[int] = tokenizer(text, add_special_tokens=not opens(tokenizer, text))[
        "input_ids"
    ]
    return found


def opens(tokenizer: Any, text: str) -> bool:
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
