"""Supervised fine-tuning of a text model on TRL's SFTTrainer: LoRA, QLoRA, and the whole model.

Features:
    - Methods: `lora` (Hu et al. 2021) beside every linear layer, the base in 16 bits on a card;
      `qlora` (Dettmers et al. 2023), the base in nf4 with double quantization; `full`, every
      weight, in fp32 with autocast.
    - Data: text, prompt and completion, or chats. `studio/data/masks.py` makes the tokens and says
      which are trained, so that it is what the preview showed: the answers with the token that
      ends them, unless `loss_on = "everything"`.
    - Models of the hub's layout and GGUF files, which are unpacked.
    - An update that does not fit is computed in smaller parts, with the same samples in the same
      order (`supervised_trainer.py`). The longest batch comes first, so it fails at once or not.
    - Packing (best fit, decreasing), where the model's attention keeps the samples of a row apart:
      that is tried, and else packing is left out and said so.
    - Evaluation and a checkpoint each epoch or every N updates, sample answers, an end by patience;
      the best checkpoint is what is kept. Resuming goes on bit by bit where the device is the same.

Trade-offs:
    - Gradient checkpointing (on a card unless told otherwise) computes a third more for activations
      of one layer instead of all.
    - 8-bit AdamW: a quarter of the optimizer's bytes; paged, these may lie in host memory, and a
      step waits for what is not on the card.
    - `offload`: activations wait in host memory between forward and backward, and the optimizer's
      states are paged. Weights stay on the card: PEFT would put the adapter of a layer that
      accelerate offloads where no gradient reaches it, and accelerate does not train 4-bit layers
      that are offloaded. Four bits of a model of 20 billion weights are about 11 GB.
    - Adapters learn in fp32, where TRL would put those of QLoRA into bfloat16: 4 bytes more a
      trained weight, and no update is lost to rounding.

GPT-2 as its guide tells it: `method = "full"` and the defaults of `JobSettings` are it, a line of
text a sample, 10 % held out, 512 tokens, batch 4 by 4, 3 epochs, 5e-5, weight decay 0.01,
evaluation each epoch, perplexity before and after, answers; with `precision = "fp16"` on a card.
What the guide says to do when memory runs out (batch 2 or 1 and more accumulation, then 256 tokens)
is done by itself, the last only with `may_shorten`.

Errors: RequestError and DataError for a model or data that cannot be used; BackendError for damaged
weights; DeviceFullError with what is left to try; DeviceLostError.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset, disable_progress_bars
from peft import get_peft_model
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed
from trl import SFTConfig

from multimodal.studio.checkpoints import find_whole
from multimodal.studio.context import JobContext
from multimodal.studio.data.masks import TokenizedRow, add_plain_template, tokenize_rows
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, read_rows
from multimodal.studio.evaluation.comparisons import (
    compare,
    find_examples,
    generate_answers,
    pair_answers,
)
from multimodal.studio.evaluation.forgetting import forgetting_losses
from multimodal.studio.evaluation.gate import judge_supervised
from multimodal.studio.evaluation.perplexity import SampleLoss, sample_losses
from multimodal.studio.recipes.adapters import lora_config
from multimodal.studio.recipes.arguments import OPTIMIZERS, training_arguments
from multimodal.studio.recipes.base_model import BaseModel, load_base
from multimodal.studio.recipes.batching import release
from multimodal.studio.recipes.callbacks import JobCallback, show_answers
from multimodal.studio.recipes.fitting_run import keep_baseline
from multimodal.studio.recipes.memory_plan import read_plan
from multimodal.studio.recipes.packing import keeps_samples_apart
from multimodal.studio.recipes.precision import computing, widen_trained
from multimodal.studio.recipes.results import save_result
from multimodal.studio.recipes.supervised_trainer import (
    Guard,
    PlanChangedError,
    SupervisedTrainer,
)
from multimodal.studio.records import Comparison, Report

disable_progress_bars()

ANSWERS, ANSWER_TOKENS = 4, 48
"""Held-out prompts that are answered before and after, and the longest answer to each."""
SHOWN = 2
"""Of them, at each evaluation."""
OFFLOAD = (
    "Activations wait in host memory and the optimizer's states may move there, so each step takes "
    "longer; the weights stay on the device."
)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was measured before the first step: of the held-out samples, of plain text, and what
    the model answered, which an adapter need not keep since it can be put off."""

    losses: list[SampleLoss]
    plain: list[SampleLoss]
    answers: list[str]


