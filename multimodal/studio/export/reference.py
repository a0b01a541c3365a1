"""What the source of an export does, kept for the comparison once the source itself is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError

from multimodal.backends.hf.prefix_cache import CACHE_ARGUMENT
from multimodal.studio.evaluation.forgetting import plain_text
from multimodal.studio.export.opened import Messages
from multimodal.studio.export.source import Source
from multimodal.studio.export.timing import fastest

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a cat who",
    "To boil an egg you",
    "Three colours are red,",
    "def add(a, b):\n    return",
    "La mer est",
    "Question: What is 2 + 2?\nAnswer:",
    "In 1969 people first",
)
GREEDY_TOKENS = 32
TEXT_TOKENS = 96
"""Of the fixed text, at whose positions probabilities are compared."""
LISTED = 20
"""Tokens whose probability is kept at each step of a continuation."""

_HELLO = {"role": "user", "content": "Hello! How are you today?"}
_ANSWER = {"role": "assistant", "content": "I am well."}
_MORE = {"role": "user", "content": "It'll cost $1,234.50 in 2031:\n  x = [i**2]\n\né, 海 🙂"}
_SYSTEM = {"role": "system", "content": "You answer in one sentence."}
CONVERSATIONS: tuple[Messages, ...] = (
    (_HELLO,),
    (_SYSTEM, _HELLO),
    (_HELLO, _ANSWER, _MORE),
    (_SYSTEM, _HELLO, _ANSWER, _MORE, {"role": "assistant", "content": "The sea.\nIt is."}, _HELLO),
)
"""With and without a system message, of one turn and of several."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """The most likely `tokens`, also beyond those that end an answer; `likely`: at each step the
    log-probabilities of the most likely ones, in nats."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    likely: tuple[Mapping[int, float], ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """`text`: token ids of the fixed text; `text_log_probabilities` of shape (tokens, vocabulary)
    in nats, fp32. `rendered`: each of CONVERSATIONS, None where the template refuses it; no entry
    where there is no template. `encoded`: the token ids of those texts, or of PROMPTS. `token_ms`:
    milliseconds a token of the first continuation, its prompt counted in."""

    continuations: tuple[Continuation, ...]
    text: tuple[int, ...]
    text_log_probabilities: torch.Tensor
    rendered: tuple[str | None, ...]
    encoded: Mapping[str, tuple[int, ...]]
    bos: str
    end_ids: tuple[int, ...]
    is_tied: bool
    stored: str
    token_ms: float


def measure(source: Source) -> Reference:
    """Run the source; takes seconds to minutes on a CPU."""
    tokenizer = source.tokenizer
    rendered = tuple(render(tokenizer, it) for it in CONVERSATIONS) if has_template(source) else ()
    texts = [text for text in rendered if text] or PROMPTS
    encoded = {text: tuple(tokenizer(text)["input_ids"]) for text in texts}
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in PROMPTS]
    text = tuple(tokenizer("\n\n".join(plain_text()))["input_ids"][:TEXT_TOKENS])
    seconds = fastest(lambda: greedy(source.model, prompts[0], GREEDY_TOKENS))
    return Reference(
        tuple(_continuation(source, prompt) for prompt in prompts),
        text,
        log_probabilities(source.model, text),
        rendered,
        encoded,
        tokenizer.bos_token or "",
        source.end_ids,
        source.is_tied,
        source.stored,
        seconds / GREEDY_TOKENS * 1000,
    )


def has_template(source: Source) -> bool:
    return bool(source.tokenizer.chat_template)


def render(tokenizer: Any, messages: Messages) -> str | None:
    """A conversation up to where the answer begins; None where the template refuses it."""
    try:
        told: str = tokenizer.apply_chat_template(
            [dict(it) for it in messages], add_generation_prompt=True, tokenize=False
        )
    except TemplateError:
        return None
    return told


@torch.no_grad()
def log_probabilities(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Of shape (tokens, vocabulary): of what follows each of `tokens`, in nats, fp32."""
    logits = model(torch.tensor([tokens], device=model.device)).logits[0]
    found: torch.Tensor = torch.log_softmax(logits.float(), -1)
    return found


@torch.no_grad()
def greedy(model: Any, prompt: Sequence[int], count: int) -> tuple[list[int], list[torch.Tensor]]:
    """The `count` most likely tokens, whatever would end them, and the logits that each was chosen
    by, of shape (vocabulary,)."""
    tokens: list[int] = []
    steps: list[torch.Tensor] = []
    ids, cache = torch.tensor([list(prompt)], device=model.device), None
    for _ in range(count):
        told = model(ids, use_cache=True, **{CACHE_ARGUMENT: cache})
        cache = told[CACHE_ARGUMENT]
        steps.append(told.logits[0, -1])
        tokens.append(int(steps[-1].argmax()))
        ids = torch.tensor([tokens[-1:]], device=model.device)
    return tokens, steps


def _continuation(source: Source, prompt: tuple[int, ...]) -> Continuation:
    tokens, steps = greedy(source.model, prompt, GREEDY_TOKENS)
    return Continuation(prompt, tuple(tokens), tuple(map(_likely, steps)))


def _likely(logits: torch.Tensor) -> dict[int, float]:
    most = torch.log_softmax(logits.float(), -1).topk(min(LISTED, logits.shape[-1]))
    return dict(zip(most.indices.tolist(), most.values.tolist(), strict=True))
