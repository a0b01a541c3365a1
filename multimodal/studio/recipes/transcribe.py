"""A speech recognizer for words and voices of one's own, on transformers' Trainer.

Features:
    - Whisper (Radford et al. 2022), from CTranslate2's or OpenAI's files; Wav2Vec 2.0 with CTC
      (Baevski et al. 2020); SeamlessM4T v2 to text (Seamless Communication 2023).
    - Data: recordings of at most 30 s with their texts (`studio/data/recordings.py`).
    - `trained_weights`: all; those of the decoder alone, for which the encoder is computed without
      a backward pass (less than half of the time); or a LoRA adapter in attention and feed-forward
      layers, merged into the weights at the end, so that the chat loads one model.
    - Whisper learns with the window that the chat hears with: the longest recording and 5 s, at
      least 10 s instead of 30. What stands before the words (language, task) is given, not learned.
    - Evaluation and a checkpoint each epoch or every N updates, with some held-out recordings as
      they are heard; an end by patience; the best checkpoint, by its loss, is what is kept.
    - The gate: the word error rate on what was held out, after against before.

Trade-offs:
    - Trained in fp32 with autocast on a card: 16 bytes a weight that is trained. Where the device
      is full, fewer recordings are computed at once, from the newest checkpoint on.
    - Timestamps are not learned, and what the model heard before is not measured: mix in recordings
      of other things where it must go on hearing them.
    - A Whisper result is written once more for CTranslate2 when it is installed.

Errors: BackendError for damaged weights; DataError for texts that the model cannot write; JobError
for a language that it does not know; DeviceFullError with what is left to try; DeviceLostError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from multimodal.studio.context import JobContext
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, read_rows
from multimodal.studio.evaluation.gate import judge_word_errors
from multimodal.studio.evaluation.perplexity import evaluation_mode
from multimodal.studio.evaluation.word_errors import count_word_errors
from multimodal.studio.recipes.arguments import training_arguments
from multimodal.studio.recipes.batching import release
from multimodal.studio.recipes.callbacks import JobCallback
from multimodal.studio.recipes.fitting_run import FittingRun, keep_baseline
from multimodal.studio.recipes.precision import compute_type, computing, precision_notice
from multimodal.studio.recipes.resumable_trainer import ResumableTrainer
from multimodal.studio.recipes.speech_dataset import SpeechDataset, longest_s, read_recording
from multimodal.studio.recipes.speech_families import load_speech_model
from multimodal.studio.recipes.speech_model import (
    SpeechModel,
    choose_weights,
    save_speech,
)
from multimodal.studio.records import Comparison, Report

SHOWN, COMPARED = 2, 6
"""Held-out recordings whose words are told at each evaluation, and at the end."""
ADAPTER_RATE = 1e-3
"""The learning rate of an adapter, as PEFT's example of Whisper has it, unless the person says
otherwise."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was heard in each held-out recording before the first step."""

    texts: list[str]


class TranscribeRecipe:
    """One job of the method transcribe; see the module."""

    def __init__(self, job: JobContext) -> None:
        self._job, self._settings = job, job.settings
        way = "train an adapter (--trained-weights), or take a smaller model"
        self._run = FittingRun(job, "recording", way)
        self._speech: SpeechModel
        self.trainer: Trainer
        """From `train` to `cleanup`."""

    def setup(self) -> None:
        job = self._job
        job.tell(doing="loading the model")
        if told := precision_notice(self._settings, job.start.device):
            job.note(told)
        self._train_rows = read_rows(job.folder.data / TRAIN_FILE)
        self._test_rows = read_rows(job.folder.data / TEST_FILE)
        self._load()
        for row in (*self._train_rows, *self._test_rows):
            self._speech.item(read_recording(row, job.folder.data), row["text"])
        self._before = keep_baseline(job, Baseline, self._baseline).texts

    def train(self) -> None:
        self._run.train(self._new_trainer, self._load)

    def save(self) -> Report:
        """Raises OSError where the disk is full."""
        job = self._job
        after = self._transcribed(self._test_rows, "measuring what was learned")
        save_speech(self._speech, job.folder.result, job.start.card.name)
        expected = [row["text"] for row in self._test_rows]
        before, language = self._before, self._settings.language
        return judge_word_errors(
            count_word_errors(expected, before, language),
            count_word_errors(expected, after, language),
            [
                Comparison(row["name"], before[at], after[at], row["text"])
                for at, row in enumerate(self._test_rows[:COMPARED])
            ],
            metrics=job.folder.metrics(),
        )

    def cleanup(self) -> None:
        release(self, "trainer", "_speech")

    def make_trainer(self, train: SpeechDataset, test: SpeechDataset) -> Trainer:
        """transformers' own, with the job's settings."""
        job, settings = self._job, self._settings
        callbacks: list[TrainerCallback] = [JobCallback(job, self._show)]
        if settings.patience:
            callbacks.append(EarlyStoppingCallback(settings.patience))
        has_adapter = settings.trained_weights == "adapter"
        return (Trainer if has_adapter else ResumableTrainer)(
            model=self._speech.model,
            args=self._arguments(),
            data_collator=self._speech.collate,
            train_dataset=train,
            eval_dataset=test,
            processing_class=self._speech.processor,
            callbacks=callbacks,
        )

    # ------------------------------------------------------------ training

    def _load(self) -> None:
        """The model as the job begins with it, in place of any other."""
        release(self, "trainer", "_speech")
        set_seed(self._settings.seed)
        longest = longest_s([*self._train_rows, *self._test_rows])
        self._speech = load_speech_model(self._job, longest)
        choose_weights(self._speech, self._settings)

    def _new_trainer(self) -> Trainer:
        train, test = self._dataset(self._train_rows), self._dataset(self._test_rows)
        self.trainer = self.make_trainer(train, test)
        return self.trainer

    def _arguments(self) -> TrainingArguments:
        settings = self._settings
        rate = settings.learning_rate
        if rate is None and settings.trained_weights == "adapter":
            rate = ADAPTER_RATE
        given: dict[str, Any] = {} if rate is None else {"learning_rate": rate}
        return training_arguments(
            self._job,
            TrainingArguments,
            **self._run.sizes,
            gradient_checkpointing=bool(settings.gradient_checkpointing),
            remove_unused_columns=False,
            prediction_loss_only=True,
            label_names=["labels"],
            **given,
        )

    def _dataset(self, rows: Sequence[Row]) -> SpeechDataset:
        return SpeechDataset(rows, self._job.folder.data, self._speech)

    # ------------------------------------------------------------ measuring

    def _show(self, _model: Any, _processor: Any, step: int) -> None:
        rows = self._test_rows[:SHOWN]
        for row, heard in zip(rows, self._transcribed(rows, "training"), strict=True):
            self._job.show(step, row["name"], heard, row["text"])

    def _baseline(self) -> Baseline:
        return Baseline(self._transcribed(self._test_rows, "measuring the model as it is"))

    def _transcribed(self, rows: Sequence[Row], doing: str) -> list[str]:
        job = self._job
        self._speech.model.to(torch.device(job.start.device))
        with computing(job, compute_type(self._settings, job.start.device), doing):
            return transcribe_rows(self._speech, rows, job)


@torch.inference_mode()
def transcribe_rows(speech: SpeechModel, rows: Sequence[Row], job: JobContext) -> list[str]:
    """What is heard in the recordings of `rows`. Modules get back the mode they were in."""
    with evaluation_mode(speech.model):
        return speech.transcribe([read_recording(row, job.folder.data) for row in rows])
