"""One model in memory answers with and without its adapter."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
import transformers
from peft import LoraConfig, get_peft_model

from multimodal.studio.data.masks import tokenize_row
from multimodal.studio.evaluation.answers import exact_answers, normalize
from multimodal.studio.evaluation.comparisons import (
    Example,
    compare,
    find_examples,
    generate_answers,
    pair_answers,
    prompt_text,
)
from multimodal.studio.records import Comparison

ASK = [{"role": "user", "content": "What colour is the car?"}]


@pytest.fixture
def tokenizer() -> Any:
    return tiny_models.tokenizer()


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**tiny_models.causal_config("llama"))
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def teach(model: Any, tokenizer: Any, row: dict[str, Any], steps: int = 60) -> None:
    """Until it knows the row by heart."""
    tokenized = tokenize_row(row, tokenizer, 512, "answers")
    trained = [it for it in model.parameters() if it.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    model.train()
    for _ in range(steps):
        ids, labels = torch.tensor([tokenized.input_ids]), torch.tensor([tokenized.labels])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def taught_adapter(model: Any, tokenizer: Any, answer: str) -> Any:
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    completion = [{"role": "assistant", "content": answer}]
    teach(adapted, tokenizer, {"prompt": ASK, "completion": completion})
    return adapted


def test_answers_are_compared_with_the_adapter_off_and_on(model: Any, tokenizer: Any) -> None:
    plain = generate_answers(model, tokenizer, [ASK], 12)
    adapted = taught_adapter(model, tokenizer, "It is red.")
    (found,) = compare(adapted, tokenizer, [ASK], 12, ["It is red."])
    assert found == Comparison("What colour is the car?", plain[0], "It is red.", "It is red.")
    assert plain[0] != "It is red."


def test_comparing_leaves_the_adapter_on_trainable_and_in_its_mode(
    model: Any, tokenizer: Any
) -> None:
    adapted = taught_adapter(model, tokenizer, "It is red.")
    compare(adapted, tokenizer, [ASK], 4)
    assert adapted.training
    assert adapted.get_model_status().enabled is True
    assert any(parameter.requires_grad for parameter in adapted.parameters())
    assert generate_answers(adapted, tokenizer, [ASK], 12) == ["It is red."]


@pytest.mark.parametrize(("own", "eos"), [(None, "<|im_end|>"), (3, "<s>"), ([1, 3], "<s>")])
def test_answers_end_where_the_model_or_its_tokenizer_ends_them(
    model: Any, tokenizer: Any, own: Any, eos: str
) -> None:
    adapted = taught_adapter(model, tokenizer, "It is red.")
    model.generation_config.eos_token_id, tokenizer.eos_token = own, eos
    assert generate_answers(adapted, tokenizer, [ASK, ASK], [200, 2]) == ["It is red.", "It"]


def test_sampling_settings_of_the_model_do_not_make_answers_random(
    model: Any, tokenizer: Any
) -> None:
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    answers = {generate_answers(model, tokenizer, ["The river"], 16)[0] for _ in range(4)}
    assert len(answers) == 1


def test_a_prompt_longer_than_the_model_reads_is_answered_from_its_end(tokenizer: Any) -> None:
    config = tiny_models.causal_config("gpt2", n_positions=48)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config)
    )
    (answer,) = generate_answers(model, tokenizer, ["The river runs to the sea. " * 40], 16)
    assert isinstance(answer, str)


def test_full_models_are_compared_by_what_they_answered_before(model: Any, tokenizer: Any) -> None:
    before = generate_answers(model, tokenizer, [ASK], 8)
    teach(
        model, tokenizer, {"prompt": ASK, "completion": [{"role": "assistant", "content": "Red"}]}
    )
    after = generate_answers(model, tokenizer, [ASK], 8)
    assert pair_answers([ASK], before, after) == [
        Comparison("What colour is the car?", before[0], "Red")
    ]


def test_prompts_are_found_in_every_kind_of_row() -> None:
    user, reply = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    more = {"role": "user", "content": "Bye"}
    rows = [
        {"prompt": [user], "completion": [reply]},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": [user], "chosen": [reply], "rejected": [more]},
        {"prompt": [user], "answer": "Hello", "level": 3},
        {"messages": [user, reply, more, {"role": "assistant", "content": "Ciao"}, user]},
        {"messages": [user]},
        {"text": "one two three four five six"},
        {"text": "one"},
    ]
    found = find_examples(rows)
    assert [example.expected for example in found] == [
        *("Hello", "Hello", "Hello", "Hello", "Ciao", "three four five six")
    ]
    assert found[4].prompt == [user, reply, more]
    assert found[4].text == "user: Hi\nassistant: Hello\nuser: Bye"
    assert found[5].prompt == "one two"
    assert len(find_examples(rows, 2)) == 2
    assert prompt_text([user]) == "Hi"


def test_exact_answers_are_counted_but_for_case_and_space(model: Any, tokenizer: Any) -> None:
    adapted = taught_adapter(model, tokenizer, "It is red.")
    examples = [Example(ASK, wanted) for wanted in ("it is  RED", "It is", "It is red. Or green.")]
    assert exact_answers(adapted, tokenizer, examples) == [True, False, False]
    assert normalize(" It is\nRed. ") == "it is red"
