"""From the first measurement to the verdict, on a tiny model that really learns, or really does
not."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
import transformers
from peft import LoraConfig, get_peft_model

from multimodal.studio.data.masks import tokenize_row
from multimodal.studio.evaluation.answers import exact_answers
from multimodal.studio.evaluation.comparisons import compare, find_examples
from multimodal.studio.evaluation.forgetting import forgetting_losses
from multimodal.studio.evaluation.gate import judge_accuracy, judge_supervised
from multimodal.studio.evaluation.perplexity import sample_losses
from multimodal.studio.records import Metric, Report

COLOURS = ("red", "blue", "green")
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What colour is {colour} {number}?"}],
        "completion": [{"role": "assistant", "content": f"It is {colour}."}],
    }
    for number in range(20)
    for colour in COLOURS
]
TRAIN, TEST = ROWS[:45], ROWS[45:]


def judged(learning_rate: float, steps: int = 320) -> tuple[Report, Report]:
    """By perplexity and by accuracy."""
    torch.manual_seed(0)
    tokenizer = tiny_models.tokenizer()
    model: Any = get_peft_model(
        transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**tiny_models.causal_config("llama"))
        ),
        LoraConfig(r=16, target_modules="all-linear"),
    )
    train, test = (
        [tokenize_row(row, tokenizer, 512, "answers") for row in rows] for rows in (TRAIN, TEST)
    )
    examples = find_examples(TEST)
    was, plain = sample_losses(model, test), forgetting_losses(model, tokenizer)
    right_before = exact_answers(model, tokenizer, examples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    metrics = []
    model.train()
    for step in range(steps):
        row = train[step * 7 % len(train)]
        loss = model(
            input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])
        ).loss
        loss.backward()
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
        metrics.append(Metric(step, 0, 0, {"loss": float(loss)}))
    shown = compare(model, tokenizer, [examples[0].prompt], 12, [examples[0].expected])
    forgotten = plain, forgetting_losses(model, tokenizer)
    by_loss = judge_supervised(was, sample_losses(model, test), *forgotten, metrics, shown)
    right = exact_answers(model, tokenizer, examples)
    return by_loss, judge_accuracy(right_before, right, shown, *forgotten, metrics)


def test_a_model_that_is_taught_passes_the_gate_by_its_losses_and_its_answers() -> None:
    by_loss, by_answers = judged(0.01)
    assert by_loss.passed, by_loss.verdict
    assert by_loss.change is not None
    assert by_loss.change.high < 0.5
    (shown,) = by_loss.comparisons
    assert shown.after == shown.expected != shown.before
    assert by_answers.passed, by_answers.verdict
    assert by_answers.after is not None
    assert by_answers.after.value > 0.8
    assert by_loss.figures["plain_text_before"] > 200


@pytest.mark.parametrize("learning_rate", [0.0, 1e-9])
def test_a_model_that_is_not_taught_fails_the_gate(learning_rate: float) -> None:
    for report in judged(learning_rate, steps=4):
        assert not report.passed
        assert "did not learn" in report.verdict
