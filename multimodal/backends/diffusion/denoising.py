"""What is seen of a diffusion pipeline while it draws: stop, progress, previews."""

from __future__ import annotations

import inspect
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from multimodal.backends.worker import Emit, Stopped
from multimodal.events import Preview, Progress

PREVIEW_LATENTS = 32
"""On a side, 256 pixels. A decoder's work grows with the area: a preview of a picture of 512 by 512
costs a quarter of decoding that picture."""
PREVIEW_SHARE = 0.1
"""Of the time that a picture takes, for its previews."""
JPEG_QUALITY = 80


class PipelineStoppedError(Exception):
    """Ends a pipeline's loop."""


class DenoisingCallback:
    """Called by one pipeline before and after each denoising step: raises PipelineStoppedError once
    `stopped()`, emits Progress, and a Preview now and then where the pipeline shows its latents."""

    def __init__(
        self, pipeline: Any, preview_every_s: float | None, emit: Emit, stopped: Stopped
    ) -> None:
        self._pipeline = pipeline
        self._every_s = preview_every_s
        self._emit = emit
        self._stopped = stopped
        self._begun_s = self._shown_s = self._spent_s = 0.0
        self._title = ""
        self._done = 0
        self.steps = 0
        """Taken so far, of all pictures."""

    @contextmanager
    def previewing(self, title: str) -> Iterator[dict[str, Any]]:
        """While one picture is made; yields what the pipeline must be called with."""
        self._title, self._done, self._spent_s = title, 0, 0.0
        self._begun_s = self._shown_s = time.monotonic()
        denoiser = getattr(self._pipeline, "unet", None) or self._pipeline.transformer
        before = denoiser.register_forward_pre_hook(self._before_step)
        known = inspect.signature(self._pipeline.__call__).parameters
        name = "callback_on_step_end"
        try:
            yield {name: self._after_step} if name in known else {}
        finally:
            before.remove()

    def _before_step(self, _module: torch.nn.Module, _inputs: Any) -> None:
        if self._stopped():
            raise PipelineStoppedError
        steps = getattr(self._pipeline, "num_timesteps", None)
        steps = steps or len(self._pipeline.scheduler.timesteps)
        self._emit(Progress(self._title, min(1.0, self._done / steps)))
        self._done += 1
        self.steps += 1

    def _after_step(
        self, _pipeline: Any, _step: int, _time: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        if self._stopped():
            raise PipelineStoppedError
        latents = tensors.get("latents")
        if latents is not None and self._preview_is_due(latents):
            started_s = time.monotonic()
            self._emit(Preview(self._jpeg(latents)))
            self._shown_s = time.monotonic()
            self._spent_s += self._shown_s - started_s
        return {}

    def _preview_is_due(self, latents: torch.Tensor) -> bool:
        if self._every_s is None or latents.ndim != 4:  # packed latents are no picture
            return False
        if latents.is_cuda:  # else the steps would count as the preview's
            torch.cuda.current_stream(latents.device).synchronize()
        now_s = time.monotonic()
        free = self._spent_s <= PREVIEW_SHARE * (now_s - self._begun_s)
        return free and now_s - self._shown_s >= self._every_s

    @torch.no_grad()
    def _jpeg(self, latents: torch.Tensor) -> bytes:
        """The first picture of `latents` (batch, channels, height, width), decoded small.

        Averaging neighbours takes away noise as well, so early previews show more.
        """
        vae = self._pipeline.vae
        latents = latents[:1].float()
        scale = min(1.0, PREVIEW_LATENTS / max(latents.shape[-2:]))
        if scale < 1:
            sides = [max(1, round(side * scale)) for side in latents.shape[-2:]]
            latents = functional.interpolate(latents, size=sides, mode="area")
        config = vae.config
        if config.get("latents_mean") and config.get("latents_std"):
            mean, std = (
                torch.tensor(config[name], device=latents.device).view(1, -1, 1, 1)
                for name in ("latents_mean", "latents_std")
            )
            latents = latents * std / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor + (config.get("shift_factor") or 0.0)
        pixels = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        image = self._pipeline.image_processor.postprocess(pixels.float())[0]
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=JPEG_QUALITY)
        return jpeg.getvalue()
