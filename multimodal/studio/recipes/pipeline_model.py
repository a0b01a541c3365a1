"""A Stable Diffusion pipeline with an adapter beside the attention of its U-Net, as a recipe uses
it: read, asked for latents and embeddings, trained, and asked to draw."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from transformers import set_seed

from multimodal.backends.adapters import PREFIX, read_facts
from multimodal.backends.diffusion.pipeline import free_bytes_of, read_pipeline, set_tiling
from multimodal.catalog.cards import ADAPTER_WEIGHTS, ModelCard
from multimodal.errors import RequestError
from multimodal.memory.estimate.pipeline_backward import ADAPTED
from multimodal.studio.data.kept_pictures import PICTURES, read_picture
from multimodal.studio.data.prepare import Row
from multimodal.studio.recipes.latent_dataset import (
    VARIANTS,
    EncodedCaption,
    EncodedPicture,
    crop_square,
)
from multimodal.studio.recipes.precision import widen_trained
from multimodal.studio.settings import Augmentation, JobSettings

PIPELINES = (
    diffusers.StableDiffusionPipeline,
    diffusers.StableDiffusionXLPipeline,
    diffusers.LatentConsistencyModelPipeline,
)
ENCODERS = ("text_encoder", "text_encoder_2")
CHECKER = "safety_checker"


class PipelineModel:
    """`model` is what is trained: PEFT's around `pipeline.unet`. Frozen parts are kept in `dtype`,
    the adapter in fp32. `noising`: the scheduler that puts noise into latents."""

    def __init__(
        self, card: ModelCard, files: Path, dtype: torch.dtype, device: str, adapter: Path | None
    ) -> None:
        """Read the pipeline, with what an earlier `adapter` taught merged into it. Raises
        BackendError for damaged files, RequestError for a pipeline of another kind."""
        self._card, self._device = card, device
        self.pipeline: Any = read_pipeline(card, files, dtype)
        self.noising: Any = diffusers.DDPMScheduler.from_config(self.pipeline.scheduler.config)  # type: ignore[no-untyped-call]
        self._check()
        if adapter is not None:
            config = PeftConfig.from_pretrained(str(adapter))
            merged: Any = PeftModel.from_pretrained(self.pipeline.unet, str(adapter), config=config)
            self.pipeline.unet = merged.merge_and_unload()
        if (checker := getattr(self.pipeline, CHECKER, None)) is not None:
            checker.to(torch.float32)
        self.model: Any = None

    def add_adapter(self, settings: JobSettings) -> None:
        """A new one that changes nothing yet, in place of any other."""
        unet = self.pipeline.unet if self.model is None else self.model.unload()
        set_seed(settings.seed)
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=list(ADAPTED),
            init_lora_weights="gaussian",
        )
        self.model = get_peft_model(unet, config)
        widen_trained(self.model.to(self._device))

    # ------------------------------------------------------------ what is learned from

    def encode_captions(self, captions: Sequence[str]) -> dict[str, EncodedCaption]:
        """What the U-Net reads of each. The text encoders are given up then."""
        pipeline, found = self.pipeline, dict[str, EncodedCaption]()
        is_large = isinstance(pipeline, diffusers.StableDiffusionXLPipeline)
        names = ["prompt_embeds", "negative_prompt_embeds"]
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"] if is_large else []
        known = [name for name in ENCODERS if getattr(pipeline, name, None) is not None]
        for name in known:
            getattr(pipeline, name).to(self._device)
        for caption in dict.fromkeys(captions):
            with torch.no_grad():
                made = pipeline.encode_prompt(
                    prompt=caption,
                    device=torch.device(self._device),
                    num_images_per_prompt=1,
                    do_classifier_free_guidance=True,
                )
            found[caption] = EncodedCaption(
                dict(zip(names, (it.cpu() for it in made), strict=True))
            )
        pipeline.register_modules(**dict.fromkeys(known))
        return found

    def encode_pictures(
        self, rows: Sequence[Row], data: Path, side: int, augmentation: Augmentation, seed: int
    ) -> list[EncodedPicture]:
        """Squares of `side` pixels as latents, computed in fp32: in half precision the decoder of
        SDXL overflows. The mean of what the encoder says of a picture, whose spread is tiny. Rows
        of one picture with several captions share its latents."""
        vae, known = self.pipeline.vae, dict[str, tuple[torch.Tensor, torch.Tensor]]()
        kept = vae.dtype
        torch.nn.Module.to(vae, self._device, torch.float32)  # diffusers' own warns of any change
        free = free_bytes_of(vae.device)
        set_tiling(vae, side, side, None if free is None else free // 2)  # counted in 16 bits
        for image in dict.fromkeys(row["image"] for row in rows):
            picture = read_picture(data / PICTURES / image)
            squares = []
            for variant in range(1 if augmentation == "none" else VARIANTS):
                random = np.random.default_rng((seed, len(known), variant))
                varies = None if augmentation == "none" else random
                flips = augmentation == "crops_and_flips"
                squares.append(crop_square(picture, side, varies, flips))
            latents = torch.stack([self._latents(vae, square) for square, _ in squares])
            known[image] = latents, torch.tensor([it for _, it in squares], dtype=torch.float32)
        torch.nn.Module.to(vae, kept)
        return [EncodedPicture(*known[row["image"]], row["text"]) for row in rows]

    @torch.no_grad()
    def _latents(self, vae: Any, square: Image.Image) -> torch.Tensor:
        pixels = self.pipeline.image_processor.preprocess(square).to(self._device, torch.float32)
        latents = vae.encode(pixels).latent_dist.mode()[0]
        config = vae.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (
                torch.tensor(config[name], device=latents.device).view(-1, 1, 1)
                for name in ("latents_mean", "latents_std")
            )
            latents = (latents - mean) / std
        scaled: torch.Tensor = latents * config.scaling_factor
        return scaled.to("cpu", torch.float16)

    def guidance(self) -> torch.Tensor | None:
        """How strongly the card has a distilled model guided, as its U-Net reads that, shape
        (values,); None for one that is not told."""
        if (width := self.pipeline.unet.config.time_cond_proj_dim) is None:
            return None
        strength = torch.tensor([self._card.drawing.guidance - 1])
        made: torch.Tensor = self.pipeline.get_guidance_scale_embedding(
            strength, embedding_dim=width
        )
        return made[0]

    # ------------------------------------------------------------ what it makes

    @torch.no_grad()
    def draw(self, caption: EncodedCaption, side: int, steps: int, seed: int) -> Image.Image:
        """As the chat draws it from that seed."""
        known = inspect.signature(self.pipeline.__call__).parameters
        words = {k: v.to(self._device) for k, v in caption.embeddings.items() if k in known}
        vae = self.pipeline.vae
        set_tiling(vae, side, side, free_bytes_of(vae.device))
        made = self.pipeline(
            **words,
            width=side,
            height=side,
            num_inference_steps=steps,
            guidance_scale=self._card.drawing.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        )
        drawn: Image.Image = made.images[0]
        return drawn

    def save_for_others(self, adapter: Path, folder: Path) -> None:
        """Write the adapter in the folder `adapter` into `folder` as diffusers and what reads its
        layout have it (pytorch_lora_weights.safetensors); its scale is in B, since those that know
        of none take one of 1."""
        scale, tensors = read_facts(adapter).scale, load_file(adapter / ADAPTER_WEIGHTS)
        scaled = {
            name.removeprefix(PREFIX): it * scale if ".lora_B." in name else it
            for name, it in tensors.items()
        }
        kind = type(self.pipeline)
        layers = convert_state_dict_to_diffusers(scaled)  # type: ignore[no-untyped-call]
        kind.save_lora_weights(folder, unet_lora_layers=layers)

    def _check(self) -> None:
        title, kind = self._card.title, self.noising.config.prediction_type
        if not isinstance(self.pipeline, PIPELINES):
            raise RequestError(
                f"{title} is a {type(self.pipeline).__name__}, and only pipelines of Stable "
                "Diffusion 1 and 2, SDXL and LCM can be taught; choose one of those."
            )
        if kind not in {"epsilon", "v_prediction"}:
            raise RequestError(
                f"{title} predicts “{kind}”, and only what predicts noise or velocity can be "
                "taught; choose another model."
            )
