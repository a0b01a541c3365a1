"""LoRA, QLoRA and full fine-tuning of models of two layers, through the recipe as a job runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from job_runs import StopAt, resumed
from safetensors.torch import load_file
from tiny_recipes import (
    Checkpoint,
    chats,
    lines,
    losses,
    make_job,
    questions,
    save_untaught,
    teach,
)

from multimodal.errors import DeviceFullError
from multimodal.studio.checkpoints import find_whole, step_of, why_not_whole
from multimodal.studio.context import JobContext, Start
from multimodal.studio.data.masks import tokenize_rows
from multimodal.studio.data.prepare import prepare_data, read_rows, write_data
from multimodal.studio.evaluation.comparisons import generate_answers
from multimodal.studio.evaluation.intervals import perplexity
from multimodal.studio.evaluation.perplexity import sample_losses
from multimodal.studio.folder import JobFolder
from multimodal.studio.recipes.supervised import SupervisedRecipe
from multimodal.studio.records import Status
from multimodal.studio.settings import JobSettings


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("gpt2"), "gpt2", n_positions=512)


def test_adapter_that_is_kept_predicts_held_out_answers_as_well_as_the_report_says(
    tmp_path: Path, llama: Checkpoint
) -> None:
    job = make_job(tmp_path / "job", llama, questions(), questions(12, 100))
    report = teach(job)
    assert report.passed, report.verdict
    base = transformers.AutoModelForCausalLM.from_pretrained(llama.folder)
    adapted = peft.PeftModel.from_pretrained(base, job.folder.result)
    with adapted.disable_adapter():
        assert measured(adapted, llama, job) == pytest.approx(report.figures["before"], rel=1e-4)
    assert measured(adapted, llama, job) == pytest.approx(report.figures["after"], rel=1e-4)
    assert report.figures["after"] < 0.6 * report.figures["before"]
    assert adapted.peft_config["default"].base_model_name_or_path == llama.card.name


def measured(model: Any, checkpoint: Checkpoint, job: JobContext) -> float:
    """Perplexity of the answers in the job's held-out samples."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.folder)
    rows = read_rows(job.folder.data / "test.jsonl")
    found = tokenize_rows(rows, tokenizer, job.settings.max_length, "answers")
    return perplexity(sample_losses(model, found.rows))


def test_adapter_of_four_bit_layers_learns_chats(tmp_path: Path, llama: Checkpoint) -> None:
    job = make_job(tmp_path / "job", llama, chats(), chats(12, 100), method="qlora")
    recipe = SupervisedRecipe(job)
    recipe.setup()
    kinds = {type(module).__name__ for module in recipe.trainer.model.modules()}
    trained = {it.dtype for it in recipe.trainer.model.parameters() if it.requires_grad}
    recipe.train()
    report = recipe.save()
    assert "Linear4bit" in kinds
    assert trained == {torch.float32}
    assert report.passed, report.verdict
    assert report.figures["after"] < 0.7 * report.figures["before"]


def test_gpt2_is_taught_as_its_guide_tells_it(tmp_path: Path, gpt2: Checkpoint) -> None:
    text = tmp_path / "lines.txt"
    text.write_text("".join(f"{row['text']}\n" for row in lines(400)), "utf-8")
    settings = JobSettings(name="taught", model="tiny", method="full", data=str(text))
    folder = JobFolder(tmp_path / "job")
    folder.create(settings, Status(state="running", runs=1))
    prepared = prepare_data(settings)
    write_data(prepared, folder.data)
    job = JobContext(folder, settings, Start(gpt2.card, gpt2.folder, "cpu", 0))
    report = teach(job)

    assert (len(prepared.train), len(prepared.test)) == (360, 40)
    status = folder.status()
    assert (status.batch, status.accumulation, status.max_length) == (4, 4, 512)
    assert status.steps == status.step == 3 * 23
    rates = losses(job, "learning_rate")
    assert rates[0] == pytest.approx(5e-5)
    assert rates[-1] == pytest.approx(5e-5 / status.steps)
    assert [it.step for it in folder.metrics() if "eval_loss" in it.values] == [23, 46, 69]
    assert report.measure == "perplexity"
    assert report.passed, report.verdict
    taught = transformers.AutoModelForCausalLM.from_pretrained(folder.result)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.result)
    assert measured(taught, gpt2, job) == pytest.approx(report.figures["after"], rel=1e-4)
    answers = generate_answers(taught, tokenizer, [report.comparisons[0].prompt], 48)
    assert answers == [report.comparisons[0].after]
    assert report.comparisons[0].after != report.comparisons[0].before


