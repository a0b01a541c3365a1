"""An adapter that is rewarded for what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_preferences import as_chat, notices, prompts, result_tensors, told
from tiny_recipes import Checkpoint, make_job, run_recipe, save_untaught
from transformers import AutoModelForCausalLM, AutoTokenizer

from multimodal.errors import (
    DataError,
    DeviceFullError,
    RewardError,
    TurnStoppedError,
)
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.batching import Batching
from multimodal.studio.recipes.grpo import ANSWERS, GrpoRecipe, sample_answers
from multimodal.studio.records import Report

LETTERS = """
def reward_letters(completions, **columns):
    return [sum(map(is_letter, text)) / max(1, len(text)) for text in completions]

def is_letter(sign):
    return sign.isascii() and sign.isalpha()
"""
FEW: dict[str, Any] = {
    "method": "grpo",
    "batch": 8,
    "accumulation": 1,
    "generations": 4,
    "answer_tokens": 4,
    "rewards": ("length",),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """One that is surer of its answers than others, so that an adapter can change them."""
    return save_untaught(tmp_path_factory.mktemp("untaught"), initializer_range=0.2)


def _file(folder: Path, source: str) -> Path:
    path = folder / "own.py"
    path.write_text(source, "utf-8")
    return path


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint
) -> tuple[JobContext, Report]:
    folder = tmp_path_factory.mktemp("jobs")
    settings = {
        **FEW,
        "rewards": (),
        "reward_file": _file(folder, LETTERS),
        "run_code": True,
        "batch": 16,
        "generations": 8,
        "learning_rate": 2e-2,
        "scheduler": "constant",
        "max_steps": 24,
        "epochs": 30,
        "evaluate_every": 24,
    }
    job = make_job(folder / "grpo", checkpoint, prompts(), prompts(10, 32), **settings)
    return job, run_recipe(GrpoRecipe(job))


def test_reward_of_answers_to_held_out_prompts_rises(taught: tuple[JobContext, Report]) -> None:
    job, report = taught
    assert report.passed
    assert report.measure == "reward"
    assert report.change is not None
    assert report.change.low > 0.1
    assert report.samples == 10
    assert told(job, "eval_reward")[-1] > told(job, "reward")[0]
    assert all("lora_" in name for name in result_tensors(job))


def test_reward_spread_divergence_and_entropy_are_told(taught: tuple[JobContext, Report]) -> None:
    job, _ = taught
    for name in ("reward", "frac_reward_zero_std", "kl", "entropy", "rewards/reward_letters/mean"):
        assert len(told(job, name)) == 24, name
    # Against itself, the divergence would stay zero.
    assert told(job, "kl")[0] == pytest.approx(0, abs=1e-5)
    assert max(told(job, "kl")) > 0.05


def _recipe(folder: Path, checkpoint: Checkpoint, rows: Any, **settings: Any) -> GrpoRecipe:
    job = make_job(folder / "job", checkpoint, rows, prompts(4, 32), **{**FEW, **settings})
    return GrpoRecipe(job)


def test_fewer_prompts_than_an_update_needs_are_refused(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    with pytest.raises(DataError, match="Each update needs 2 prompts, and there are 1"):
        _recipe(tmp_path, checkpoint, prompts(1)).setup()


def test_answer_that_is_missing_is_told_by_its_number(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    rows = [{**row, "answer": "" if at == 2 else "fox"} for at, row in enumerate(prompts())]
    with pytest.raises(DataError, match="Sample 3 has no answer"):
        _recipe(tmp_path, checkpoint, rows, rewards=("exact_answer",)).setup()


def test_reward_that_fails_is_told_before_the_first_step(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    path = _file(tmp_path, "def reward_none(completions, **columns):\n    return columns['gone']\n")
    recipe = _recipe(tmp_path, checkpoint, prompts(), reward_file=path, run_code=True)
    with pytest.raises(RewardError, match=r"own\.py, line 2: KeyError: 'gone'"):
        recipe.setup()


def test_rewards_are_given_the_columns_of_the_data_and_weigh_the_same(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    """Before and after, and by the trainer: the prompt as it is, one value a completion."""
    source = (
        "def reward_column(completions, prompts, colour, **columns):\n"
        "    assert all(p[0]['role'] == 'user' for p in prompts)\n"
        "    assert all(c[0]['role'] == 'assistant' for c in completions)\n"
        "    return [float(one == 'red') for one in colour]\n"
        "def reward_nothing(completions, **columns):\n"
        "    return [0.0] * len(completions)\n"
    )
    rows = [{**row, "colour": "red"} for row in as_chat(prompts(12))]
    path = _file(tmp_path, source)
    settings = {**FEW, "rewards": (), "reward_file": path, "run_code": True, "max_steps": 1}
    job = make_job(tmp_path / "job", checkpoint, rows[:8], rows[8:], **settings)
    report = run_recipe(GrpoRecipe(job))
    assert told(job, "reward") == [0.5]
    assert told(job, "frac_reward_zero_std") == [1]
    assert report.figures["before"] == report.figures["after"] == 0.5


def test_stopped_job_does_not_answer_the_rest_of_the_prompts(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    recipe = _recipe(tmp_path, checkpoint, prompts())
    recipe.job.stop.set()
    with pytest.raises(TurnStoppedError):
        recipe.setup()
    recipe.cleanup()


def test_answer_has_room_after_the_longest_prompt(tmp_path: Path) -> None:
    small = save_untaught(tmp_path / "small", max_position_embeddings=48)
    recipe = _recipe(tmp_path, small, prompts(), answer_tokens=40)
    with pytest.raises(DataError, match="their prompts have more than 8 tokens"):
        recipe.setup()


class _SmallDevice(GrpoRecipe):
    """It has room for `answers` at once while generating, and for `batch` while training."""

    def __init__(self, job: JobContext, answers: int, batch: int) -> None:
        super().__init__(job)
        self.answers, self.batch = answers, batch
        self.tried: list[tuple[int, int]] = []

    def make_trainer(self, *given: Any, **arguments: Any) -> Any:
        trainer = super().make_trainer(*given, **arguments)
        args: Any = trainer.args
        self.tried.append((args.generation_batch_size, args.per_device_train_batch_size))
        if args.generation_batch_size > self.answers or self.tried[-1][1] > self.batch:
            trainer.model.unload()
            raise DeviceFullError("The device is full.")
        return trainer


@pytest.mark.slow
def test_full_device_generates_by_group_and_then_halves_the_batch(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    settings = {**FEW, "batch": 4, "accumulation": 4, "max_steps": 1}
    job = make_job(tmp_path / "job", checkpoint, prompts(8), prompts(2, 32), **settings)
    recipe = _SmallDevice(job, answers=4, batch=1)
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    assert recipe.tried == [(16, 4), (4, 4), (4, 2), (4, 1), (4, 1)]
    status = job.folder.status()
    assert Batching(status.batch, status.accumulation).effective == 16
    assert "the answers of one group are generated at once" in notices(job)
    assert "which still sees 16" in notices(job)


def test_sampled_answers_depend_on_the_seed_and_leave_the_generator_alone(
    checkpoint: Checkpoint,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    asked: list[Any] = [row["prompt"] for row in prompts(2)]
    state = torch.get_rng_state()
    first = list(sample_answers(model, tokenizer, asked, 6, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert list(sample_answers(model, tokenizer, asked, 6, seed=1)) == first
    assert list(sample_answers(model, tokenizer, asked, 6, seed=2)) != first
    assert [len(answers) for answers in first] == [ANSWERS, ANSWERS]
    assert len(set(first[0])) > 1
