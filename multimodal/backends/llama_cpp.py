"""GGUF text models on llama.cpp, in process, through xllamacpp.

The engine keeps `concurrency` slots over one key-value cache of `context_tokens` x `concurrency`
tokens, so every conversation has its full context whatever the others do. A slot that still holds
the beginning of a conversation computes only what is new; a prompt cache in host memory keeps
conversations whose slot went to somebody else.

The engine counts the prompt before it reads it. A conversation that is too long loses its oldest
turns, a quarter of a context at a time so that the cached beginning stays the same for many turns,
and the person is told. A single message that is too long is refused.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xllamacpp

from multimodal.backends.base import Backend, TextRequest, cores, stream
from multimodal.backends.sampling import settled
from multimodal.backends.trimming import left_out, surplus_turns, too_long
from multimodal.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import Event, Progress, TextDelta, Usage
from multimodal.messages import Finish

SILENT = -1
ALL = 999


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the one GGUF file in `files`. Raises BackendError where llama.cpp refuses it."""
    found = sorted(files.glob("*.gguf"))
    if not found:
        raise BackendError(f"{card.title}: there is no .gguf file in {files}")
    if card.context_tokens is None:
        raise BackendError(f"{card.title}: its card does not say how many tokens it reads")
    params = parameters(card, card.context_tokens, found[0], device)
    return LlamaCpp(card, card.context_tokens, params)


def parameters(
    card: ModelCard, context_tokens: int, path: Path, device: str
) -> xllamacpp.CommonParams:
    """On a card, `engine.gpu_layers` of the model's layers lie there, all unless the card says; it
    takes an xllamacpp that was built for CUDA, which the one on PyPI is not."""
    threads = int(card.engine.get("threads", 0)) or cores()
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context_tokens * card.concurrency
    params.n_parallel = card.concurrency
    params.kv_unified = True
    params.n_batch = params.n_ubatch = int(card.engine.get("n_batch", 512))
    params.cache_ram_mib = int(card.engine.get("prompt_cache_mib", 0))
    params.n_gpu_layers = int(card.engine.get("gpu_layers", ALL)) if device == "cuda" else 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = SILENT
    params.warmup = False
    # xllamacpp also opens a port on loopback. Nobody needs it, so nobody gets the key.
    params.api_keys = [secrets.token_hex(16)]
    params.ui = params.endpoint_slots = False
    return params


class LlamaCpp:
    """One loaded GGUF model; thread-safe up to the card's `concurrency`."""

    def __init__(
        self, card: ModelCard, context_tokens: int, params: xllamacpp.CommonParams
    ) -> None:
        self._card = card
        self._context_tokens = context_tokens
        self._server: xllamacpp.Server | None = xllamacpp.Server(params)

    def run(self, request: TextRequest, stop: threading.Event) -> Generator[Event, None, None]:
        """Yield Progress while the prompt is read, TextDelta per token, then one Usage.

        Raises PromptError when the newest message alone exceeds the context.
        """
        return stream(lambda emit, stopped: self._answer(request, emit, stopped), stop)

    def close(self) -> None:
        self._server = None

    def _answer(
        self,
        request: TextRequest,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> None:
        if self._server is None:
            raise BackendError(f"{self._card.title} was unloaded before it could answer")
        context = min(self._context_tokens, request.context_tokens or self._context_tokens)
        body = self._body(request, context)
        room = context - body["max_tokens"]
        while True:
            attempt = _Attempt(emit, stopped, room)
            self._server.handle_chat_completions(body, attempt.receive)
            if not attempt.too_long:
                break
            self._drop_oldest(body, attempt.prompt_tokens, context, emit)
        if attempt.error:
            raise BackendError(f"{self._card.title} failed: {attempt.error}")
        emit(attempt.usage(stopped(), body["seed"]))

    def _body(self, request: TextRequest, context_tokens: int) -> dict[str, Any]:
        chosen = settled(request.sampling, self._card, context_tokens)
        system = request.system_prompt or self._card.system_prompt
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": role, "content": text} for role, text in request.turns]
        return {
            "messages": messages,
            "stream": True,
            "cache_prompt": True,
            "return_progress": True,
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "repeat_penalty": chosen.repeat_penalty,
            "max_tokens": chosen.max_tokens,
            "seed": chosen.seed,
            "stop": list(chosen.stop),
        }

    def _drop_oldest(
        self,
        body: dict[str, Any],
        prompt_tokens: int,
        context_tokens: int,
        emit: Callable[[Event], None],
    ) -> None:
        messages: list[dict[str, str]] = body["messages"]
        system = 1 if messages[0]["role"] == "system" else 0
        turns = messages[system:]
        if len(turns) <= 2:
            raise too_long(self._card, prompt_tokens, context_tokens)
        lengths = [len(turn["content"]) for turn in turns]
        room = context_tokens - body["max_tokens"]
        dropped = surplus_turns(lengths, prompt_tokens, room, context_tokens // 4)
        body["messages"] = messages[:system] + turns[dropped:]
        emit(left_out(self._card, dropped, context_tokens))


@dataclass
class _Attempt:
    """One request as its chunks arrive; `receive` returns True to make the engine stop."""

    emit: Callable[[Event], None]
    stopped: Callable[[], bool]
    room: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    pieces: int = 0
    first_piece: float = 0.0
    too_long: bool = False
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
            self._report(progress)
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
            self.too_long, self.prompt_tokens = True, error["n_prompt_tokens"]
        else:
            self.error = error.get("message", "unknown error")

    def _counted(self, progress: dict[str, int]) -> bool:
        self.prompt_tokens, self.cached_tokens = progress["total"], progress["cache"]
        self.too_long = self.prompt_tokens > self.room
        return self.too_long

    def _report(self, progress: dict[str, Any]) -> None:
        total, done = progress["total"], progress["processed"]
        if 0 < done < total:
            self.emit(Progress("Reading the conversation", done / total))
