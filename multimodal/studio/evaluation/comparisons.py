"""What a model answers to held-out prompts, greedily, without and with what it learned."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from multimodal.studio.data.masks import tokenize_row
from multimodal.studio.evaluation.perplexity import evaluation_mode
from multimodal.studio.records import Comparison

Prompt = str | Sequence[Mapping[str, Any]]
"""Plain text that is gone on with, or messages that are answered."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer that the data has for it."""

    prompt: Prompt
    expected: str

    @property
    def text(self) -> str:
        return prompt_text(self.prompt)


def find_examples(rows: Sequence[Mapping[str, Any]], count: int | None = None) -> list[Example]:
    """Of the first `count` rows that have something to answer. A chat is asked for its last
    answer, a plain text for what follows its first third of words."""
    found: list[Example] = []
    for row in rows:
        if len(found) == count:
            break
        if (example := _example(row)) is not None:
            found.append(example)
    return found


def _example(row: Mapping[str, Any]) -> Example | None:
    match row:
        case {"prompt": prompt}:
            answers = (row.get(name) for name in ("completion", "answer", "chosen"))
            return Example(prompt, _text(next((it for it in answers if it is not None), "")))
        case {"messages": messages}:
            answered = [at for at, one in enumerate(messages) if one["role"] == "assistant" and at]
            if answered:
                return Example(messages[: answered[-1]], messages[answered[-1]]["content"])
        case {"text": str(text)}:
            words = text.split(" ")
            if third := len(words) // 3:
                return Example(" ".join(words[:third]), " ".join(words[third:]))
    return None


def prompt_text(prompt: Prompt) -> str:
    """For people: one message alone is its words, several are told with who said them."""
    if isinstance(prompt, str) or len(prompt) == 1:
        return _text(prompt)
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _text(told: Prompt) -> str:
    return told if isinstance(told, str) else "\n".join(str(one["content"]) for one in told)


def compare(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    max_new_tokens: int = 64,
    expected: Sequence[str] = (),
) -> list[Comparison]:
    """Each prompt answered by the base of a PEFT model, and by the base with its adapter: one model
    in memory, whose adapter is off meanwhile. `expected`: what the data answers, shown beside."""
    with model.disable_adapter():
        before = generate_answers(model, tokenizer, prompts, max_new_tokens)
    after = generate_answers(model, tokenizer, prompts, max_new_tokens)
    return pair_answers(prompts, before, after, expected)


def pair_answers(
    prompts: Sequence[Prompt],
    before: Sequence[str],
    after: Sequence[str],
    expected: Sequence[str] = (),
) -> list[Comparison]:
    """For a model without an adapter, which answered before and after it was trained."""
    shown = [prompt_text(prompt) for prompt in prompts]
    wanted = [*expected[: len(shown)], *[""] * (len(shown) - len(expected))]
    return list(map(Comparison, shown, before, after, wanted))


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    max_new_tokens: int | Sequence[int] = 64,
) -> list[str]:
    """The most likely answer to each, of at most so many tokens (of each, if several are given).

    One at a time: padding changes the last digits, and with them, now and then, an answer.
    Modules get back the mode they were in.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    with evaluation_mode(model):
        return [
            _generate(model, tokenizer, prompt, limit)
            for prompt, limit in zip(prompts, limits, strict=True)
        ]


def _generate(model: Any, tokenizer: Any, prompt: Prompt, max_new_tokens: int) -> str:
    ids = torch.tensor([_prompt_ids(prompt, tokenizer)])
    read = ids.shape[1]
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None:  # the end of the prompt, as far as the model reads
        read = max(1, min(read, room - max_new_tokens))
    made = model.generate(
        input_ids=ids[:, -read:].to(model.device),
        attention_mask=torch.ones(1, read, dtype=torch.long, device=model.device),
        generation_config=greedy(model, tokenizer, max_new_tokens),
    )
    return str(tokenizer.decode(made[0, read:], skip_special_tokens=True)).strip()


def _prompt_ids(prompt: Prompt, tokenizer: Any) -> list[int]:
    """Messages are rendered as in training, up to the first token that is trained."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    answer = [{"role": "assistant", "content": "x"}]
    row = tokenize_row({"prompt": prompt, "completion": answer}, tokenizer, sys.maxsize, "answers")
    return row.input_ids[: row.is_trained.index(True)]


def greedy(model: Any, tokenizer: Any, max_new_tokens: int) -> Any:
    """Ends at whatever the model or its tokenizer ends an answer with."""
    own = model.generation_config.eos_token_id
    ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
