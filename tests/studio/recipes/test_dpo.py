"""An adapter that prefers what was chosen."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_preferences import as_chat, notices, pairs, result_tensors, told
from tiny_recipes import Checkpoint, make_job, run_recipe, save_untaught
from transformers import AutoModelForCausalLM, AutoTokenizer

from multimodal.errors import DataError
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.dpo import DpoRecipe
from multimodal.studio.recipes.pairs import margins, tokenize_pair
from multimodal.studio.records import Report

LONG = {"prompt": "fox " * 90, "chosen": " dog", "rejected": " cat"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("untaught"))


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint
) -> tuple[JobContext, Report]:
    folder = tmp_path_factory.mktemp("jobs") / "dpo"
    job = make_job(folder, checkpoint, [*pairs(), LONG], pairs(12, 32), method="dpo")
    return job, run_recipe(DpoRecipe(job))


def test_margin_of_held_out_pairs_rises(taught: tuple[JobContext, Report]) -> None:
    _, report = taught
    assert report.passed
    assert report.measure == "margin"
    assert report.change is not None
    assert report.change.low > 0.3
    assert report.samples == 12


def test_margin_is_that_of_the_adapter_in_the_result(
    taught: tuple[JobContext, Report], checkpoint: Checkpoint
) -> None:
    job, report = taught
    base = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    model = PeftModel.from_pretrained(base, job.folder.result)
    held_out = [tokenize_pair(row, tokenizer, 64) for row in pairs(12, 32)]
    after = margins(model, held_out)
    with model.disable_adapter():
        before = margins(model, held_out)
    assert report.after is not None
    assert report.before is not None
    assert sum(after) / 12 == pytest.approx(report.after.value, abs=1e-4)
    assert sum(before) / 12 == pytest.approx(report.before.value, abs=1e-4)


def test_reference_is_the_base_without_the_adapter(taught: tuple[JobContext, Report]) -> None:
    """Against itself, the margin would stay zero; against another model, it would not begin
    there."""
    job, _ = taught
    rewards = told(job, "rewards/margins")
    assert rewards[0] == pytest.approx(0, abs=1e-5)
    assert rewards[-1] > 0.3
    assert told(job, "loss")[0] == pytest.approx(0.6931, abs=1e-3)
    assert told(job, "rewards/accuracies")[-1] == 1


def _models() -> int:
    """Language models in memory, a model within an adapter's counted once."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one).__name__ == "LlamaForCausalLM"]
    return len(found)


@pytest.mark.slow
def test_only_the_adapter_is_trained_and_the_base_is_in_memory_once(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    others = _models()
    job = make_job(tmp_path / "job", checkpoint, pairs(8), pairs(4, 32), method="dpo", max_steps=1)
    recipe = DpoRecipe(job)
    recipe.setup()
    before = {name: value.clone() for name, value in recipe.base.model.state_dict().items()}
    recipe.train()
    assert _models() - others == 1
    after = recipe.base.model.state_dict()
    kept = {name.replace(".base_layer", ""): value for name, value in after.items()}
    assert all(torch.equal(value, kept[name]) for name, value in before.items())
    recipe.save()
    assert all("lora_" in name for name in result_tensors(job))
    changed = [value.abs().max() for name, value in result_tensors(job).items() if "lora_B" in name]
    assert min(changed) > 0
    recipe.cleanup()
    assert _models() == others


@pytest.mark.slow
def test_chats_are_preferred_like_text(tmp_path: Path, checkpoint: Checkpoint) -> None:
    train, test = as_chat(pairs(16)), as_chat(pairs(8, 32))
    job = make_job(tmp_path / "job", checkpoint, train, test, method="dpo", epochs=1)
    report = run_recipe(DpoRecipe(job))
    assert report.change is not None
    assert report.change.low > 0
    assert report.comparisons[0].prompt == "32 What is warm here?"
    assert report.comparisons[0].expected == "The warm fox."
    assert job.folder.samples()[0].expected == "The warm fox."


def test_pairs_without_an_answer_that_fits_are_left_out(taught: tuple[JobContext, Report]) -> None:
    job, _ = taught
    told = "1 of 33 samples are left out, because their answers begin after 64 tokens"
    assert told in notices(job)


def test_no_pair_that_fits_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    job = make_job(tmp_path / "job", checkpoint, [LONG], pairs(4, 32), method="dpo")
    with pytest.raises(DataError, match=r"1 of 1 samples are left out.*--max-length"):
        run_recipe(DpoRecipe(job))
    assert not job.folder.result.exists()
