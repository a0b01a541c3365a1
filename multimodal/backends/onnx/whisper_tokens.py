"""Which of Whisper's tokens are no words, and how the likeliest tokens become timed segments.

Rules and cuts are those of openai/whisper (`whisper/decoding.py`, `whisper/transcribe.py`); where
times may be written is decided by transformers' processor for Whisper. Its processor for tokens
that are never written searches the vocabulary at each step, which takes longer than all else
between two tokens, so they are taken out here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    WhisperTimeStampLogitsProcessor,
)

from multimodal.errors import BackendError

TICK_S = 0.02
"""Between two timestamps."""
SEED = 0
"""Of what is drawn at a temperature, so that a recording is heard alike each time."""
Read = Callable[[Sequence[int]], torch.Tensor]
"""Reads tokens behind those it read before: the logits behind each, (tokens, vocabulary), fp32."""
Rules = Callable[[Sequence[int], torch.Tensor], torch.Tensor]
"""Of the logits (vocabulary,) behind all tokens so far, with minus infinity where none may come."""


@dataclass(frozen=True, slots=True)
class WhisperTokens:
    """As generation_config.json tells them. `languages` by ISO 639, {} of a model that knows one;
    `tasks`: transcribe and translate; `suppressed`: never written, `suppressed_first`: not before
    a word; `latest_start`: of the first segment, in ticks."""

    start: int
    end: int
    previous: int
    no_timestamps: int
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    latest_start: int | None

    @classmethod
    def of(cls, told: GenerationConfig) -> WhisperTokens:
        """Raises BackendError where something is missing."""
        try:
            stated: Mapping[str, Any] = vars(told)
            is_multilingual = bool(stated["is_multilingual"])
            named = stated["lang_to_id"] if is_multilingual else {}
            return cls(
                int(stated["decoder_start_token_id"]),
                int(stated["eos_token_id"]),
                int(stated["prev_sot_token_id"]),
                int(stated["no_timestamps_token_id"]),
                {token.strip("<|>"): int(number) for token, number in named.items()},
                {task: int(number) for task, number in stated["task_to_id"].items()},
                tuple(sorted(stated.get("suppress_tokens") or ())),
                tuple(sorted(stated.get("begin_suppress_tokens") or ())),
                stated.get("max_initial_timestamp_index"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BackendError(
                f"generation_config.json says not what Whisper's tokens are ({error}). Export the "
                "model again."
            ) from error

    @property
    def first_time(self) -> int:
        """The token of the timestamp 0.00; all later ones follow it."""
        return self.no_timestamps + 1

    @property
    def no_speech(self) -> int:
        """The token of a window in which nobody speaks."""
        return self.no_timestamps - 1

    def prompt(self, task: str, language: str | None, words: Sequence[int] = ()) -> list[int]:
        """What stands before the words of a window. `words`: tokens of what may occur in it."""
        begin = [self.start]
        if self.languages:
            begin += [self.languages[str(language)], self.tasks[task]]
        return [self.previous, *words, *begin] if words else begin

    def rules(self, begin: int) -> Rules:
        """What may be written next, behind a prompt of `begin` tokens."""
        told: Any = GenerationConfig  # which takes any fact of a model
        told = told(
            eos_token_id=self.end,
            no_timestamps_token_id=self.no_timestamps,
            max_initial_timestamp_index=self.latest_start,
        )
        times = WhisperTimeStampLogitsProcessor(told, begin)

        def apply(said: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
            scores: Any = logits[None].clone()
            scores[:, list(self.suppressed)] = -torch.inf
            if len(said) == begin:
                scores[:, list(self.suppressed_first)] = -torch.inf
            ids: Any = torch.tensor([list(said)])
            found: torch.Tensor = times(ids, scores)[0]
            return found

        return apply


@dataclass(frozen=True, slots=True)
class WrittenTokens:
    """`tokens` of one window, without the end; `log_probability`: of them and of the end, in nats;
    `no_speech`: the probability that nobody speaks."""

    tokens: tuple[int, ...]
    log_probability: float
    no_speech: float

    @property
    def avg_logprob(self) -> float:
        return self.log_probability / (len(self.tokens) + 1)


@dataclass(frozen=True, slots=True)
class TimedTokens:
    """What is said between two moments, in seconds from the start of the window."""

    start_s: float
    end_s: float
    tokens: tuple[int, ...]


@torch.no_grad()
def write_tokens(
    read: Read,
    known: WhisperTokens,
    prompt: Sequence[int],
    most: int,
    temperature: float = 0.0,
    stopped: Callable[[], bool] = lambda: False,
) -> WrittenTokens:
    """At most `most` tokens behind `prompt`: the likeliest one at a time, or drawn at a
    temperature above 0. It ends between two tokens once `stopped` is true."""
    logits = read(prompt)
    at = len(prompt) - 1 - prompt[::-1].index(known.start)
    no_speech = float(torch.softmax(logits[at], -1)[known.no_speech])
    apply, random = known.rules(len(prompt)), torch.Generator().manual_seed(SEED)
    said, total = list(prompt), 0.0
    while not stopped():
        scores = apply(said, logits[-1])
        if temperature > 0:
            shares = torch.softmax(scores / temperature, -1)
            token = int(torch.multinomial(shares, 1, generator=random))
        else:
            token = int(scores.argmax())
        total += float(torch.log_softmax(scores, -1)[token])
        if token == known.end:
            break
        said.append(token)
        if len(said) - len(prompt) == most:
            break
        logits = read([token])
    return WrittenTokens(tuple(said[len(prompt) :]), total, no_speech)


def split_segments(
    tokens: Sequence[int], first_time: int, seconds: float
) -> tuple[list[TimedTokens], float]:
    """The segments of a window of which `seconds` are sound, and how much of it they tell of: a
    segment that has no end yet is heard again from its beginning on."""
    is_time = [token >= first_time for token in tokens]
    cuts = [at for at in range(1, len(tokens)) if is_time[at - 1] and is_time[at]]
    if not cuts:
        times = [token for token in tokens if token > first_time]
        end = (times[-1] - first_time) * TICK_S if times else seconds
        return [TimedTokens(0.0, end, tuple(tokens))], seconds
    is_whole = is_time[-2:] == [False, True]
    if is_whole:
        cuts.append(len(tokens))
    found = [
        TimedTokens(
            (tokens[start] - first_time) * TICK_S,
            (tokens[end - 1] - first_time) * TICK_S,
            tuple(tokens[start:end]),
        )
        for start, end in itertools.pairwise([0, *cuts])
    ]
    return found, seconds if is_whole else found[-1].end_s
