"""One reply, token by token, with transformers' own `generate`.

The random numbers come from the reply's seed and the place of the token alone, so that a seed gives
the same answer whatever else runs. Text is told as soon as its bytes are whole; what may be the
start of a stop word is held back until it is known.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import (
    CompileConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from multimodal.backends.sampling import PublishedSampling, ResolvedSampling
from multimodal.backends.worker import Emit, Stopped
from multimodal.errors import BackendError
from multimodal.events import TextDelta
from multimodal.messages import Finish, Usage


class TokenStreamer(BaseStreamer):
    """What is being written. `generate` puts tokens in; `emit` gets TextDelta."""

    def __init__(
        self, tokenizer: Any, stop_words: Sequence[str], emit: Emit, stopped: Stopped
    ) -> None:
        self.tokens: list[int] = []
        self._backend = tokenizer.backend_tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop_words = stop_words
        self._emit = emit
        self._stopped = stopped
        self._is_prompt = True
        self._held = ""
        self._first_s = 0.0
        self._last_s = 0.0
        self.met_stop_word = False

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.flatten().tolist():
            if not self.met_stop_word:  # guesses that hold come several at a time
                self._last_s = time.perf_counter()
                self._first_s = self._first_s or self._last_s
                self.tokens.append(token)
                self._tell(self._decoded(token))

    def end(self) -> None:
        if self._held and not self.met_stop_word:
            self._emit(TextDelta(self._held))
        self._held = ""

    @property
    def is_finished(self) -> bool:
        """Whether no further token is wanted."""
        return self.met_stop_word or self._stopped()

    def usage(
        self, prompt_tokens: int, cached_tokens: int, chosen: ResolvedSampling, ends: bool
    ) -> Usage:
        """`ends`: the model itself ended its reply."""
        finish: Finish = "stop" if ends or self.met_stop_word else "length"
        decode_s = self._last_s - self._first_s
        if finish == "length" and self._stopped():
            finish = "stopped"
        return Usage(prompt_tokens, cached_tokens, len(self.tokens), decode_s, finish, chosen.seed)

    def _decoded(self, token: int) -> str:
        try:
            return self._decoder.step(self._backend, token) or ""
        except Exception:  # bytes that are no character and never will be, after a new line
            self._decoder = DecodeStream(skip_special_tokens=True)
            return self._decoder.step(self._backend, token) or ""

    def _tell(self, piece: str) -> None:
        self._held += piece
        found = [at for word in self._stop_words if (at := self._held.find(word)) >= 0]
        if found:
            self._held, self.met_stop_word = self._held[: min(found)], True
        keep = 0 if found else _start_of_any(self._held, self._stop_words)
        if told := self._held[: len(self._held) - keep]:
            self._emit(TextDelta(told))
        self._held = self._held[len(self._held) - keep :]


def _start_of_any(text: str, words: Iterable[str]) -> int:
    """How many characters at the end of `text` may be the start of one of `words`."""
    longest = 0
    for word in words:
        for size in range(min(len(word) - 1, len(text)), longest, -1):
            if text.endswith(word[:size]):
                longest = size
                break
    return longest


class StopOnEvent(StoppingCriteria):
    """Ends `generate` once the reply is over."""

    def __init__(self, reply: TokenStreamer) -> None:
        self._reply = reply

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._reply.is_finished, device=input_ids.device)


class _SeededSampler(LogitsProcessor):
    """Draws the next token and leaves `generate` no other choice."""

    def __init__(self, seed: int, prompt_tokens: int, device: torch.device) -> None:
        self._seed = seed
        self._prompt_tokens = prompt_tokens
        self._generator = torch.Generator(device)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        # On a card, drawing from what is no number would end every later use of it.
        if not torch.isfinite(scores.amax()):
            raise BackendError("The model's numbers overflowed. Ask for it in bf16 or fp32.")
        chances = torch.softmax(scores.float(), dim=-1)
        place = input_ids.shape[1] - self._prompt_tokens
        # Of no other pair: neighbouring seeds make alike generators.
        mixed = hashlib.blake2b(f"{self._seed} {place}".encode(), digest_size=4)
        self._generator.manual_seed(int.from_bytes(mixed.digest(), "big"))
        chosen = torch.multinomial(chances, 1, generator=self._generator)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen, 0.0)


def processors(
    chosen: ResolvedSampling, prompt_tokens: int, device: torch.device
) -> LogitsProcessorList:
    """How the next token is chosen, in the order it is applied; the penalty is for repeating the
    reply itself, not the prompt."""
    made = LogitsProcessorList()
    if chosen.repeat_penalty != 1:
        made.append(RepetitionPenaltyLogitsProcessor(chosen.repeat_penalty, prompt_tokens))
    if chosen.temperature > 0:
        made.append(TemperatureLogitsWarper(float(chosen.temperature)))
        if chosen.top_k:
            made.append(TopKLogitsWarper(chosen.top_k))
        if chosen.top_p < 1:
            made.append(TopPLogitsWarper(chosen.top_p))
        if chosen.min_p:
            made.append(MinPLogitsWarper(chosen.min_p))
        made.append(_SeededSampler(chosen.seed, prompt_tokens, device))
    return made


def generation_config(
    model: Any,
    tokenizer: Any,
    chosen: ResolvedSampling,
    lookup_tokens: int = 0,
    is_static: bool = False,
) -> GenerationConfig:
    """Greedy as far as `generate` knows: what is drawn is drawn by `processors`. `lookup_tokens`:
    how many are guessed at a time, 0 for none. `is_static`: whether the cache is, so that the
    library compiles the model's step where it can; into no CUDA graph, which would belong to one
    thread."""
    ends = end_tokens(model, tokenizer)
    given = (model.generation_config.pad_token_id, tokenizer.pad_token_id, ends[0])
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=chosen.max_tokens,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        use_cache=True,
        repetition_penalty=1.0,
        prompt_lookup_num_tokens=lookup_tokens or None,
        compile_config=CompileConfig(mode="default") if is_static else None,
        eos_token_id=ends,
        pad_token_id=next(token for token in given if token is not None),
    )


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a reply: those of the checkpoint's generation_config and the tokenizer's."""
    told = model.generation_config.eos_token_id
    known = list(told) if isinstance(told, list | tuple) else [told]
    return [t for t in dict.fromkeys([*known, tokenizer.eos_token_id]) if t is not None]


def published_sampling(model: Any) -> PublishedSampling:
    """What the checkpoint's generation_config says of sampling; `do_sample = false` is greedy, and
    sampling without a temperature is at 1."""
    config = model.generation_config
    penalty = config.repetition_penalty
    shape = config.temperature, config.top_p, config.top_k, config.min_p
    if config.do_sample is False:
        return PublishedSampling(temperature=0.0, repeat_penalty=penalty)
    if not config.do_sample and all(value is None for value in shape):
        return PublishedSampling(repeat_penalty=penalty)
    temperature = 1.0 if config.temperature is None else config.temperature
    return PublishedSampling(temperature, *shape[1:], penalty)
