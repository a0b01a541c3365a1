"""What a model is made of, as a card states it: facts that its bytes can be computed from.

`MeasuredArchitecture` for engines that keep their own books, `ModulesArchitecture` for whatever
PyTorch builds from a configuration, `GgufArchitecture` for a model in llama.cpp's format. No
weights are needed for any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt


class StrictModel(BaseModel):
    """The base of everything read from TOML: nothing unknown is let in, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPart(StrictModel):
    """One module: a class of a library, and the configuration it is built from.

    `model` is the class' name, such as AutoModelForCausalLM, UNet2DConditionModel or Whisper;
    `config` is what the published config.json says where it differs from the class' defaults.
    """

    library: Literal["transformers", "diffusers", "whisper", "torch"]
    model: str
    config: Mapping[str, Any] = Field(default_factory=dict)
    quantized: bool = True
    """Whether the card's quantization touches this part; what it leaves stays in 16 bits."""
    keeps_fp32: tuple[str, ...] = ()
    """Names of modules or parameters that the library never quantizes, and keeps in 32 bits where
    the rest is in fp16: what its class lists as `_keep_in_fp32_modules`."""


IMAGE_CLASSIFIER = "AutoModelForImageClassification"
"""The class of transformers for a model that tells classes of pictures apart."""

PIXEL_UNET = "UNet2DModel"
"""The class of diffusers for a denoiser of pixels."""

WORD_UNET = "UNet2DConditionModel"
"""The class of diffusers for a denoiser of latents that reads words."""


def causal_lm(config: Mapping[str, Any]) -> ModelPart:
    """A text model of transformers of that configuration."""
    return ModelPart(library="transformers", model="AutoModelForCausalLM", config=config)


def speech_seq2seq(config: Mapping[str, Any]) -> ModelPart:
    """A speech recognizer of transformers with a decoder, of that configuration."""
    return ModelPart(library="transformers", model="AutoModelForSpeechSeq2Seq", config=config)


class MeasuredArchitecture(StrictModel):
    """Sizes in bytes; `kv_*` describe the attention cache, which the engine takes at its start."""

    kind: Literal["measured"]
    weights_bytes: PositiveInt
    kv_layers: NonNegativeInt = 0
    kv_heads: NonNegativeInt = 0
    kv_head_dim: NonNegativeInt = 0
    kv_element_bytes: PositiveInt = 2
    runtime_bytes: NonNegativeInt = 0
    """Buffers the engine holds beside weights and KV, measured once on the named engine."""
    config: Mapping[str, Any] = Field(default_factory=dict)
    """As transformers knows the model: what is planned with where it is taught."""
    model: str = "AutoModelForCausalLM"
    """The class of transformers that `config` is of."""

    @property
    def parts(self) -> Mapping[str, ModelPart]:
        """The model as transformers would build it, where its configuration is known."""
        part = ModelPart(library="transformers", model=self.model, config=self.config)
        return {"model": part} if self.config else {}


class ModulesArchitecture(StrictModel):
    """Modules that run on PyTorch, by name; a pipeline has several. The attention cache is that
    of the part that generates text."""

    kind: Literal["modules"]
    parts: Mapping[str, ModelPart] = Field(min_length=1)
    picture_side: PositiveInt | None = None
    """Pixels on a side: what an image model reads, or what a diffusion model makes."""


class GgufArchitecture(StrictModel):
    """A model in a GGUF file: `config` as transformers knows it, bytes as llama.cpp packs.

    `projector`: for a model that sees, how the second file (mmproj) is packed, which holds its
    vision tower and what leads from there to the text model.
    """

    kind: Literal["gguf"]
    config: Mapping[str, Any]
    projector: str | None = None
    runtime_bytes: NonNegativeInt = 0

    @property
    def parts(self) -> Mapping[str, ModelPart]:
        """The model as transformers would build it."""
        model = "AutoModelForImageTextToText" if self.projector else "AutoModelForCausalLM"
        return {"text": ModelPart(library="transformers", model=model, config=self.config)}


Architecture = Annotated[
    MeasuredArchitecture | ModulesArchitecture | GgufArchitecture, Field(discriminator="kind")
]


class PictureInput(StrictModel):
    """How a model that sees is shown a picture."""

    aspect_ratio: Literal["pad"] | None = None
    """With "pad" the whole picture on a square of the mean colour, as LLaVA's authors say with
    `image_aspect_ratio`; as the checkpoint's own files say unless given."""


class CardLimits(StrictModel):
    """What one request may bring."""

    audio_s: PositiveInt | None = None
