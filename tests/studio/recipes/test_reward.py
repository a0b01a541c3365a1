"""A model that scores answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_preferences import as_chat, notices, pairs, result_tensors, told
from tiny_recipes import Checkpoint, make_job, run_recipe, save_untaught
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from multimodal.studio.context import JobContext
from multimodal.studio.recipes.pairs import tokenize_pair
from multimodal.studio.recipes.reward import RewardRecipe, score_texts
from multimodal.studio.records import Report

LONG = {"prompt": "fox " * 90, "chosen": " dog", "rejected": " cat"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("untaught"))


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint
) -> tuple[JobContext, Report]:
    folder = tmp_path_factory.mktemp("jobs") / "reward"
    train, test = as_chat([*pairs(24), LONG]), as_chat(pairs(12, 32))
    job = make_job(folder, checkpoint, train, test, method="reward", epochs=1)
    return job, run_recipe(RewardRecipe(job))


def test_accuracy_on_held_out_pairs_rises_from_half(taught: tuple[JobContext, Report]) -> None:
    job, report = taught
    assert report.passed
    assert report.measure == "accuracy"
    assert report.before is not None
    assert report.after is not None
    assert report.before.value == 0.5
    assert report.after.value == 1
    assert told(job, "loss")[-1] < told(job, "loss")[0]
    assert report.comparisons == ()
    assert job.folder.samples() == []


def test_result_is_a_classifier_with_its_head(
    taught: tuple[JobContext, Report], checkpoint: Checkpoint
) -> None:
    job, _ = taught
    assert any("score" in name for name in result_tensors(job))
    torch.manual_seed(99)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    model = PeftModel.from_pretrained(base, job.folder.result)
    assert model.peft_config["default"].task_type == "SEQ_CLS"
    held_out = [tokenize_pair(row, tokenizer, 64) for row in as_chat(pairs(12, 32))]
    chosen = score_texts(model, [pair.chosen.input_ids for pair in held_out])
    rejected = score_texts(model, [pair.rejected.input_ids for pair in held_out])
    assert all(one > other for one, other in zip(chosen, rejected, strict=True))


def test_pairs_with_a_text_that_is_too_long_are_left_out(
    taught: tuple[JobContext, Report],
) -> None:
    job, _ = taught
    assert "1 of 25 samples are left out, because they are longer than 64 tokens" in notices(job)


def test_score_of_a_text_is_the_same_in_any_batch(tmp_path: Path, checkpoint: Checkpoint) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, num_labels=1)
    texts = [[5, 9, 11], [7], [20, 21, 22, 23, 24, 25], [8, 3]]
    alone = [score_texts(model, [text])[0] for text in texts]
    assert score_texts(model, texts) == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) == 4


def test_earlier_adapter_of_a_chat_lies_below_the_classifier(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    chat = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    layers = ["q_proj"]
    earlier = get_peft_model(chat, LoraConfig(r=2, target_modules=layers, task_type="CAUSAL_LM"))
    for name, value in earlier.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(value)
    earlier.save_pretrained(tmp_path / "earlier")
    job = make_job(tmp_path / "job", checkpoint, pairs(4), pairs(4, 32), method="reward")
    job.start = replace(job.start, adapter=tmp_path / "earlier")
    recipe = RewardRecipe(job)
    recipe.setup()
    layer = "model.layers.0.self_attn.q_proj.weight"
    merged = earlier.merge_and_unload().state_dict()[layer]
    assert torch.allclose(recipe.base.model.state_dict()[layer], merged)
    assert recipe.score_base() == [-1, 1, -1, 1]
    recipe.cleanup()


def test_earlier_reward_model_is_measured_as_it_is(
    tmp_path: Path, taught: tuple[JobContext, Report], checkpoint: Checkpoint
) -> None:
    earlier, _ = taught
    rows = as_chat(pairs(4))
    job = make_job(tmp_path / "job", checkpoint, rows, as_chat(pairs(4, 32)), method="reward")
    job.start = replace(job.start, adapter=earlier.folder.result)
    recipe = RewardRecipe(job)
    recipe.setup()
    assert all(score > 0 for score in recipe.score_base())
    recipe.cleanup()
