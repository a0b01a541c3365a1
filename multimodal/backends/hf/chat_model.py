"""What every talking model of transformers does alike: fit the conversation into its context, use
again what was computed of it, read what is new, and write the reply.

A long prompt is read in pieces, so that a stop takes effect soon and little memory is needed.
"""

from __future__ import annotations

import gc
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import StoppingCriteriaList

from multimodal.backends.adapters import adapter_digest
from multimodal.backends.context_window import fit_conversation
from multimodal.backends.engine_options import parse_options
from multimodal.backends.hf.chat_template import ChatTemplate, missing_template_notice
from multimodal.backends.hf.generation import (
    StopOnEvent,
    TokenStreamer,
    end_tokens,
    generation_config,
    processors,
    published_sampling,
)
from multimodal.backends.hf.options import ChatOptions
from multimodal.backends.hf.prefix_cache import (
    CACHE_ARGUMENT,
    HOST,
    PrefixCaches,
    accepts_cache,
    dynamic_copy,
    new_kv_cache,
    static_cache,
    static_length,
)
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.module_adapters import Adapters
from multimodal.backends.sampling import ResolvedSampling, resolve_sampling
from multimodal.backends.tokenizer_files import check_tokens, check_vocabulary
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard
from multimodal.errors import CardError
from multimodal.events import EngineEvent, Progress
from multimodal.memory.estimate.footprint import DEFAULT_TOKENS
from multimodal.messages import Usage
from multimodal.requests import ChatMessage, TextRequest