def test_only_answers_are_trained_unless_everything_is_asked_for(
    tmp_path: Path, llama: Checkpoint
) -> None:
    found = {}
    for loss_on in ("answers", "everything"):
        job = make_job(tmp_path / loss_on, llama, questions(8), questions(8), loss_on=loss_on)
        recipe = SupervisedRecipe(job)
        recipe.setup()
        found[loss_on] = [
            token for token in recipe.trainer.train_dataset[0]["labels"] if token >= 0
        ]
        recipe.cleanup()
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama.folder)
    first = questions(1)[0]
    answer = tokenizer(first["completion"])["input_ids"]
    assert found["answers"] == [*answer, tokenizer.eos_token_id]
    prompt = tokenizer(first["prompt"])["input_ids"]
    assert found["everything"] == [*prompt, *answer, tokenizer.eos_token_id]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.thorough)])
def test_job_that_was_stopped_and_resumed_ends_as_one_that_was_not(
    tmp_path: Path, llama: Checkpoint, method: str
) -> None:
    asked = {"method": method, "lora_dropout": 0.1, "save_every": 3}
    whole = make_job(tmp_path / "whole", llama, questions(), questions(12, 100), **asked)
    report = teach(whole)
    job = make_job(tmp_path / "job", llama, questions(), questions(12, 100), **asked)
    job.stop = StopAt(job.folder, 7)
    recipe = SupervisedRecipe(job)
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    assert job.folder.status().step == 7
    checkpoint = find_whole(job.folder.checkpoints)
    assert checkpoint is not None
    assert step_of(checkpoint) == 7

    again = teach(resumed(job))
    assert losses(job) == pytest.approx(losses(whole), abs=1e-6)
    assert losses(job, "eval_loss") == pytest.approx(losses(whole, "eval_loss"), abs=1e-6)
    assert again.figures == pytest.approx(report.figures, rel=1e-6)
    assert [it.run for it in job.folder.metrics() if "loss" in it.values] == [1] * 7 + [2] * 3


def test_best_checkpoint_is_kept_and_the_run_ends_once_it_no_longer_improves(
    tmp_path: Path, llama: Checkpoint
) -> None:
    other = [{"prompt": row["prompt"], "completion": " sleeps."} for row in questions(12, 100)]
    job = make_job(
        tmp_path / "job", llama, questions(16), other, epochs=20, patience=2, learning_rate=2e-2
    )
    recipe = SupervisedRecipe(job)
    recipe.setup()
    recipe.train()
    report = recipe.save()
    evaluated = {
        it.step: it.values["eval_loss"] for it in job.folder.metrics() if "eval_loss" in it.values
    }
    best = min(evaluated, key=lambda step: evaluated[step])
    assert best < max(evaluated) == job.folder.status().step < job.folder.status().steps
    kept = load_file(job.folder.checkpoints / f"checkpoint-{best}" / "adapter_model.safetensors")
    saved = load_file(job.folder.result / "adapter_model.safetensors")
    last = find_whole(job.folder.checkpoints)
    assert last is not None
    newest = load_file(last / "adapter_model.safetensors")
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    assert not all(torch.equal(saved[name], newest[name]) for name in newest)
    assert report.is_overfitted


def test_a_job_tells_of_every_step_and_shows_answers_at_every_evaluation(
    tmp_path: Path, llama: Checkpoint
) -> None:
    job = make_job(
        tmp_path / "job", llama, questions(), questions(12, 100), evaluate_every=4, save_every=3
    )
    teach(job)
    steps = [it for it in job.folder.metrics() if "loss" in it.values]
    assert [it.step for it in steps] == list(range(1, 11))
    expected = {"loss", "learning_rate", "grad_norm", "memory_bytes", "eta_s"}
    assert all(expected <= set(it.values) for it in steps)
    assert all(it.values["tokens_per_s"] > 0 for it in steps[1:])
    assert steps[-1].values["eta_s"] == 0 < steps[0].values["eta_s"]
    assert [it.step for it in job.folder.metrics() if "eval_loss" in it.values] == [4, 8, 10]
    shown = job.folder.samples()
    assert [it.step for it in shown] == [4, 4, 8, 8, 10, 10]
    assert shown[0].prompt == questions(1, 100)[0]["prompt"]
    assert shown[0].expected == questions(1, 100)[0]["completion"]
    checkpoints = sorted(job.folder.checkpoints.glob("checkpoint-*"), key=step_of)
    assert [step_of(it) for it in checkpoints] == [9, 10]
    assert [why_not_whole(it) for it in checkpoints] == [None] * 2


