"""How often a model answers exactly what the data says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multimodal.studio.evaluation.comparisons import Example, generate_answers

SPARE_TOKENS = 8
"""More than the expected answer has: an answer that goes on is not that answer."""


def exact_answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
) -> list[bool]:
    """Whether the greedy answer to each example is the expected one, but for case, white space
    and a full stop at its end."""
    lengths = [
        len(tokenizer(it.expected, add_special_tokens=False)["input_ids"]) for it in examples
    ]
    prompts = [example.prompt for example in examples]
    answers = generate_answers(model, tokenizer, prompts, [it + SPARE_TOKENS for it in lengths])
    return [
        normalize(answer) == normalize(example.expected)
        for answer, example in zip(answers, examples, strict=True)
    ]


def normalize(answer: str) -> str:
    return " ".join(answer.casefold().split()).removesuffix(".").rstrip()