PIECE_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads. `inputs` are tensors beside the tokens: the pictures in them, which
    `about` names and which end at token `seen_until`; with an adapter, `about` names that, too."""

    tokens: list[int]
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    about: str = ""
    seen_until: int = 0


class ChatModel(LoadedModel[Any], ABC):
    """One loaded model; it answers one conversation at a time."""

    def __init__(self, card: ModelCard, model: Any, tokenizer: Any, template: ChatTemplate) -> None:
        super().__init__(card, model)
        self._tokenizer = tokenizer
        self._template = template
        self._options = parse_options(card, ChatOptions)
        self._caches = PrefixCaches(self._options.prompt_cache_mib << 20)
        self._is_cache_taken = accepts_cache(model)
        if self._options.needs_cache and not self._is_cache_taken:
            raise CardError(
                f"{card.name}: leave 'prompt_lookup_num_tokens' and 'cache_implementation' out of "
                f"'engine': {type(model).__name__} makes its cache itself"
            )
        self._published = published_sampling(model)
        # The cache is ours, and these are asked for by the card: a checkpoint's would be added.
        model.generation_config.cache_implementation = None
        model.generation_config.prompt_lookup_num_tokens = None
        self._turn = threading.Lock()
        self._adapters = Adapters(card.title)

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def prompt(self, request: TextRequest) -> Prompt:
        """The whole of that conversation as this model reads it."""
        return self._prompt(request, request.system_prompt or self._card.system_prompt)

    def run(
        self, request: TextRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Yield Progress while a long prompt is read, TextDelta as words come, then one Usage.

        Raises PromptError when the newest message alone exceeds the context.
        """
        return self._worker.stream(lambda emit, stopped: self._answer(request, emit, stopped), stop)

    def adapted(self, card: ModelCard) -> AdaptedChat:
        """This model with the adapter of `card`; see `base.AdapterHost`."""
        return AdaptedChat(self, card)

    def run_adapted(
        self, request: TextRequest, stop: threading.Event, adapted: AdaptedChat
    ) -> Generator[EngineEvent, None, None]:
        """`run` with that adapter on."""
        return self._worker.stream(
            lambda emit, stopped: self._answer(request, emit, stopped, adapted), stop
        )

    def close(self) -> None:
        super().close()
        self._adapters.clear()
        self._caches.clear()
        if self._options.is_static:
            gc.collect()  # a compiled model and its compiled step refer to each other

    def check(self) -> None:
        """Try short conversations without computing anything. Raises BackendError where the model
        could not read one, so that this is found out at load and not at the first question."""
        check_vocabulary(self._card, self._tokenizer, self._model)
        for request in self._samples():
            self._check_prompt(self.prompt(request))

    def _samples(self) -> list[TextRequest]:
        greeting = ChatMessage("user", "Hello."), ChatMessage("assistant", "Hello.")
        return [TextRequest((*greeting, ChatMessage("user", "Who is it?")))]

    def _check_prompt(self, prompt: Prompt) -> None:
        check_tokens(self._card, self._tokenizer, self._model, prompt.tokens)

    @abstractmethod
    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        """The conversation as this model reads it."""

    def _beside(self, prompt: Prompt) -> Mapping[str, torch.Tensor]:
        """What `generate` gets beside the tokens when nothing of the pictures is known yet."""
        return prompt.inputs

    # ------------------------------------------------------------ one answer

    @torch.no_grad()
    def _answer(
        self,
        request: TextRequest,
        emit: Emit,
        stopped: Stopped,
        adapted: AdaptedChat | None = None,
    ) -> None:
        card = self._card if adapted is None else adapted.card
        reads = self._card.context_tokens or DEFAULT_TOKENS
        context = min(reads, request.context_tokens or reads)
        chosen = resolve_sampling(request.sampling, card, context, self._published)
        request = replace(request, system_prompt=request.system_prompt or card.system_prompt)
        with self._turn, self._with_adapter(adapted) as about:
            room = context - chosen.reserved_tokens
            prompt = self._fitting(request, context, room, emit, stopped)
            if prompt is None:
                emit(Usage(0, 0, 0, 0.0, "stopped", chosen.seed))
                return
            left = min(chosen.max_tokens, context - len(prompt.tokens))
            prompt = replace(prompt, about=prompt.about + about)
            self._write(prompt, replace(chosen, max_tokens=left), context, emit, stopped)

    @contextmanager
    def _with_adapter(self, adapted: AdaptedChat | None) -> Iterator[str]:
        """The block with that adapter on; what its conversations are kept apart by."""
        if adapted is None:
            yield ""
            return
        model: Any = self._model
        with self._adapters.applied(model, adapted.card, model.device) as seconds:
            adapted.switch_s += seconds
            folder = adapted.card.adapter
            yield "" if folder is None else f" with {adapter_digest(folder)}"

    def _fitting(
        self, request: TextRequest, context: int, room: int, emit: Emit, stopped: Stopped
    ) -> Prompt | None:
        """The prompt, without the oldest turns if it is too long; None once it is stopped."""
        return fit_conversation(
            self._card,
            request,
            context,
            room,
            self.prompt,
            lambda prompt: len(prompt.tokens),
            emit,
            stopped,
        )

    def _write(
        self, prompt: Prompt, chosen: ResolvedSampling, context: int, emit: Emit, stopped: Stopped
    ) -> None:
        model: Any = self._model
        guesses = self._guesses(prompt, chosen)
        cache = None if guesses else self._cache_for(prompt, chosen.max_tokens, context)
        cached = int(cache.get_seq_length()) if cache is not None else 0
        inputs = {} if cached else self._beside(prompt)
        ids = torch.tensor([prompt.tokens], device=model.device)
        reply = TokenStreamer(
            self._tokenizer, (*chosen.stop, *self._template.stop_words), emit, stopped
        )
        if cache is not None and not inputs:
            self._read(ids, cache, emit, stopped)
        if not stopped():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=generation_config(
                    model, self._tokenizer, chosen, guesses, self._options.is_static
                ),
                logits_processor=processors(chosen, ids.shape[1], model.device),
                stopping_criteria=StoppingCriteriaList([StopOnEvent(reply)]),
                streamer=reply,
                **inputs,
                **({} if cache is None else {CACHE_ARGUMENT: cache}),
            )
            reply.end()
        if cache is not None:
            self._keep([*prompt.tokens, *reply.tokens], cache, prompt.about)
        if self._template.is_plain:
            emit(missing_template_notice(self._card))
        ends = set(end_tokens(model, self._tokenizer)) & set(reply.tokens[-1:])
        emit(reply.usage(ids.shape[1], cached, chosen, bool(ends)))

    def _guesses(self, prompt: Prompt, chosen: ResolvedSampling) -> int:
        """How many tokens are guessed at a time. Where tokens are drawn, `generate` would try each
        guess on a draw of its own and drop nearly all; and a guess may not stand for a picture
        while pictures are read."""
        if chosen.temperature > 0 or prompt.inputs:
            return 0
        return self._options.prompt_lookup_num_tokens

    def _cache_for(self, prompt: Prompt, reply_tokens: int, context: int) -> Any | None:
        """What is known of this conversation, or an empty cache; None for a model that makes its
        cache itself, or one that cannot be kept."""
        model: Any = self._model
        if not self._is_cache_taken:
            return None
        device = HOST if self._options.is_static else model.device
        known = self._caches.take(prompt.tokens, device, prompt.about, prompt.seen_until)
        if self._options.is_static:
            tokens = len(prompt.tokens) + reply_tokens
            return static_cache(model, static_length(tokens, context), known)
        return new_kv_cache(model) if known is None else known

    def _keep(self, tokens: Sequence[int], cache: Any, about: str) -> None:
        """Remember what was computed of `tokens` for the next turn."""
        kept = dynamic_copy(self._model, cache) if self._options.is_static else cache
        if kept is not None:
            self._caches.keep(tokens, kept, about)

    def _read(self, ids: torch.Tensor, cache: Any, emit: Emit, stopped: Stopped) -> None:
        """Compute the prompt but for its last piece, which `generate` reads."""
        model: Any = self._model
        start = int(cache.get_seq_length())
        while ids.shape[1] - start > PIECE_TOKENS and not stopped():
            piece = ids[:, start : start + PIECE_TOKENS]
            model.base_model(input_ids=piece, use_cache=True, **{CACHE_ARGUMENT: cache})
            start += PIECE_TOKENS
            emit(Progress("Reading the conversation", start / ids.shape[1]))


@dataclass
class AdaptedChat:
    """A chat model as it answers with the adapter of `card`, for one lease."""

    model: ChatModel
    card: ModelCard
    switch_s: float = 0.0

    def run(
        self, request: TextRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """As `ChatModel.run`. Raises BackendError where the adapter cannot be used."""
        return self.model.run_adapted(request, stop, self)

    def close(self) -> None:
        """Nothing: the adapter is off the model between two requests."""


def tokens_of(tokenizer: Any, text: str) -> Sequence[int]:
    """`text` in tokens; what opens every text is put before it, unless the template did."""
    found: Sequence[int] = tokenizer(text, add_special_tokens=not begins_with_bos(tokenizer, text))[
        "input_ids"
    ]
    return found


def begins_with_bos(tokenizer: Any, text: str) -> bool:
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
