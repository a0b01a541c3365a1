"""A model that sees learns to say what one's own captions say, by LoRA on transformers' Trainer.

Features:
    - LLaVA (Liu et al. 2023), LLaVA-NeXT, SmolVLM and Idefics3, BLIP-2 (Li et al. 2023) and
      InstructBLIP with a decoder: cards of the family `image_text`.
    - Data: pictures with captions, or with questions and answers (`studio/data/captions.py`).
    - The prompt is the chat's own, byte for byte (`backends/hf/picture_prompts.py`). The loss is on
      the caption and the token that ends it; the picture, the question and the template are only
      read. Where the data has no question, it is what the chat asks of a picture without a word.
    - An adapter beside every linear layer of the language model. The vision tower and what leads
      from it stay as they are, without dropout and without a backward pass. `four_bits`: all of
      the model but its adapter in nf4, as the chat holds it on a small card (Dettmers et al. 2023).
    - Evaluation and a checkpoint each epoch or every N updates, with some held-out pictures as they
      are described; an end by patience; the best checkpoint, by its loss, is what is kept.
    - The gate: the perplexity of held-out captions, before and after, and of plain text. Answers
      with and without the adapter come from one model in memory.

Trade-offs:
    - Pictures are prepared anew each time they are read, which takes far less than the step.
    - Where the device is full, fewer samples are computed at once, from the newest checkpoint on;
      an update's loss is divided by its trained tokens, so that it stays the same update.
    - How a picture is seen is not learned: what the vision tower does not tell apart stays so.

Errors: BackendError for damaged weights; DataError for a sample of which nothing would be trained;
RequestError for a language model of an encoder and a decoder; DeviceFullError with what is left to
try; DeviceLostError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch.nn import functional
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from multimodal.backends.describing import DESCRIBE
from multimodal.studio.context import JobContext
from multimodal.studio.data.masks import IGNORED
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, read_rows
from multimodal.studio.evaluation.caption_losses import caption_losses
from multimodal.studio.evaluation.comparisons import greedy, pair_answers
from multimodal.studio.evaluation.forgetting import forgetting_losses
from multimodal.studio.evaluation.gate import judge_supervised
from multimodal.studio.evaluation.perplexity import SampleLoss, evaluation_mode
from multimodal.studio.recipes.arguments import training_arguments
from multimodal.studio.recipes.batching import release
from multimodal.studio.recipes.callbacks import JobCallback
from multimodal.studio.recipes.caption_dataset import (
    CaptionCollator,
    CaptionDataset,
    CaptionEncoder,
)
from multimodal.studio.recipes.fitting_run import FittingRun, keep_baseline
from multimodal.studio.recipes.precision import computing, widen_trained
from multimodal.studio.recipes.results import save_result
from multimodal.studio.recipes.seeing_model import (
    SeeingModel,
    causal_model,
    language_adapter,
    load_seeing_model,
)
from multimodal.studio.records import Report

SHOWN, COMPARED, ANSWER_TOKENS = 2, 4, 48
"""Held-out pictures that are described at each evaluation, and at the end; the longest answer."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was measured before the first step: of held-out captions, and of plain text."""

    losses: list[SampleLoss]
    plain: list[SampleLoss]