class Memory:
    """Has room for so many samples at once, so many tokens each, from a step on."""

    def __init__(self, rows: int = 99, tokens: int = 10**6, calls: int = 0) -> None:
        self.rows, self.tokens, self.calls = rows, tokens, calls
        self.largest = 0

    def __call__(self, inputs: Any) -> None:
        self.calls -= 1
        rows, tokens = inputs["input_ids"].shape
        if self.calls < 0 and (rows > self.rows or tokens > self.tokens):
            raise torch.OutOfMemoryError("no room")
        self.largest = max(self.largest, rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "rows", "computed", "calls"),
    [
        (4, 2, 2, 0),
        pytest.param(6, 4, 3, 0, marks=pytest.mark.thorough),
        (4, 1, 1, 10),
    ],
)
def test_batch_that_does_not_fit_is_computed_in_parts_with_the_same_outcome(
    tmp_path: Path, llama: Checkpoint, batch: int, rows: int, computed: int, calls: int
) -> None:
    asked: dict[str, Any] = {"batch": batch, "method": "full"}
    whole = make_job(tmp_path / "whole", llama, questions(), questions(12, 100), **asked)
    teach(whole)
    job = make_job(tmp_path / "job", llama, questions(), questions(12, 100), **asked)
    teach(job, guard=Memory(rows, calls=calls))
    assert losses(job) == pytest.approx(losses(whole), abs=1e-5)
    status = job.folder.status()
    assert (status.batch, status.accumulation) == (computed, 2 * batch // computed)
    assert status.steps == whole.folder.status().steps
    said = job.folder.notices()[-1]
    assert f"computed {computed} at a time" in said.text
    assert said.step == (4 if calls else 0)


@pytest.mark.slow
def test_resumed_job_begins_with_the_batch_that_fitted(tmp_path: Path, llama: Checkpoint) -> None:
    job = make_job(tmp_path / "job", llama, questions(), questions(12, 100))
    job.stop = StopAt(job.folder, 3)
    recipe = SupervisedRecipe(job, Memory(2))
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    memory = Memory()
    teach(resumed(job), guard=memory)
    assert memory.largest == 2
    assert len(job.folder.notices()) == 1


def test_longest_batch_comes_first_and_changes_nothing(tmp_path: Path, llama: Checkpoint) -> None:
    job = make_job(
        tmp_path / "job", llama, questions(), questions(12, 100), lora_dropout=0.5, max_steps=1
    )
    seen: list[tuple[int, torch.Tensor, list[torch.Tensor]]] = []

    def look(inputs: Any) -> None:
        trained = [it.clone() for it in recipe.trainer.model.parameters() if it.requires_grad]
        seen.append((inputs["input_ids"].shape[1], torch.random.get_rng_state(), trained))
        gradients = [it.grad for it in recipe.trainer.model.parameters()]
        assert len(seen) > 2 or all(it is None or not it.any() for it in gradients)

    recipe = SupervisedRecipe(job, look)
    recipe.setup()
    recipe.train()
    lengths = [len(ids) for ids in recipe.trainer.train_dataset["input_ids"]]
    assert len(seen) == 3
    assert seen[0][0] == max(lengths) > seen[1][0]
    assert torch.equal(seen[0][1], seen[1][1])
    assert all(map(torch.equal, seen[0][2], seen[1][2]))


@pytest.mark.slow
def test_samples_are_cut_only_where_that_is_allowed(tmp_path: Path, llama: Checkpoint) -> None:
    long = [{"text": f"{row['text']} " * 60} for row in lines(8)]
    asked: dict[str, Any] = {"max_length": 512, "epochs": 1}
    job = make_job(tmp_path / "refused", llama, long, long, **asked)
    with pytest.raises(DeviceFullError, match="--may-shorten"):
        teach(job, guard=Memory(tokens=300))
    assert not losses(job)
    assert not job.folder.result.exists()

    job = make_job(tmp_path / "allowed", llama, long, long, may_shorten=True, **asked)
    report = teach(job, guard=Memory(tokens=300))
    assert losses(job)
    assert report.passed, report.verdict
    assert job.folder.status().max_length == 256
    assert "cut to 256 tokens" in " ".join(it.text for it in job.folder.notices())


@pytest.mark.slow
def test_whole_model_that_does_not_fit_gets_an_optimizer_of_fewer_bytes(
    tmp_path: Path, llama: Checkpoint
) -> None:
    class Thrice:
        """Has no room for a batch of 4, 2 and 1, before the optimizer is another."""

        calls = 0

        def __call__(self, inputs: Any) -> None:
            self.calls += 1
            if self.calls <= 3:
                raise torch.OutOfMemoryError("no room")

    job = make_job(tmp_path / "job", llama, questions(), questions(12, 100), method="full")
    recipe = SupervisedRecipe(job, Thrice())
    recipe.setup()
    recipe.train()
    assert recipe.trainer.args.optim == "paged_adamw_8bit"
    assert "8 bits" in job.folder.notices()[-1].text
    assert recipe.save().passed


def test_packed_samples_make_fewer_rows_and_are_learned(tmp_path: Path, llama: Checkpoint) -> None:
    job = make_job(
        tmp_path / "job", llama, questions(), questions(12, 100), packing=True, epochs=6, batch=2
    )
    report = teach(job, guard=None)
    assert not job.folder.notices()
    assert job.folder.status().steps < 6 * 10
    assert report.passed, report.verdict
