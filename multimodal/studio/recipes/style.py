"""A style or a subject for Stable Diffusion, from pictures with captions, by LoRA (Hu et al. 2021)
on transformers' Trainer with the U-Net and the schedulers of diffusers.

Features:
    - An adapter beside the projections of attention in the U-Net, as diffusers' own script has it;
      U-Net, text encoders and decoder stay as they are. SD 1 and 2, SDXL (with its sizes and crops
      as conditions) and LCM; what predicts noise, and what predicts velocity.
    - Data: a folder of pictures with captions (`studio/data/captions.py`). Pictures are squares of
      `resolution` pixels, crops and mirror images of them made before the first step
      (`augmentation`, `latent_dataset.py`); latents and embeddings are computed once.
    - At each evaluation it draws held-out captions from the same noise; an end by patience; the
      best checkpoint is what is kept. A resumed job goes on with the same pictures and noise.
    - The gate: how much of the noise in held-out pictures is found, after against before. Told
      besides: which share of what it draws are nearly copies of pictures that it learned from.
    - The result is an adapter in PEFT's layout, which the chat puts on the resident pipeline, with
      pytorch_lora_weights.safetensors beside it for other programs.

Trade-offs:
    - The text encoders are not trained, so a new word is learned by the U-Net alone: name a subject
      by a word that says what it is.
    - Latents stay in host memory: 32 KB for each variant of a picture of 512 pixels, 128 KB of
      1,024.
    - A model that was distilled to draw in few steps (LCM, Turbo) is taught as any other, which may
      blur what few steps draw; it is told.

Errors: RequestError for a pipeline of another kind; BackendError for damaged weights;
DeviceFullError with what is left to try; DeviceLostError. Pictures and captions are checked before
there is a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from multimodal.backends.diffusion.prompt_limits import truncation_notice
from multimodal.memory.devices.device_errors import translate_device_errors
from multimodal.studio.context import JobContext
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, read_rows
from multimodal.studio.estimate import style_side
from multimodal.studio.evaluation.copies import tell_copies
from multimodal.studio.evaluation.gate import judge_denoising
from multimodal.studio.evaluation.perplexity import evaluation_mode
from multimodal.studio.recipes.arguments import training_arguments
from multimodal.studio.recipes.batching import release
from multimodal.studio.recipes.callbacks import JobCallback
from multimodal.studio.recipes.drawings import (
    LOOKS,
    Baseline,
    copied_drawings,
    found_shares,
    show_drawings,
)
from multimodal.studio.recipes.fitting_run import FittingRun, keep_baseline
from multimodal.studio.recipes.latent_dataset import (
    EncodedCaption,
    EncodedPicture,
    LatentDataset,
    collate_latents,
)
from multimodal.studio.recipes.picture_dataset import EpochCallback
from multimodal.studio.recipes.pipeline_model import PipelineModel
from multimodal.studio.recipes.precision import compute_type, computing, precision_notice
from multimodal.studio.recipes.results import save_result
from multimodal.studio.records import Report
from multimodal.studio.stacked_adapters import adapter_folder

SHOWN, STEPS = 4, 25
"""Captions that are drawn at an evaluation, and steps of each at most."""
COPY_SIDE = 64
"""Pixels on a side at which drawings are compared with pictures."""
FEW_STEPS = 8
"""A model that draws in so many was distilled."""


class StyleRecipe:
    """One job of the method style; see the module."""

    def __init__(self, job: JobContext) -> None:
        self._job, self._settings = job, job.settings
        self._run = FittingRun(job, "picture", "or choose a smaller resolution")
        self._side = style_side(job.start.card, job.settings)
        self._dtype = compute_type(job.settings, job.start.device)
        self._diffusion: PipelineModel
        self._captions: dict[str, EncodedCaption]
        self._train: list[EncodedPicture]
        self._test: list[EncodedPicture]
        self.trainer: Trainer
        """From `train` to `cleanup`."""

    def setup(self) -> None:
        job, start = self._job, self._job.start
        job.tell(doing="loading the model")
        if told := precision_notice(self._settings, start.device):
            job.note(told)
        self._train_rows = read_rows(job.folder.data / TRAIN_FILE)
        self._test_rows = read_rows(job.folder.data / TEST_FILE)
        with translate_device_errors(start.card.title):
            self._diffusion = PipelineModel(
                start.card, start.files, self._dtype, start.device, start.adapter
            )
            if not start.is_resumed:
                self._tell_limits()
            job.tell(doing="reading captions and pictures")
            self._encode()
        self._reset()
        self._before = keep_baseline(job, Baseline, self._baseline).found

    def train(self) -> None:
        self._run.train(self._new_trainer, self._reset)

    def save(self) -> Report:
        """Raises OSError where the disk is full."""
        job = self._job
        save_result(self._diffusion.model, None, job.folder.result, job.start.card.base)
        self._diffusion.save_for_others(adapter_folder(job.folder), job.folder.result)
        after = self._found("measuring what was learned")
        report = judge_denoising(self._before, after, metrics=job.folder.metrics())
        shown = self._draw(self._shown())
        self._show_drawn(shown, job.folder.status().step)
        learned = list(dict.fromkeys(row["text"] for row in self._train_rows))[:SHOWN]
        drawn = [*shown, *self._draw(learned)]
        rows = self._train_rows, self._test_rows
        return tell_copies(
            report, copied_drawings(drawn, job.folder.data, *rows, COPY_SIDE), len(drawn)
        )

    def cleanup(self) -> None:
        release(self, "trainer", "_diffusion", "_captions", "_train", "_test")

    def make_trainer(self, train: LatentDataset, test: LatentDataset) -> Trainer:
        """transformers' own, with the job's settings."""
        job, settings = self._job, self._settings
        callbacks: list[TrainerCallback] = [
            EpochCallback(train),
            JobCallback(job, lambda _model, _processor, step: self._show(step)),
        ]
        if settings.patience:
            callbacks.append(EarlyStoppingCallback(settings.patience))
        return Trainer(
            model=self._diffusion.model,
            args=training_arguments(
                job,
                TrainingArguments,
                **self._run.sizes,
                gradient_checkpointing=False,  # the U-Net has its own
                remove_unused_columns=False,
                prediction_loss_only=True,
                label_names=["labels"],
            ),
            data_collator=collate_latents,
            train_dataset=train,
            eval_dataset=test,
            compute_loss_func=mean_squared_error,
            callbacks=callbacks,
        )

    # ------------------------------------------------------------ training

    def _encode(self) -> None:
        settings, data = self._settings, self._job.folder.data
        rows = [*self._test_rows, *self._train_rows]
        self._captions = self._diffusion.encode_captions([row["text"] for row in rows])
        self._test = self._diffusion.encode_pictures(
            self._test_rows, data, self._side, "none", settings.seed
        )
        self._train = self._diffusion.encode_pictures(
            self._train_rows, data, self._side, settings.augmentation, settings.seed
        )

    def _tell_limits(self) -> None:
        """Captions that are longer than what is read, and what a distilled model may lose."""
        job, card, pipeline = self._job, self._job.start.card, self._diffusion.pipeline
        captions = dict.fromkeys(row["text"] for row in (*self._train_rows, *self._test_rows))
        told = (truncation_notice(pipeline, card.title, "caption", it) for it in captions)
        if cut := [notice for notice in told if notice is not None]:
            others = f" {len(cut) - 1} more captions are too long, too." if len(cut) > 1 else ""
            job.note(cut[0] + others)
        if card.drawing.steps <= FEW_STEPS:
            job.note(
                f"{card.title} was made to draw in few steps, and learning from pictures may blur "
                "what it draws; the model that it was made from can be taught instead."
            )

    def _reset(self) -> None:
        """The adapter as the job begins with it, in place of any other."""
        release(self, "trainer")
        self._diffusion.add_adapter(self._settings)
        recomputes = self._settings.gradient_checkpointing
        if self._job.start.device != "cpu" if recomputes is None else recomputes:
            self._diffusion.pipeline.unet.enable_gradient_checkpointing()

    def _new_trainer(self) -> Trainer:
        self.trainer = self.make_trainer(self._dataset(self._train, 1), self._held_out())
        return self.trainer

    def _held_out(self) -> LatentDataset:
        return self._dataset(self._test, LOOKS)

    def _dataset(self, pictures: Sequence[EncodedPicture], looks: int) -> LatentDataset:
        known, seed = self._diffusion, self._settings.seed
        return LatentDataset(pictures, self._captions, known.noising, looks, seed, known.guidance())

    # ------------------------------------------------------------ measuring

    def _baseline(self) -> Baseline:
        return Baseline(self._found("measuring the model as it is"))

    def _found(self, doing: str) -> list[float]:
        """The share of the noise in each held-out picture that is found."""
        job, data, batch = self._job, self._held_out(), self._run.batching.batch
        model, noising = self._diffusion.model, self._diffusion.noising

        def squared_errors(items: list[dict[str, Any]]) -> torch.Tensor:
            given = _moved(collate_latents(items), job.start.device)
            wanted = given.pop("labels")
            missed = (model(**given).sample.float() - wanted).square().mean(dim=(1, 2, 3))
            found: torch.Tensor = missed.cpu() * _noise_shares(noising, given["timestep"].cpu())
            return found

        with computing(job, self._dtype, doing), evaluation_mode(model), torch.no_grad():
            return found_shares(data, batch, squared_errors)

    # ------------------------------------------------------------ drawing

    def _show(self, step: int) -> None:
        self._show_drawn(self._draw(self._shown()), step)
        self._job.tell(doing="training")

    def _shown(self) -> list[str]:
        return list(dict.fromkeys(row["text"] for row in self._test_rows))[:SHOWN]

    def _draw(self, captions: Sequence[str]) -> list[Image.Image]:
        """From the same noise each time."""
        job, known = self._job, self._diffusion
        job.tell(doing="drawing")
        steps, seed = min(STEPS, job.start.card.drawing.steps), self._settings.seed
        with translate_device_errors(job.start.card.title), evaluation_mode(known.model):
            return [
                known.draw(self._captions[caption], self._side, steps, seed + at)
                for at, caption in enumerate(captions)
            ]

    def _show_drawn(self, drawn: Sequence[Image.Image], step: int) -> None:
        told = f"{len(drawn)} pictures of held-out captions, by columns"
        show_drawings(self._job, step, drawn, " | ".join(self._shown()), told)


def mean_squared_error(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Of what the U-Net finds, over all values of the update that the batch is a part of."""
    errors: torch.Tensor = (outputs.sample.float() - labels).square()
    return errors.mean() if num_items_in_batch is None else errors.sum() / num_items_in_batch


def _noise_shares(scheduler: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """By what a squared error of the U-Net is to be multiplied to be one of the noise: noise is
    sqrt(a) v + sqrt(1 - a) x for a velocity v in latents x with a share a of the picture (Salimans
    and Ho 2022, appendix D)."""
    if scheduler.config.prediction_type != "v_prediction":
        return torch.ones(len(timesteps))
    shares: torch.Tensor = scheduler.alphas_cumprod[timesteps]
    return shares


def _moved(batch: dict[str, Any], device: str) -> dict[str, Any]:
    return {
        name: _moved(it, device) if isinstance(it, dict) else it.to(device)
        for name, it in batch.items()
    }