class DescribeRecipe:
    """One job of the method describe; see the module."""

    def __init__(self, job: JobContext) -> None:
        self._job, self._settings = job, job.settings
        way = "choose a smaller --max-length or --four-bits, or take a smaller model"
        self._run = FittingRun(job, "picture", way)
        self._seen: SeeingModel
        self._model: Any
        self.trainer: Trainer
        """From `train` to `cleanup`."""

    def setup(self) -> None:
        job = self._job
        job.tell(doing="loading the model")
        self._train_rows = read_rows(job.folder.data / TRAIN_FILE)
        self._test_rows = read_rows(job.folder.data / TEST_FILE)
        self._load()
        self._check(self._train_rows, "Training")
        self._check(self._test_rows, "Held out")
        with computing(job, self._seen.dtype, "measuring the model as it is"):
            self._before = keep_baseline(job, Baseline, self._measure)

    def train(self) -> None:
        self._run.train(self._new_trainer, self._load)

    def save(self) -> Report:
        """Raises OSError where the disk is full."""
        job, tokenizer = self._job, self._seen.prompts.tokenizer
        save_result(self._model, tokenizer, job.folder.result, job.start.card.name)
        self._model.to(torch.device(job.start.device))
        with computing(job, self._seen.dtype, "measuring what was learned"):
            after = self._measure()
            some = self._test_rows[:COMPARED]
            said = self._answers(some)
            with self._model.disable_adapter():
                known = self._answers(some)
        before = self._before
        return judge_supervised(
            before.losses,
            after.losses,
            before.plain,
            after.plain,
            job.folder.metrics(),
            pair_answers(list(map(_asked, some)), known, said, [row["text"] for row in some]),
        )

    def cleanup(self) -> None:
        release(self, "trainer", "_model", "_seen", "_encoder")

    def make_trainer(self, train: CaptionDataset, test: CaptionDataset) -> Trainer:
        """transformers' own, with the job's settings."""
        job, settings = self._job, self._settings
        callbacks: list[TrainerCallback] = [JobCallback(job, self._show)]
        if settings.patience:
            callbacks.append(EarlyStoppingCallback(settings.patience))
        return Trainer(
            model=self._model,
            args=training_arguments(
                job,
                TrainingArguments,
                **self._run.sizes,
                remove_unused_columns=False,
                prediction_loss_only=True,
                label_names=["labels"],
            ),
            data_collator=self._collator,
            train_dataset=train,
            eval_dataset=test,
            processing_class=self._seen.prompts.tokenizer,
            compute_loss_func=caption_loss,
            callbacks=callbacks,
        )

    # ------------------------------------------------------------ training

    def _load(self) -> None:
        """The model as the job begins with it, in place of any other."""
        release(self, "trainer", "_model", "_seen", "_encoder")
        job, settings = self._job, self._settings
        self._seen = seen = load_seeing_model(job)
        card, length = job.start.card, settings.max_length
        self._encoder = CaptionEncoder(card, seen.model, seen.prompts, length)
        self._collator = CaptionCollator(self._encoder.padding, seen.dtype)
        set_seed(settings.seed)
        self._model = get_peft_model(seen.model, language_adapter(settings, seen.model))
        widen_trained(self._model)

    def _new_trainer(self) -> Trainer:
        self.trainer = self.make_trainer(
            self._dataset(self._train_rows), self._dataset(self._test_rows)
        )
        return self.trainer

    def _dataset(self, rows: Sequence[Row]) -> CaptionDataset:
        return CaptionDataset(rows, self._job.folder.data, self._encoder)

    def _check(self, rows: Sequence[Row], name: str) -> None:
        """Reads every sample once, so that what cannot be trained is found before anything is.
        Raises DataError."""
        samples = self._dataset(rows)
        if cut := sum(samples.encoded(at).is_cut for at in range(len(samples))):
            self._job.note(
                f"{name}: {cut} of {len(samples)} captions ({cut / len(samples):.0%}) are longer "
                f"than {self._settings.max_length} tokens with their question and are cut there."
            )

    # ------------------------------------------------------------ measuring

    def _measure(self) -> Baseline:
        batch, held_out = self._run.batching.batch, self._dataset(self._test_rows)
        tokenizer = self._seen.prompts.tokenizer
        return Baseline(
            caption_losses(self._model, held_out, self._collator, batch),
            forgetting_losses(causal_model(self._model), tokenizer),
        )

    def _show(self, _model: Any, _tokenizer: Any, step: int) -> None:
        rows = self._test_rows[:SHOWN]
        with computing(self._job, self._seen.dtype, "training"):
            answers = self._answers(rows)
        for row, answer in zip(rows, answers, strict=True):
            self._job.show(step, _asked(row), answer, row["text"])

    def _answers(self, rows: Sequence[Row]) -> list[str]:
        """What is said of each picture, greedily."""
        pictures = self._dataset(rows)
        with evaluation_mode(self._model):
            return [self._answer(pictures, at) for at in range(len(rows))]

    def _answer(self, pictures: CaptionDataset, at: int) -> str:
        prompt, tokenizer = pictures.prompt(at), self._seen.prompts.tokenizer
        device = self._seen.model.device
        ids = torch.tensor([prompt.tokens], device=device)
        inputs = self._collator.pictures([prompt.inputs])
        made = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=greedy(self._seen.model, tokenizer, ANSWER_TOKENS),
            **{name: tensor.to(device) for name, tensor in inputs.items()},
        )
        told = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        return str(told).strip()


def caption_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross entropy of the trained tokens, divided by how many the update has, or by their own
    number where that is not said. For `Trainer(compute_loss_func=)`."""
    following = labels[:, 1:]
    is_trained = following != IGNORED
    logits = outputs.logits[:, :-1][is_trained].float()
    total = functional.cross_entropy(logits, following[is_trained], reduction="sum")
    return total / (is_trained.sum() if num_items_in_batch is None else num_items_in_batch)


def _asked(row: Row) -> str:
    """For people: the picture, and what is asked of it."""
    return f"{row['name']}: {row['question'] or DESCRIBE}"
