"""The loss of a sample is that of transformers, whatever it is computed with."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tiny_models
import torch
import transformers
from peft import LoraConfig, get_peft_model

from multimodal.studio.data.masks import TokenizedRow
from multimodal.studio.evaluation.forgetting import forgetting_losses, plain_text
from multimodal.studio.evaluation.perplexity import SampleLoss, sample_losses


def row(ids: list[int], is_trained: list[bool]) -> TokenizedRow:
    return TokenizedRow(ids, is_trained, is_cut=False)


def tiny(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = tiny_models.causal_config(family, **changes)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None
    return model.eval()


def rows(count: int = 11, most: int = 60) -> list[TokenizedRow]:
    draw = random.Random(3)  # noqa: S311
    lengths = [draw.randint(2, most) for _ in range(count)]
    return [
        row(
            [draw.randrange(4, 400) for _ in range(length)],
            [draw.random() < 0.6 for _ in range(length - 1)] + [True],
        )
        for length in lengths
    ]


def own_loss(model: Any, row: TokenizedRow) -> SampleLoss:
    """By transformers, from labels in which -100 is left out."""
    labels = [
        token if trained else -100
        for token, trained in zip(row.input_ids, row.is_trained, strict=True)
    ]
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([labels])).loss
    tokens = sum(row.is_trained[1:])
    return SampleLoss(float(loss) * tokens, tokens)


@pytest.mark.parametrize("logits", [2**25, 4000])
@pytest.mark.parametrize(
    ("family", "more"),
    [
        *(("llama", {}), ("mistral", {"sliding_window": 16}), ("phi", {}), ("gemma", {})),
        ("gpt2", {}),
    ],
)
def test_losses_are_those_of_transformers_however_they_are_batched_and_cut(
    family: str, more: dict[str, int], logits: int
) -> None:
    model, samples = tiny(family, **more), rows()
    expected = [own_loss(model, row) for row in samples]
    for batch in (1, 4, 11):
        found = sample_losses(model, samples, batch, logits)
        assert [loss.tokens for loss in found] == [loss.tokens for loss in expected]
        totals = [loss.total / loss.tokens for loss in found]
        assert totals == pytest.approx(
            [loss.total / loss.tokens for loss in expected], rel=1e-5, abs=1e-5
        )


def test_tokens_that_are_not_trained_do_not_count_and_still_are_read() -> None:
    model = tiny("llama")
    answer, prompt = [7, 8, 9], [50, 51, 52, 53]
    mask = [False] * 4 + [True] * 3
    (found,) = sample_losses(model, [row([*prompt, *answer], mask)])
    (other,) = sample_losses(model, [row([60, *prompt[1:], *answer], mask)])
    (whole,) = sample_losses(model, [row([*prompt, *answer], [True] * 7)])
    assert (found.tokens, whole.tokens) == (3, 6)
    assert found.total != pytest.approx(other.total, rel=1e-3)
    assert found.total < whole.total


def test_samples_without_anything_to_predict_have_no_loss() -> None:
    nothing = [row([], []), row([5], [True]), row([5, 6], [True, False])]
    found = sample_losses(tiny("llama"), [*nothing, row([5, 6], [False, True])])
    assert [loss.tokens for loss in found] == [0, 0, 0, 1]
    assert [loss.total for loss in found[:3]] == [0, 0, 0]
    assert sample_losses(tiny("llama"), []) == []


def test_measuring_leaves_modes_and_dropout_as_they_were_and_uses_none() -> None:
    model = tiny("gpt2", resid_pdrop=0.5)
    expected = sample_losses(model, rows())
    model.train()
    frozen = model.get_input_embeddings().eval()
    assert sample_losses(model, rows()) == expected
    assert model.training
    assert not frozen.training


def test_modes_are_restored_after_an_error() -> None:
    model = tiny("llama").train()
    with pytest.raises(IndexError):
        sample_losses(model, [row([5, 100_000], [True, True])])
    assert all(module.training for module in model.modules())


def test_a_model_can_be_trained_on_after_it_was_measured() -> None:
    model = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules="all-linear")).train()
    before = sample_losses(model, rows())
    model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    assert any(parameter.grad is not None for parameter in model.parameters())
    assert sample_losses(model, rows()) == before


def test_no_more_logits_are_computed_at_once_than_allowed() -> None:
    model, seen = tiny("llama"), list[int]()
    model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.numel())
    )
    sample_losses(model, rows(most=100), batch=4, logits=10_000)
    assert len(seen) > 10
    assert max(seen) <= 10_000


@pytest.mark.parametrize("positions", [4096, 64])
def test_all_of_the_plain_text_is_read_however_little_a_model_reads_at_once(positions: int) -> None:
    tokenizer = tiny_models.tokenizer()
    found = forgetting_losses(tiny("gpt2", n_positions=positions), tokenizer)
    tokens = sum(len(ids) for ids in tokenizer(list(plain_text()))["input_ids"])
    assert sum(loss.tokens for loss in found) == tokens - len(found)
    assert len(found) >= tokens / min(positions, 256)
