"""Draws one of the classes that a small diffusion model was taught (`studio/recipes/diffusion`).

Pictures have the size that it learned, a few dozen pixels on a side, and are enlarged so that one
can see them. The noise is made on the CPU, so one seed gives the same picture on every device, and
the stop signal is looked at before each step.
"""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from PIL import Image

from multimodal.backends.base import Backend
from multimodal.backends.class_diffusion.checkpoint import ClassDiffusionModel, load_checkpoint
from multimodal.backends.class_diffusion.options import ClassDiffusionOptions
from multimodal.backends.class_diffusion.prompts import find_class
from multimodal.backends.class_diffusion.sampling import make_noise, sample_pictures
from multimodal.backends.engine_options import parse_options
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.sampling import MAX_SEED
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard
from multimodal.catalog.sources import UntrainedSource
from multimodal.errors import BackendError, RequestError
from multimodal.events import EngineEvent, ImageGenerated, Notice, Progress
from multimodal.messages import Finish, Usage
from multimodal.requests import ImageGenerationRequest

NAMED = 12
"""Classes that a sentence names at most."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the checkpoint in the folder `files`. Raises BackendError for a damaged one, and for a
    model that was never trained."""
    if isinstance(card.source, UntrainedSource):
        raise BackendError(
            f"{card.title} knows nothing yet; fine-tune it first, by multimodal finetune "
            f"--method diffusion --model {card.base}"
        )
    model = load_checkpoint(files, card.title)
    model.unet.requires_grad_(False).eval().to(device)
    return ClassDiffusion(card, model)


class _StoppedError(Exception):
    """Ends the loop over the steps."""


class ClassDiffusion(LoadedModel[ClassDiffusionModel]):
    _does = "draw"

    def modules(self) -> list[torch.nn.Module]:
        return [] if self._held is None else [self._held.unet]

    def run(
        self, request: ImageGenerationRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Yield Progress before each step, an ImageGenerated for each picture, and Usage at the
        end. Raises RequestError for a picture to be drawn anew, BackendError after `close`,
        DeviceFullError and DeviceLostError."""
        return self._worker.stream(lambda emit, stopped: self._draw(request, emit, stopped), stop)

    def _draw(self, request: ImageGenerationRequest, emit: Emit, stopped: Stopped) -> None:
        if request.source is not None:
            raise RequestError(f"{self._card.title} draws from words alone. Ask without a picture.")
        model, facts = self._model, self._card.drawing
        steps = request.steps or facts.steps
        guidance = facts.guidance if request.guidance is None else request.guidance
        first = secrets.randbelow(MAX_SEED) if request.seed is None else request.seed
        number = find_class(request.prompt, model.labels)
        if number is None and len(model.labels) > 1:
            emit(Notice(f"{self._card.title} draws {_named(model.labels)}, and nothing else."))
        finish: Finish = "stop"
        started_s, taken = time.monotonic(), 0
        try:
            for index in range(request.count):
                seed = (first + index) % MAX_SEED
                # Without a class that was named, the seed chooses one.
                chosen = seed % len(model.labels) if number is None else number
                title = f"Drawing {index + 1} of {request.count}" if request.count > 1 else ""

                def before_step(step: int, steps: int, title: str = title) -> None:
                    nonlocal taken
                    if stopped():
                        raise _StoppedError
                    emit(Progress(title or "Drawing", step / steps))
                    taken += 1

                noise = make_noise(model, [seed])
                (made,) = sample_pictures(model, [chosen], noise, steps, guidance, before_step)
                emit(ImageGenerated(self._as_png(made), seed))
        except _StoppedError:
            finish = "stopped"
        emit(Usage(0, 0, 0, time.monotonic() - started_s, finish, first, taken))

    def _as_png(self, picture: Image.Image) -> bytes:
        """Enlarged by a whole factor, if it is smaller than what is shown."""
        shown = parse_options(self._card, ClassDiffusionOptions).shown_side
        factor = -(-shown // min(picture.size))
        if factor > 1:
            picture = picture.resize(
                (picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC
            )
        png = io.BytesIO()
        picture.save(png, "PNG")
        return png.getvalue()


def _named(labels: Sequence[str]) -> str:
    if len(labels) > NAMED:
        return f"{', '.join(labels[:NAMED])} and {len(labels) - NAMED} more"
    return f"{', '.join(labels[:-1])} and {labels[-1]}"
