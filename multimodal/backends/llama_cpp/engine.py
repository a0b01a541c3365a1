"""GGUF models on llama.cpp, in process, through xllamacpp: text models, and with a projector
(mmproj) models that see and talk.

The engine keeps `concurrency` slots, each with a key-value cache of `context_tokens` of its own, so
every conversation has its full context whatever the others do. A slot that still holds
the beginning of a conversation computes only what is new; a prompt cache in host memory keeps
conversations whose slot went to somebody else.

The engine counts the prompt before it reads it. A conversation that is too long loses its oldest
turns with their pictures, a quarter of a context at a time so that the cached beginning stays the
same for many turns, and the person is told. A single message that is too long is refused.

A stop takes effect between two batches of a prompt; a picture, or a tile of one, is looked at to
its end.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xllamacpp

from multimodal.backends.base import Backend, cores
from multimodal.backends.context_window import (
    dropped_turns_notice,
    prompt_too_long_error,
    surplus_turns,
)
from multimodal.backends.describing import describe
from multimodal.backends.engine_options import parse_options
from multimodal.backends.llama_cpp.gguf_files import GgufFiles, find_unsupported_reason, gguf_files
from multimodal.backends.llama_cpp.gguf_lora import gguf_lora
from multimodal.backends.llama_cpp.gguf_special_tokens import GgufTokenEscaper
from multimodal.backends.llama_cpp.messages import as_messages, length, pictures_in
from multimodal.backends.llama_cpp.options import LlamaCppOptions
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.sampling import ResolvedSampling, resolve_sampling
from multimodal.backends.special_tokens import check_template
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import EngineEvent, Notice, Progress, TextDelta
from multimodal.messages import Finish, Usage
from multimodal.requests import ImageDescriptionRequest, TextRequest

SILENT = -1


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the GGUF file in `files`, and its projector where the card is of a model that sees.
    Raises BackendError where they are not there, or llama.cpp refuses them; CardError for what the
    card says wrongly."""
    if card.context_tokens is None:
        raise BackendError(f"{card.title}: its card does not say how many tokens it reads")
    check_template(card)
    found = gguf_files(card, files)
    params = parameters(card, card.context_tokens, found, device)
    if card.adapter is not None:
        adapter = gguf_lora(card, found.language)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        reason = find_unsupported_reason(found)
        if card.chat_template:
            reason += ", or cannot read the chat_template of its card"
        raise BackendError(f"{card.title} could not be loaded: {reason}.") from error
    # Have the engine read one token. A server that is closed before its loop has started waits for
    # that loop for ever while it holds the GIL (seen in xllamacpp 2026.10).
    server.handle_completions({"prompt": "a", "n_predict": 0}, lambda _: False)
    signs = GgufTokenEscaper(found.language, card.chat_template)
    return LlamaCpp(card, card.context_tokens, server, signs)


def parameters(
    card: ModelCard, context_tokens: int, files: GgufFiles, device: str
) -> xllamacpp.CommonParams:
    """On a card, `engine.gpu_layers` of the model's layers lie there, all unless the card says; it
    takes an xllamacpp that was built for CUDA, which the one on PyPI is not."""
    options = parse_options(card, LlamaCppOptions)
    threads = options.threads or cores()
    params = xllamacpp.CommonParams()
    params.model.path = str(files.language)
    params.chat_template = card.chat_template
    if files.projector is not None:
        params.mmproj.path = str(files.projector)
    params.mmproj_use_gpu = device == "cuda"
    params.n_ctx = context_tokens * card.concurrency
    params.n_parallel = card.concurrency
    params.kv_unified = False  # what others ask at the same time changes no logit, and costs less
    params.n_batch = params.n_ubatch = options.n_batch
    params.cache_ram_mib = options.prompt_cache_mib
    params.n_gpu_layers = options.gpu_layers if device == "cuda" else 0
    # Weights that are laid out anew for the CPU would lie in memory a second time as a mapped file.
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = SILENT
    params.warmup = False
    # xllamacpp also opens a port on loopback. Nobody needs it, so nobody gets the key.
    params.api_keys = [secrets.token_hex(16)]
    params.ui = params.endpoint_slots = False
    return params


