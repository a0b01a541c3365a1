"""A picture classifier of one's own on transformers' Trainer, from a checkpoint or from scratch.

Features:
    - Any model of AutoModelForImageClassification, such as ViT (Dosovitskiy et al. 2021) and ResNet
      (He et al. 2016). A checkpoint gets an output for each class of the data; one that tells just
      those classes apart keeps its own. A card without weights (`source.kind = "untrained"`) states
      a shape alone, which begins with random weights.
    - Data: a folder with a folder for each class (`studio/data/pictures.py`). Pictures are prepared
      by the checkpoint's image processor, and varied meanwhile by light crops and mirror images
      (`augmentation`: without the latter where left and right matter, as with letters).
    - Every weight is trained, in fp32 with autocast on a card.
    - Evaluation and a checkpoint each epoch or every N updates, with accuracy and some held-out
      pictures as they are seen; an end by patience; the best checkpoint is what is kept. A resumed
      job goes on with the same pictures in the same order, varied alike.
    - The gate: accuracy on what was held out, after against before. A model that never learned
      these classes knows nothing of them, so before is what the most frequent class gets right.

Trade-offs:
    - Where the device is full, fewer pictures are computed at once and more often before each
      update, from the newest checkpoint on. A ResNet normalizes by what it sees at once (Ioffe and
      Szegedy 2015), so there the update is not quite the same; a ViT's is.
    - Gradient checkpointing only where it is asked for and the model can: classifiers are small.
    - From scratch, some hundred pictures of each class are the least for anything but simple
      shapes; a checkpoint learns from some dozen.

Errors: BackendError for damaged weights; DeviceFullError with what is left to try; DeviceLostError.
Pictures are checked before there is a job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from multimodal.backends.classifier.answers import candidates, sentence
from multimodal.backends.classifier.options import ClassifierOptions
from multimodal.catalog.sources import UntrainedSource
from multimodal.studio.context import JobContext
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, read_rows
from multimodal.studio.evaluation.confusions import find_confusions
from multimodal.studio.evaluation.gate import judge_accuracy
from multimodal.studio.evaluation.perplexity import evaluation_mode
from multimodal.studio.recipes.arguments import training_arguments
from multimodal.studio.recipes.batching import release
from multimodal.studio.recipes.callbacks import JobCallback
from multimodal.studio.recipes.classifier_model import Classifier, load_classifier
from multimodal.studio.recipes.fitting_run import FittingRun, keep_baseline
from multimodal.studio.recipes.picture_dataset import EpochCallback, PictureDataset, collate
from multimodal.studio.recipes.precision import compute_type, computing, precision_notice
from multimodal.studio.recipes.results import save_result
from multimodal.studio.recipes.resumable_trainer import ResumableTrainer
from multimodal.studio.records import Comparison, Report

SHOWN, COMPARED = 2, 4
"""Held-out pictures whose classes are told at each evaluation, and at the end."""
SCRATCH_RATE = 1e-3
"""The learning rate of a model that knows nothing, unless the person says otherwise."""
MAJORITY = (
    "The model never learned these classes, so before is what is right by always naming the most "
    "frequent one."
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was seen in one picture: the likeliest class, and all of it in a sentence."""

    label: str
    told: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was seen in each held-out picture before the first step."""

    predictions: list[Prediction]


class ClassifyRecipe:
    """One job of the method classify; see the module."""

    def __init__(self, job: JobContext) -> None:
        self._job, self._settings = job, job.settings
        self._run = FittingRun(job, "picture", "or take a smaller model")
        self._classifier: Classifier
        self.trainer: Trainer
        """From `train` to `cleanup`."""

    def setup(self) -> None:
        job = self._job
        job.tell(doing="loading the model")
        if told := precision_notice(self._settings, job.start.device):
            job.note(told)
        self._train_rows = read_rows(job.folder.data / TRAIN_FILE)
        self._test_rows = read_rows(job.folder.data / TEST_FILE)
        self._labels = sorted({row["label"] for row in self._train_rows})
        self._load()
        self._before = keep_baseline(job, Baseline, self._baseline).predictions

    def train(self) -> None:
        self._run.train(self._new_trainer, self._load)

    def save(self) -> Report:
        """Raises OSError where the disk is full."""
        job, seen = self._job, self._classifier
        save_result(seen.model, seen.processor, job.folder.result, job.start.card.name)
        after = self._predictions(self._test_rows, "measuring what was learned")
        expected = [row["label"] for row in self._test_rows]
        before, shown = self._before, self._examples(COMPARED)
        report = judge_accuracy(
            _are_right(expected, before),
            _are_right(expected, after),
            [
                Comparison(row["name"], before[at].told, after[at].told, row["label"])
                for at, row in enumerate(self._test_rows)
                if row in shown
            ],
            metrics=job.folder.metrics(),
        )
        confusions = find_confusions(expected, [one.label for one in after])
        return replace(report, confusions=confusions)

    def cleanup(self) -> None:
        release(self, "trainer", "_classifier")

    def make_trainer(self, train: PictureDataset, test: PictureDataset) -> Trainer:
        """transformers' own, with the job's settings."""
        job, settings = self._job, self._settings
        callbacks: list[TrainerCallback] = [EpochCallback(train), JobCallback(job, self._show)]
        if settings.patience:
            callbacks.append(EarlyStoppingCallback(settings.patience))
        return ResumableTrainer(
            model=self._classifier.model,
            args=self._arguments(),
            data_collator=collate,
            train_dataset=train,
            eval_dataset=test,
            processing_class=self._classifier.processor,
            compute_metrics=_accuracy,
            callbacks=callbacks,
        )

    # ------------------------------------------------------------ training

    def _load(self) -> None:
        """The model as the job begins with it, in place of any other."""
        release(self, "trainer", "_classifier")
        set_seed(self._settings.seed)
        self._classifier = load_classifier(self._job, self._labels)

    def _new_trainer(self) -> Trainer:
        train = self._dataset(self._train_rows, is_varied=True)
        self.trainer = self.make_trainer(train, self._dataset(self._test_rows))
        return self.trainer

    def _arguments(self) -> TrainingArguments:
        settings, model = self._settings, self._classifier.model
        rate = settings.learning_rate
        if rate is None and isinstance(self._job.start.card.source, UntrainedSource):
            rate = SCRATCH_RATE
        recomputes = bool(settings.gradient_checkpointing)
        if recomputes and not model.supports_gradient_checkpointing:
            self._job.note("This model cannot recompute its activations, so all are kept.")
            recomputes = False
        given: dict[str, Any] = {} if rate is None else {"learning_rate": rate}
        return training_arguments(
            self._job,
            TrainingArguments,
            **self._run.sizes,
            gradient_checkpointing=recomputes,
            remove_unused_columns=False,
            **given,
        )

    def _dataset(self, rows: Sequence[Row], is_varied: bool = False) -> PictureDataset:
        seen, settings = self._classifier, self._settings
        how = settings.augmentation if is_varied else "none"
        data = self._job.folder.data
        return PictureDataset(rows, data, seen.processor, seen.labels, how, settings.seed)

    # ------------------------------------------------------------ measuring

    def _examples(self, count: int) -> list[Row]:
        """Held-out pictures of as many classes as there can be."""
        first = {row["label"]: row for row in reversed(self._test_rows)}
        spread = [first[label] for label in sorted(first)]
        others = (row for row in self._test_rows if row is not first[row["label"]])
        return [*spread, *others][:count]

    def _show(self, _model: Any, _processor: Any, step: int) -> None:
        rows = self._examples(SHOWN)
        found = self._predictions(rows, "training")
        for row, seen in zip(rows, found, strict=True):
            self._job.show(step, row["name"], seen.told, row["label"])

    def _baseline(self) -> Baseline:
        if self._classifier.knows_them:
            return Baseline(self._predictions(self._test_rows, "measuring the model as it is"))
        self._job.note(MAJORITY)
        counts = Counter(row["label"] for row in self._train_rows)
        most = max(sorted(counts), key=lambda label: counts[label])
        told = f"{most} (the most frequent class)"
        return Baseline([Prediction(most, told)] * len(self._test_rows))

    def _predictions(self, rows: Sequence[Row], doing: str) -> list[Prediction]:
        job, seen, options = self._job, self._classifier, ClassifierOptions()
        names = dict(enumerate(seen.labels))
        device = torch.device(job.start.device)
        seen.model.to(device)
        found: list[Prediction] = []
        with computing(job, compute_type(self._settings, job.start.device), doing):
            for shares in class_shares(seen.model, self._dataset(rows), self._run.batching.batch):
                ordered = candidates(shares, names)
                told = sentence(ordered, options.threshold, options.candidates)
                found.append(Prediction(ordered[0][0], told))
        return found


@torch.inference_mode()
def class_shares(model: Any, pictures: PictureDataset, batch: int) -> list[list[float]]:
    """How likely each class is for each picture, by softmax; `batch` of them at once. Modules get
    back the mode they were in."""
    found: list[list[float]] = []
    with evaluation_mode(model):
        for start in range(0, len(pictures), batch):
            items = [pictures[at] for at in range(start, min(start + batch, len(pictures)))]
            pixels = collate(items)["pixel_values"].to(model.device)
            found += model(pixel_values=pixels).logits.float().softmax(dim=-1).tolist()
    return found


def _accuracy(evaluated: Any) -> dict[str, float]:
    logits = evaluated.predictions
    return {"accuracy": float(np.mean(logits.argmax(axis=-1) == evaluated.label_ids))}


def _are_right(expected: Sequence[str], found: Sequence[Prediction]) -> list[bool]:
    return [one.label == label for label, one in zip(expected, found, strict=True)]
