"""A small diffusion model of pixels that draws classes of pictures, from scratch, on transformers'
Trainer with the U-Net and the scheduler of diffusers.

Features:
    - A U-Net on pixels with an embedding for each class (Ho et al. 2020; Nichol and Dhariwal 2021),
      from a card without weights or from an earlier result; the classes may be others then, and so
      may the resolution, whose sides are multiples of what the U-Net halves them by.
    - Data: a folder with a folder for each class, or one of pictures alone, of which a style is
      learned (`studio/data/pictures.py`). Pictures are squares of `resolution` pixels, varied
      meanwhile by light crops and mirror images (`augmentation`).
    - Classifier-free guidance: one picture in ten is learned without its class.
    - A moving average of the weights is what draws, is measured and is kept.
    - At each evaluation it draws pictures of every class from the same noise, so that one sees them
      become clear; an end by patience; the best checkpoint is what is kept. A resumed job goes on
      with the same pictures and the same noise.
    - The gate: how much of the noise in held-out pictures is found, after against before. Told
      besides: which share of what it draws are nearly copies of pictures that it learned from.

Trade-offs:
    - On pixels, not on latents: up to some 64 pixels on a side, nothing else has to be there
      first. Time grows with the number of pixels.
    - The gate says that the model learned the pictures, not that drawings are good: look at them,
      or ask a classifier.
    - Some dozen epochs of some hundred pictures a class are the least for simple shapes.

Errors: RequestError for a resolution that the model cannot have; BackendError for damaged weights;
DeviceFullError with what is left to try; DeviceLostError. Pictures are checked before there is a
job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from multimodal.backends.class_diffusion.checkpoint import save_checkpoint
from multimodal.backends.class_diffusion.sampling import make_noise, sample_pictures
from multimodal.studio.context import JobContext
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, read_rows
from multimodal.studio.estimate import drawing_side
from multimodal.studio.evaluation.copies import tell_copies
from multimodal.studio.evaluation.gate import judge_denoising
from multimodal.studio.evaluation.perplexity import evaluation_mode
from multimodal.studio.recipes.arguments import training_arguments
from multimodal.studio.recipes.batching import release
from multimodal.studio.recipes.callbacks import JobCallback
from multimodal.studio.recipes.denoising_dataset import DenoisingDataset, collate_noisy
from multimodal.studio.recipes.denoising_model import (
    AverageCallback,
    DenoisingModel,
    load_denoising_model,
)
from multimodal.studio.recipes.drawings import (
    LOOKS,
    ROWS,
    Baseline,
    copied_drawings,
    found_shares,
    show_drawings,
)
from multimodal.studio.recipes.fitting_run import FittingRun, keep_baseline
from multimodal.studio.recipes.picture_dataset import EpochCallback
from multimodal.studio.recipes.precision import compute_type, computing, precision_notice
from multimodal.studio.recipes.results import fresh_result
from multimodal.studio.records import Report

COLUMNS, STYLE_COLUMNS = 16, 4
"""Of what is drawn at an evaluation: one of each class, so many at most, and where there are no
classes."""
STEPS = 25
"""Of each of them."""


class DiffusionRecipe:
    """One job of the method diffusion; see the module."""

    def __init__(self, job: JobContext) -> None:
        self._job, self._settings = job, job.settings
        self._run = FittingRun(job, "picture", "or choose a smaller resolution")
        self._side = drawing_side(job.start.card, job.settings)
        self._model: DenoisingModel
        self.trainer: Trainer
        """From `train` to `cleanup`."""

    def setup(self) -> None:
        job = self._job
        job.tell(doing="loading the model")
        if told := precision_notice(self._settings, job.start.device):
            job.note(told)
        self._train_rows = read_rows(job.folder.data / TRAIN_FILE)
        self._test_rows = read_rows(job.folder.data / TEST_FILE)
        self._labels = tuple(sorted({row["label"] for row in self._train_rows}))
        self._load()
        self._before = keep_baseline(job, Baseline, self._baseline).found

    def train(self) -> None:
        self._run.train(self._new_trainer, self._load)

    def save(self) -> Report:
        """Raises OSError where the disk is full."""
        job = self._job
        with fresh_result(job.folder.result) as folder:
            save_checkpoint(self._model.drawing_model(), folder)
        after = self._found("measuring what was learned")
        report = judge_denoising(self._before, after, metrics=job.folder.metrics())
        drawn = self._draw()
        self._show_drawn(drawn, job.folder.status().step)
        rows = self._train_rows, self._test_rows
        return tell_copies(
            report, copied_drawings(drawn, job.folder.data, *rows, self._side), len(drawn)
        )

    def cleanup(self) -> None:
        release(self, "trainer", "_model")

    def make_trainer(self, train: DenoisingDataset, test: DenoisingDataset) -> Trainer:
        """transformers' own, with the job's settings."""
        job, settings = self._job, self._settings
        callbacks: list[TrainerCallback] = [
            AverageCallback(),
            EpochCallback(train),
            JobCallback(job, lambda _model, _processor, step: self._show(step)),
        ]
        if settings.patience:
            callbacks.append(EarlyStoppingCallback(settings.patience))
        return Trainer(
            model=self._model,
            args=training_arguments(
                job,
                TrainingArguments,
                **self._run.sizes,
                gradient_checkpointing=False,
                remove_unused_columns=False,
                prediction_loss_only=True,
            ),
            data_collator=collate_noisy,
            train_dataset=train,
            eval_dataset=test,
            callbacks=callbacks,
        )

    # ------------------------------------------------------------ training

    def _load(self) -> None:
        """The model as the job begins with it, in place of any other."""
        release(self, "trainer", "_model")
        set_seed(self._settings.seed)
        self._model = load_denoising_model(self._job, self._labels)
        if self._settings.gradient_checkpointing:
            self._model.unet.enable_gradient_checkpointing()

    def _new_trainer(self) -> Trainer:
        settings = self._settings
        train = DenoisingDataset(
            self._train_rows,
            self._job.folder.data,
            self._labels,
            self._side,
            augmentation=settings.augmentation,
            is_learned=True,
            seed=settings.seed,
        )
        self.trainer = self.make_trainer(train, self._held_out())
        return self.trainer

    def _held_out(self) -> DenoisingDataset:
        data, seed = self._job.folder.data, self._settings.seed
        return DenoisingDataset(self._test_rows, data, self._labels, self._side, LOOKS, seed=seed)

    # ------------------------------------------------------------ measuring

    def _baseline(self) -> Baseline:
        return Baseline(self._found("measuring the model as it is"))

    def _found(self, doing: str) -> list[float]:
        """The share of the noise in each held-out picture that the average finds."""
        job, data, batch = self._job, self._held_out(), self._run.batching.batch
        model = self._model.to(job.start.device)

        def squared_errors(items: list[dict[str, Any]]) -> torch.Tensor:
            given = {k: v.to(job.start.device) for k, v in collate_noisy(items).items()}
            return model.squared_errors(**given)

        with (
            computing(job, compute_type(self._settings, job.start.device), doing),
            evaluation_mode(model),
            torch.inference_mode(),
        ):
            return found_shares(data, batch, squared_errors)

    # ------------------------------------------------------------ drawing

    def _show(self, step: int) -> None:
        self._show_drawn(self._draw(), step)
        self._job.tell(doing="training")

    def _shown_classes(self) -> list[int]:
        columns = range(len(self._labels)) if len(self._labels) > 1 else [0] * STYLE_COLUMNS
        return [number for number in columns[:COLUMNS] for _ in range(ROWS)]

    def _draw(self) -> list[Image.Image]:
        """By the average, from the same noise each time."""
        job, model = self._job, self._model.drawing_model()
        classes = self._shown_classes()
        noise = make_noise(model, [self._settings.seed + at for at in range(len(classes))])
        guidance = job.start.card.drawing.guidance
        with (
            computing(job, compute_type(self._settings, job.start.device), "drawing"),
            evaluation_mode(model.unet),
        ):
            return sample_pictures(model, classes, noise, STEPS, guidance)

    def _show_drawn(self, drawn: Sequence[Image.Image], step: int) -> None:
        classes = self._shown_classes()
        names = dict.fromkeys(filter(None, (self._labels[number] for number in classes)))
        told = f"{len(drawn)} pictures, drawn in {STEPS} steps"
        show_drawings(self._job, step, drawn, ", ".join(names), told)