class LlamaCpp(LoadedModel[xllamacpp.Server]):
    """One loaded GGUF model; thread-safe up to the card's `concurrency`."""

    def __init__(
        self,
        card: ModelCard,
        context_tokens: int,
        server: xllamacpp.Server,
        signs: GgufTokenEscaper,
    ) -> None:
        super().__init__(card, server)
        self._options = parse_options(card, LlamaCppOptions)
        self._signs = signs
        self._context_tokens = context_tokens

    def run(
        self, request: TextRequest | ImageDescriptionRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Yield Progress while the prompt is read, TextDelta per token, then one Usage; of one
        picture that is described for another model, the Description at the end.

        Raises PromptError when the newest message alone exceeds the context.
        """
        if isinstance(request, ImageDescriptionRequest):
            return describe(request, lambda asked: self.run(asked, stop))
        return self._worker.stream(lambda emit, stopped: self._answer(request, emit, stopped), stop)

    def _answer(self, request: TextRequest, emit: Emit, stopped: Stopped) -> None:
        server = self._model
        context = min(self._context_tokens, request.context_tokens or self._context_tokens)
        chosen = resolve_sampling(request.sampling, self._card, context)
        body = self._body(request, chosen)
        # What another request left in a slot was computed in other batches, and rounded otherwise.
        body["cache_prompt"] = request.sampling.seed is None
        room = context - chosen.reserved_tokens
        dropped, rounds, notice = 0, 0, None
        while True:
            most = min(room, context - body["max_tokens"])
            attempt = _Attempt(emit, stopped, most, notice)
            server.handle_chat_completions(body, attempt.receive)
            if not attempt.is_too_long or stopped():
                break
            if attempt.prompt_tokens <= room:  # the answer gets what the prompt leaves
                body["max_tokens"] = context - attempt.prompt_tokens
                continue
            dropped += self._drop_oldest(body, attempt.prompt_tokens, context, room, rounds)
            rounds += 1
            notice = dropped_turns_notice(self._card, dropped, context)
        if attempt.error:
            raise BackendError(f"{self._card.title} failed: {attempt.error}")
        if not self._signs.has_template:
            emit(
                Notice(
                    f"{self._card.title} has no chat template, so it read this conversation in "
                    "llama.cpp's usual form (ChatML), which it may not have been taught. Write its "
                    "own into its card as 'chat_template'."
                )
            )
        emit(attempt.usage(stopped(), body["seed"]))

    def _body(self, request: TextRequest, chosen: ResolvedSampling) -> dict[str, Any]:
        system = request.system_prompt or self._card.system_prompt
        escape = self._signs.escape
        opening = [{"role": "system", "content": escape(system, False)}] if system else []
        turns = (replace(m, text=escape(m.text, m.role == "user")) for m in request.messages)
        said = as_messages(replace(request, messages=tuple(turns)), self._options.after_picture)
        return {
            "messages": [*opening, *said],
            "stream": True,
            "return_progress": True,
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "repeat_penalty": chosen.repeat_penalty,
            "max_tokens": chosen.max_tokens,
            "seed": chosen.seed,
            "stop": list(chosen.stop),
            **({} if chosen.top_k is None else {"top_k": chosen.top_k}),
            **({} if chosen.min_p is None else {"min_p": chosen.min_p}),
        }

    def _drop_oldest(
        self, body: dict[str, Any], prompt_tokens: int, context_tokens: int, room: int, rounds: int
    ) -> int:
        """Leave out the oldest turns; how many. `rounds`: how often some were before."""
        messages: list[dict[str, Any]] = body["messages"]
        system = 1 if messages[0]["role"] == "system" else 0
        turns = messages[system:]
        if len(turns) <= 2:
            shown = sum(pictures_in(turn["content"]) for turn in turns)
            raise prompt_too_long_error(self._card, prompt_tokens, context_tokens, shown)
        picture_tokens = self._options.picture_tokens
        lengths = [length(turn["content"], picture_tokens) for turn in turns]
        dropped = surplus_turns(lengths, prompt_tokens, room, context_tokens // 4, rounds)
        body["messages"] = messages[:system] + turns[dropped:]
        return dropped


@dataclass
class _Attempt:
    """One request as its chunks arrive; `receive` returns True to make the engine stop. `notice`
    is told once the prompt is known to fit."""

    emit: Emit
    stopped: Stopped
    room: int
    notice: Notice | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    pieces: int = 0
    first_piece: float = 0.0
    is_too_long: bool = False
    error: str | None = None
    finish: Finish = "stop"
    timings: dict[str, Any] = field(default_factory=dict)

    def receive(self, chunk: dict[str, Any]) -> bool:
        if "error" in chunk:
            self._refused(chunk["error"])
            return True
        choice = chunk["choices"][0] if chunk.get("choices") else {}
        if text := choice.get("delta", {}).get("content"):
            self.pieces += 1
            self.first_piece = self.first_piece or time.perf_counter()
            self.emit(TextDelta(text))
        elif progress := chunk.get("prompt_progress"):
            if self._counted(progress):
                return True
            if 0 < progress["processed"] < self.prompt_tokens:
                share = progress["processed"] / self.prompt_tokens
                self.emit(Progress("Reading the conversation", share))
        if choice.get("finish_reason") == "length":
            self.finish = "length"
        self.timings = chunk.get("timings", self.timings)
        return self.stopped()

    def usage(self, stopped: bool, seed: int) -> Usage:
        """The engine's own count; a stopped request gets none, so its pieces are counted here."""
        told = self.timings
        since_first = time.perf_counter() - self.first_piece if self.pieces else 0.0
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=told.get("cache_n", self.cached_tokens),
            completion_tokens=told.get("predicted_n", self.pieces),
            decode_s=told.get("predicted_ms", since_first * 1000) / 1000,
            finish="stopped" if stopped and not told else self.finish,
            seed=seed,
        )

    def _refused(self, error: dict[str, Any]) -> None:
        if error.get("type") == "exceed_context_size_error":
            self.is_too_long, self.prompt_tokens = True, error["n_prompt_tokens"]
        else:
            self.error = error.get("message", "unknown error")

    def _counted(self, progress: dict[str, int]) -> bool:
        self.prompt_tokens, self.cached_tokens = progress["total"], progress["cache"]
        self.is_too_long = self.prompt_tokens > self.room
        if self.notice is not None and not self.is_too_long:
            self.emit(self.notice)
            self.notice = None
        return self.is_too_long
