"""Pictures from words, or from a picture and words, by a diffusers pipeline.

The pipeline is read from a folder in the layout that is published on the hub: safetensors only,
nothing from the net, no code of the checkpoint's own. The noise is made on the CPU, so one seed
gives the same noise on every device; PyTorch before 2.12 draws other noise in 16 bits than in fp32,
though. Before each denoising step the stop signal is looked at. Where a checkpoint ships a safety
checker, it is kept, in host memory: a picture that it flags is not shown.

An adapter (`base.AdapterHost`) stands around layers of the U-Net for one request; without it the
same seed gives the same pixels as if there were none.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import secrets
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from multimodal.backends.base import Backend
from multimodal.backends.diffusion.denoising import DenoisingCallback, PipelineStoppedError
from multimodal.backends.diffusion.image_size import choose_image_size
from multimodal.backends.diffusion.prompt_limits import tokens, truncation_notice
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.module_adapters import Adapters
from multimodal.backends.sampling import MAX_SEED
from multimodal.backends.tokenizer_files import LOCAL, restore_published_pipeline
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.architectures import ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, RequestError
from multimodal.events import EngineEvent, ImageGenerated, Notice
from multimodal.memory.devices.cuda import free_bytes_within
from multimodal.memory.devices.kernels import pack_layer
from multimodal.memory.estimate.modules import quantizable
from multimodal.memory.estimate.quantization import BLOCK, EIGHT_BIT, FOUR_BIT
from multimodal.messages import Finish, Usage
from multimodal.requests import ImageGenerationRequest

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++ 2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
CHECKER = "safety_checker"
LIBRARIES = {"diffusers", "transformers"}
BYTES_PER_PIXEL = 2600
"""Taken beside the weights by decoding at once, in 16 bits. Measured on an H200 (PyTorch 2.11,
cuDNN 9.19): 2,572 at 512, 2,436 at 768 and 2,434 at 1,024 pixels a side."""
TILE_PIXELS = 512

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the pipeline whose `model_index.json` is in `files`."""
    pipeline = read_pipeline(card, files, _dtype(_kind(card), device))
    for name, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            _quantize(card, name, module, device)
    pipeline.to(device)
    _keep_checker_off_the_device(pipeline)
    return Diffusion(card, pipeline)