class SupervisedRecipe:
    """One job of the methods lora, qlora and full; see the module. `guard` is a seam for tests, as
    `SupervisedTrainer` says."""

    def __init__(self, job: JobContext, guard: Guard | None = None) -> None:
        self._job, self._settings, self._guard = job, job.settings, guard
        self._base: BaseModel
        self.trainer: SupervisedTrainer
        """From `setup` to `cleanup`."""

    def setup(self) -> None:
        job, settings = self._job, self._settings
        job.tell(doing="loading the model")
        self._plan = read_plan(job.folder, settings, job.start.batch)
        self._base = load_base(job)
        self._train_rows = read_rows(job.folder.data / TRAIN_FILE)
        self._test_rows = read_rows(job.folder.data / TEST_FILE)
        self._examples = find_examples(self._test_rows, ANSWERS)
        if any(_has_messages(row) for row in self._test_rows):
            add_plain_template(self._base.tokenizer)
        self._longest = self._positions()
        self._plan = replace(self._plan, max_length=min(self._plan.max_length, self._longest))
        # Not shortened with the samples that are trained, so that before and after stay alike.
        self._judged = self._tokenized(self._test_rows, self._longest)
        self._is_packed = self._packs()
        set_seed(settings.seed)
        self._model = self._base.model
        if settings.is_adapter:
            self._model = get_peft_model(self._model, lora_config(settings))
        with computing(job, self._base.dtype, "measuring the model as it is"):
            self._before = keep_baseline(job, Baseline, lambda: self._baseline(self._model))
        self.trainer = self._build(self._model)

    def train(self) -> None:
        """The longest batch is tried here, before the first step, where the plan may still change:
        only now is everything in memory."""
        whole = find_whole(self._job.folder.checkpoints) if self._job.start.is_resumed else None
        while True:
            try:
                self.trainer.train(resume_from_checkpoint=str(whole) if whole else None)
                return
            except PlanChangedError:
                self._plan = self.trainer.plan
                self.trainer = self._build(self._model)

    def save(self) -> Report:
        """Raises OSError where the disk is full."""
        job, model = self._job, self._model
        save_result(model, self._base.tokenizer, job.folder.result, job.start.card.name)
        with computing(job, self._base.dtype, "measuring what was learned"):
            losses = sample_losses(model, self._judged, self._plan.batch)
            plain = forgetting_losses(model, self._base.tokenizer)
            comparisons = self._compared(model)
        before, metrics = self._before, job.folder.metrics()
        return judge_supervised(before.losses, losses, before.plain, plain, metrics, comparisons)

    def cleanup(self) -> None:
        release(self, "trainer", "_model", "_base")

    def _positions(self) -> int:
        """The longest sample that was asked for and that the model reads."""
        asked = self._settings.max_length
        config = self._base.model.config.get_text_config()
        read = int(getattr(config, "max_position_embeddings", None) or asked)
        if read < asked:
            self._job.note(f"The model reads {read:,} tokens, so longer samples are cut there.")
        return min(asked, read)

    def _tokenized(self, rows: list[Row], max_length: int) -> list[TokenizedRow]:
        found = tokenize_rows(rows, self._base.tokenizer, max_length, self._settings.loss_on)
        return found.rows

    def _dataset(self, rows: list[Row], name: str) -> Dataset:
        """As SFTTrainer takes samples that are tokenized already, with -100 where there is no
        loss."""
        settings, length = self._settings, self._plan.max_length
        found = tokenize_rows(rows, self._base.tokenizer, length, settings.loss_on)
        for notice in found.notices:
            self._job.note(f"{name}: {notice}")
        columns = {
            "input_ids": [row.input_ids for row in found.rows],
            "labels": [row.labels for row in found.rows],
        }
        return Dataset.from_dict(columns)

    def _packs(self) -> bool:
        if not self._settings.packing:
            return False
        if keeps_samples_apart(self._base.model):
            return True
        self._job.note(
            "Packing is left out: this model's attention would let the samples of one row see each "
            "other."
        )
        return False

    def _build(self, model: Any) -> SupervisedTrainer:
        job, settings, plan = self._job, self._settings, self._plan
        arguments = training_arguments(
            job,
            SFTConfig,
            optim=OPTIMIZERS[plan.optimizer],
            per_device_eval_batch_size=plan.batch,
            max_length=plan.max_length,
            packing=self._is_packed,
            eval_packing=False,
            activation_offloading=settings.offload and job.start.device == "cuda",
        )
        if settings.offload:
            job.note(OFFLOAD)
        callbacks: list[TrainerCallback] = [JobCallback(job, self._show)]
        if settings.patience:
            callbacks.append(EarlyStoppingCallback(settings.patience))
        trainer = SupervisedTrainer(
            job,
            plan,
            self._guard,
            model=model,
            args=arguments,
            train_dataset=self._dataset(self._train_rows, "Training"),
            eval_dataset=self._dataset(self._test_rows, "Held out"),
            processing_class=self._base.tokenizer,
            callbacks=callbacks,
        )
        widen_trained(model)
        return trainer

    def _show(self, model: Any, tokenizer: Any, step: int) -> None:
        some = self._examples[:SHOWN]
        show_answers(self._job, model, tokenizer, some, ANSWER_TOKENS, step)

    def _baseline(self, model: Any) -> Baseline:
        prompts = [] if self._settings.is_adapter else [it.prompt for it in self._examples]
        tokenizer = self._base.tokenizer
        return Baseline(
            sample_losses(model, self._judged, self._plan.batch),
            forgetting_losses(model, tokenizer),
            generate_answers(model, tokenizer, prompts, ANSWER_TOKENS),
        )

    def _compared(self, model: Any) -> list[Comparison]:
        """An adapter on and off in one model; of a whole model, with what it answered before."""
        prompts = [example.prompt for example in self._examples]
        expected = [example.expected for example in self._examples]
        tokenizer = self._base.tokenizer
        if self._settings.is_adapter:
            return compare(model, tokenizer, prompts, ANSWER_TOKENS, expected)
        after = generate_answers(model, tokenizer, prompts, ANSWER_TOKENS)
        return pair_answers(prompts, self._before.answers, after, expected)


def _has_messages(row: Row) -> bool:
    return "messages" in row or isinstance(row.get("prompt"), list)
