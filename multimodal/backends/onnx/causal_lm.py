"""Text models in ONNX, in the folder that `multimodal export --to onnx` writes: the graph, the
tokenizer with its chat template, and generation_config.json with the tokens that end an answer.

The reply is written token by token as transformers' engine writes it: drawn in the same way from
the same seed, told by the same streamer, and what was computed of a conversation is kept for its
next turn.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

from multimodal.backends.base import Backend
from multimodal.backends.context_window import fit_conversation
from multimodal.backends.engine_options import parse_options
from multimodal.backends.hf.chat_model import tokens_of
from multimodal.backends.hf.chat_template import ChatTemplate, missing_template_notice
from multimodal.backends.hf.generation import (
    TokenStreamer,
    end_tokens,
    processors,
    published_sampling,
)
from multimodal.backends.hf.prefix_cache import HOST, PrefixCaches
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.onnx.decoder import Decoder, KeyValues
from multimodal.backends.onnx.layout import PIECE_TOKENS
from multimodal.backends.onnx.options import OnnxTextOptions
from multimodal.backends.sampling import ResolvedSampling, resolve_sampling
from multimodal.backends.tokenizer_files import LOCAL, load_tokenizer
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard
from multimodal.events import EngineEvent, Progress
from multimodal.memory.estimate.footprint import DEFAULT_TOKENS
from multimodal.messages import Usage
from multimodal.requests import TextRequest


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model of the folder `files`; runs on the CPU. Raises BackendError."""
    decoder = Decoder(files, parse_options(card, OnnxTextOptions).threads)
    told = GenerationConfig.from_pretrained(files, **LOCAL)
    return OnnxCausalLM(card, decoder, load_tokenizer(files), told)


class OnnxCausalLM(LoadedModel[Decoder]):
    """One loaded model; it answers one conversation at a time."""

    def __init__(
        self, card: ModelCard, decoder: Decoder, tokenizer: Any, told: GenerationConfig
    ) -> None:
        super().__init__(card, decoder)
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, card)
        options = parse_options(card, OnnxTextOptions)
        self._caches = PrefixCaches(options.prompt_cache_mib << 20)
        configured = SimpleNamespace(generation_config=told)
        self._published = published_sampling(configured)
        self._ends = frozenset(end_tokens(configured, tokenizer))
        self._turn = threading.Lock()

    def run(
        self, request: TextRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Yield Progress while a long prompt is read, TextDelta as words come, then one Usage.

        Raises PromptError when the newest message alone exceeds the context.
        """
        return self._worker.stream(lambda emit, stopped: self._answer(request, emit, stopped), stop)

    def close(self) -> None:
        super().close()
        self._caches.clear()

    def _prompt(self, request: TextRequest) -> Sequence[int]:
        said = [{"role": turn.role, "content": turn.text} for turn in request.messages]
        return list(tokens_of(self._tokenizer, self._template.text(request.system_prompt, said)))

    def _answer(self, request: TextRequest, emit: Emit, stopped: Stopped) -> None:
        reads = self._card.context_tokens or DEFAULT_TOKENS
        context = min(reads, request.context_tokens or reads)
        chosen = resolve_sampling(request.sampling, self._card, context, self._published)
        request = replace(request, system_prompt=request.system_prompt or self._card.system_prompt)
        with self._turn:
            room = context - chosen.reserved_tokens
            prompt = fit_conversation(
                self._card, request, context, room, self._prompt, len, emit, stopped
            )
            if prompt is None:
                emit(Usage(0, 0, 0, 0.0, "stopped", chosen.seed))
                return
            left = min(chosen.max_tokens, context - len(prompt))
            self._write(prompt, replace(chosen, max_tokens=left), emit, stopped)

    @torch.no_grad()
    def _write(
        self, prompt: Sequence[int], chosen: ResolvedSampling, emit: Emit, stopped: Stopped
    ) -> None:
        decoder = self._model
        reply = TokenStreamer(
            self._tokenizer, (*chosen.stop, *self._template.stop_words), emit, stopped
        )
        reply.put(torch.tensor(prompt))
        choose: Any = processors(chosen, len(prompt), HOST)
        past = self._known(decoder, prompt)
        cached = past.tokens
        scores, past = self._read(decoder, prompt, past, emit, stopped)
        said = list(prompt)
        while not reply.is_finished:
            said.append(int(choose(torch.tensor([said]), scores).argmax()))
            reply.put(torch.tensor(said[-1:]))
            if said[-1] in self._ends or len(reply.tokens) == chosen.max_tokens:
                break
            if not reply.is_finished:
                logits, past = decoder.read(said[-1:], past)
                scores = torch.from_numpy(logits[-1:])
        reply.end()
        self._keep(said, past)
        if self._template.is_plain:
            emit(missing_template_notice(self._card))
        ends = bool(self._ends & set(reply.tokens[-1:]))
        emit(reply.usage(len(prompt), cached, chosen, ends))

    def _read(
        self, decoder: Decoder, prompt: Sequence[int], past: KeyValues, emit: Emit, stopped: Stopped
    ) -> tuple[torch.Tensor, KeyValues]:
        """The logits behind the prompt, of shape (1, vocabulary), and keys and values of it, or of
        as much as was read until it was stopped."""
        scores = torch.zeros(1, 0)
        while past.tokens < len(prompt) and not stopped():
            piece = prompt[past.tokens : past.tokens + PIECE_TOKENS]
            logits, past = decoder.read(piece, past)
            scores = torch.from_numpy(logits[-1:])
            if past.tokens < len(prompt):
                emit(Progress("Reading the conversation", past.tokens / len(prompt)))
        return scores, past

    # ------------------------------------------------------------ between two turns

    def _known(self, decoder: Decoder, prompt: Sequence[int]) -> KeyValues:
        """What is known of this conversation."""
        kept = self._caches.take(prompt, HOST)
        if kept is None:
            return decoder.empty()
        pairs = ((layer.keys, layer.values) for layer in kept.layers)
        return decoder.restore([tensor.numpy() for pair in pairs for tensor in pair])

    def _keep(self, said: Sequence[int], past: KeyValues) -> None:
        """Remember what was computed, which may be all but the last token."""
        if past.tokens:
            tensors = [torch.from_numpy(array) for array in past.arrays()]
            pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
            self._caches.keep(said, DynamicCache(pairs))