def read_pipeline(card: ModelCard, files: Path, dtype: torch.dtype) -> Any:
    """The same pipeline on the CPU, unpacked, in `dtype`, with the scheduler of the card and
    nothing that is trained. Raises BackendError for a folder that is no such pipeline."""
    _check(card, files)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        str(files),
        dtype=dtype,
        variant="fp16" if any(files.rglob("*.fp16.safetensors")) else None,
        use_safetensors=True,
        **LOCAL,
    )
    for name, module in pipeline.components.items():
        restore_published_pipeline(module, files / name)
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False)
    keep_decoder_in_range(pipeline)
    if card.drawing.scheduler is not None:
        name, more = SCHEDULERS[card.drawing.scheduler]
        made = getattr(diffusers, name)
        pipeline.scheduler = made.from_config(pipeline.scheduler.config, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check(card: ModelCard, files: Path) -> None:
    """Refuse a folder that is no published pipeline, or that would bring code of its own."""
    try:
        index = json.loads((files / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(
            f"{card.title}: {files} holds no model_index.json of a diffusers pipeline"
        ) from error
    if not any(files.rglob("*.safetensors")):
        raise BackendError(f"{card.title}: {files} holds no safetensors, and nothing else is read")
    named = [entry for name, entry in index.items() if not name.startswith("_")]
    libraries = {entry[0] for entry in named if isinstance(entry, list) and len(entry) == 2}
    foreign = {
        str(library)
        for library in libraries - {None} - LIBRARIES
        if not hasattr(diffusers.pipelines, str(library))
    }
    if foreign or any(files.rglob("*.py")) or not isinstance(index.get("_class_name"), str):
        raise BackendError(
            f"{card.title}: {files} brings code of its own, which is never run. "
            "Choose a checkpoint made for diffusers' own classes."
        )


def _dtype(quantization: str, device: str) -> torch.dtype:
    """The format of what is not packed. A CPU computes in fp32, unless told bf16."""
    if quantization == "bf16":
        return torch.bfloat16
    return torch.float32 if device == "cpu" or quantization == "fp32" else torch.float16


def _kind(card: ModelCard) -> str:
    return card.quantization[0] if card.quantization else "fp16"


def _quantize(card: ModelCard, name: str, module: torch.nn.Module, device: str) -> None:
    """Replace the linear layers of the part `name`, those that `memory` counts as packed, by packed
    ones on `device`, one after another, so that host memory never holds two copies.

    On a CPU bitsandbytes repacks 4-bit weights row by row, and a row must be whole blocks: others
    stay as they are.
    """
    shape, kind = card.architecture, _kind(card)
    is_packed, keeps_fp32 = name in {"unet", "transformer"}, tuple[str, ...]()
    if isinstance(shape, ModulesArchitecture):
        part = shape.parts.get(name)
        is_packed, keeps_fp32 = (part.quantized, part.keeps_fp32) if part else (False, ())
    if kind not in (*FOUR_BIT, *EIGHT_BIT) or not is_packed:
        return
    by_rows = device == "cpu" and kind in FOUR_BIT
    for path in list(quantizable(module, keeps_fp32)):
        layer = module.get_submodule(path)
        if isinstance(layer, torch.nn.Linear) and not (by_rows and layer.in_features % BLOCK):
            module.set_submodule(path, pack_layer(layer, kind).to(torch.device(device)))


def keep_decoder_in_range(pipeline: Any) -> None:
    """Let a decoder that overflows in fp16 work in bf16, which has the range of fp32.

    diffusers would make a copy of it in fp32 for every picture, beside the books.
    """
    vae = getattr(pipeline, "vae", None)
    if not hasattr(pipeline, "upcast_vae") or vae is None or not vae.config.get("force_upcast"):
        return
    vae.register_to_config(force_upcast=False)
    if vae.dtype != torch.float16:
        return
    vae.to(torch.bfloat16)
    for entrance in (vae.encoder.conv_in, vae.post_quant_conv or vae.decoder.conv_in):
        entrance.register_forward_pre_hook(_in_own_format)


def _keep_checker_off_the_device(pipeline: Any) -> None:
    """Let the safety checker work in host memory: it looks at each picture once, and would take
    more than half a gigabyte of a card all the time."""

    def on_the_host(_module: torch.nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        return inputs, named | {"clip_input": named["clip_input"].to("cpu", torch.float32)}

    if (checker := getattr(pipeline, CHECKER, None)) is not None:
        checker.to("cpu", torch.float32)
        checker.register_forward_pre_hook(on_the_host, with_kwargs=True)


def _in_own_format(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].to(module.weight.dtype), *inputs[1:])


def set_tiling(vae: Any, width: int, height: int, free_bytes: int | None) -> None:
    """Let `vae`, of diffusers, decode a picture of so many pixels at once, or in tiles where
    `free_bytes` are less than that takes. None: there is no card that could be full.

    A decoder of Stable Diffusion's kind takes more than its whole denoiser's step did, at the very
    end of a picture. In tiles of 512 pixels it takes what a picture of that side takes; since each
    tile is normalised by itself, tones may differ a little, so tiles are for pictures that would
    fail.
    """
    if not hasattr(vae, "tile_sample_min_size"):
        return
    if free_bytes is None or width * height * BYTES_PER_PIXEL <= free_bytes:
        vae.disable_tiling()
        return
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE_PIXELS, TILE_PIXELS // scale
    vae.enable_tiling()


def free_bytes_of(device: torch.device) -> int | None:
    """What PyTorch can still take of that card, within its limit; None for another device."""
    if device.type != "cuda":
        return None
    _free, total = torch.cuda.mem_get_info(device)
    most = torch.cuda.get_per_process_memory_fraction(device) * total
    return free_bytes_within(device, most)


class Diffusion(LoadedModel[Any]):
    _does = "draw"

    def __init__(self, card: ModelCard, pipeline: Any) -> None:
        super().__init__(card, pipeline)
        self._adapters = Adapters(card.title)
        self._turn = threading.Lock()

    def close(self) -> None:
        super().close()
        self._adapters.clear()
        self.__dict__.pop("_redrawing", None)

    def modules(self) -> list[torch.nn.Module]:
        found = self._held.components if self._held is not None else {}
        return [
            part
            for name, part in found.items()
            if isinstance(part, torch.nn.Module) and name != CHECKER
        ]

    def run(
        self, request: ImageGenerationRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        return self._worker.stream(lambda emit, stopped: self._draw(request, emit, stopped), stop)

    def adapted(self, card: ModelCard) -> AdaptedDiffusion:
        """This model with the adapter of `card`; see `base.AdapterHost`."""
        return AdaptedDiffusion(self, card)

    def run_adapted(
        self, request: ImageGenerationRequest, stop: threading.Event, adapted: AdaptedDiffusion
    ) -> Generator[EngineEvent, None, None]:
        """`run` with that adapter on. Raises RequestError for a model without a U-Net."""

        def draw(emit: Emit, stopped: Stopped) -> None:
            with self._turn, self._with_adapter(adapted):
                self._draw_pictures(adapted.card, request, emit, stopped)

        return self._worker.stream(draw, stop)

    @contextmanager
    def _with_adapter(self, adapted: AdaptedDiffusion) -> Iterator[None]:
        unet = getattr(self._model, "unet", None)
        if unet is None:
            raise RequestError(
                f"{self._card.title} draws without a U-Net, and only the adapters of one can be "
                "used; choose the model itself."
            )
        with self._adapters.applied(unet, adapted.card, unet.device) as seconds:
            adapted.switch_s += seconds
            yield

    def _draw(self, request: ImageGenerationRequest, emit: Emit, stopped: Stopped) -> None:
        with self._turn:
            self._draw_pictures(self._card, request, emit, stopped)

    def _draw_pictures(
        self, card: ModelCard, request: ImageGenerationRequest, emit: Emit, stopped: Stopped
    ) -> None:
        finish: Finish = "stop"
        started_s = time.monotonic()
        pipeline = self._model if request.source is None else self._redrawing
        asked = self._asked(card, pipeline, request, emit)
        first = secrets.randbelow(MAX_SEED) if request.seed is None else request.seed
        watch = DenoisingCallback(pipeline, request.preview_every_s, emit, stopped)
        try:
            for index in range(request.count):
                seed = (first + index) % MAX_SEED
                title = f"Drawing {index + 1} of {request.count}" if request.count > 1 else ""
                with watch.previewing(title or "Drawing") as more:
                    noise = torch.Generator("cpu").manual_seed(seed)
                    made = pipeline(**asked, **more, generator=noise)
                emit(self._shown(made, seed))
        except PipelineStoppedError:
            finish = "stopped"
        seconds, read = time.monotonic() - started_s, tokens(self._model, request.prompt)
        emit(Usage(read, 0, 0, seconds, finish, first, watch.steps))

    def _shown(self, made: Any, seed: int) -> ImageGenerated | Notice:
        if any(getattr(made, "nsfw_content_detected", None) or ()):
            return Notice(
                f"The safety checker of {self._card.title} held back the picture of seed {seed}. "
                "Ask for something else, or try another seed."
            )
        png = io.BytesIO()
        made.images[0].save(png, "PNG")
        return ImageGenerated(png.getvalue(), seed)

    # ------------------------------------------------------------ what the pipeline is asked

    @cached_property
    def _redrawing(self) -> Any:
        """The same modules as a pipeline that begins with a picture. Not by diffusers' `from_pipe`,
        which turns every module to fp32, nor by its automatic classes, which import all others."""
        name = type(self._model).__name__.replace("Pipeline", "Img2ImgPipeline")
        if (kind := getattr(diffusers, name, None)) is None:
            raise RequestError(f"{self._card.title} draws from words alone. Ask without a picture.")
        known = inspect.signature(kind.__init__).parameters
        parts = {**self._model.config, **self._model.components}
        made = kind(**{part: parts[part] for part in known if part in parts})
        made.set_progress_bar_config(disable=True)
        return made

    def _asked(
        self, card: ModelCard, pipeline: Any, request: ImageGenerationRequest, emit: Emit
    ) -> dict[str, Any]:
        """The pipeline's arguments; what of the request cannot be had is told."""
        facts = card.drawing
        steps = request.steps or facts.steps
        guidance = facts.guidance if request.guidance is None else request.guidance
        grain = max(8, int(self._model.vae_scale_factor))  # all pipelines of diffusers want 8
        size = choose_image_size(card, self._trained_for(), grain, request)
        if (vae := getattr(pipeline, "vae", None)) is not None:
            set_tiling(vae, size.width, size.height, free_bytes_of(vae.device))
        asked: dict[str, Any] = {"prompt": request.prompt, "guidance_scale": guidance}
        if request.source is None:
            asked |= {"width": size.width, "height": size.height, "num_inference_steps": steps}
        else:
            strength = request.strength or facts.strength
            # A share of the steps is left out: so many in all that those left are what was asked.
            asked |= {
                "image": request.source.resize((size.width, size.height)),
                "strength": strength,
                "num_inference_steps": math.ceil(steps / strength),
            }
        told = [
            size.notice,
            truncation_notice(pipeline, self._card.title, "prompt", request.prompt),
        ]
        if negative := request.negative_prompt:
            if (why := self._no_negative_prompt(pipeline, guidance)) is None:
                asked["negative_prompt"] = negative
                why = truncation_notice(pipeline, self._card.title, "negative prompt", negative)
            told.append(why)
        for sentence in filter(None, told):
            emit(Notice(sentence))
        return asked

    def _no_negative_prompt(self, pipeline: Any, guidance: float) -> str | None:
        """Why a negative prompt does nothing here; None where it does."""
        if "negative_prompt" not in inspect.signature(pipeline.__call__).parameters:
            return f"{self._card.title} knows no negative prompt; yours was left out."
        if guidance <= 1:
            return "The negative prompt has no effect with a guidance of 1 or less."
        return None

    def _trained_for(self) -> tuple[int, int]:
        """Width and height in pixels."""
        pipeline = self._model
        side = (getattr(pipeline, "unet", None) or pipeline.transformer).config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor


@dataclass
class AdaptedDiffusion:
    """A pipeline as it draws with the adapter of `card`, for one lease."""

    model: Diffusion
    card: ModelCard
    switch_s: float = 0.0

    def run(
        self, request: ImageGenerationRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """As `Diffusion.run`. Raises BackendError where the adapter cannot be used."""
        return self.model.run_adapted(request, stop, self)

    def close(self) -> None:
        """Nothing: the adapter is off the model between two requests."""
