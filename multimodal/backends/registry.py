"""Where the engine of each family of models is, its options and its forward passes.

Everything is named here and imported when it is looked up, so this module lies below all of them:
the estimate of `memory/` finds the forward passes of a card by the name of its family, as `load`
finds the engine. The program's own families are in a table. Another package brings one by entry
points in its metadata:

    [project.entry-points."multimodal.backends"]
    parrot = "parrot_engine.engine"

    [project.entry-points."multimodal.models"]
    parrot = "parrot_engine.models"

The first names the module of a family, which has `load(card, files, device) -> Backend` like those
here. It may have `EngineOptions`, a subclass of `engine_options.EngineOptions`, for what its cards
may say under `engine`, and `forward_passes` (`memory.estimate.activation.ForwardPasses`), without
which its cards state `kind = "measured"` or `"gguf"`. The second names a package with cards and
profiles, laid out like the folder `models/`. A family of the program's own is not replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from multimodal.errors import CardError

BACKENDS = "multimodal.backends"
MODELS = "multimodal.models"

HF, ONNX, SPEECH = (f"multimodal.backends.{package}" for package in ("hf", "onnx", "speech"))


@dataclass(frozen=True, slots=True)
class Family:
    """`engine`: the module with `load`. `options` and `forward_passes`: "module:name", "" where it
    has none; their modules import no library of an engine. `takes_adapters`: whether its cards may
    have an `adapter`; `switches_adapters`: whether a loaded model takes one for a turn
    (`base.AdapterHost`), so that it is not loaded once for each."""

    engine: str
    options: str = "multimodal.backends.engine_options:EngineOptions"
    forward_passes: str = ""
    takes_adapters: bool = False
    switches_adapters: bool = False


def _chat(module: str, takes_adapters: bool = False) -> Family:
    options, passes = f"{HF}.options:ChatOptions", f"{HF}.forward_passes:forward_passes"
    return Family(f"{HF}.{module}", options, passes, takes_adapters, takes_adapters)


FAMILIES = {
    "causal_lm": _chat("causal_lm", takes_adapters=True),
    "class_diffusion": Family(
        "multimodal.backends.class_diffusion.engine",
        "multimodal.backends.class_diffusion.options:ClassDiffusionOptions",
        "multimodal.backends.class_diffusion.forward_passes:forward_passes",
    ),
    "diffusion": Family(
        "multimodal.backends.diffusion.pipeline",
        forward_passes="multimodal.backends.diffusion.forward_passes:forward_passes",
        takes_adapters=True,
        switches_adapters=True,
    ),
    "faster_whisper": Family(f"{SPEECH}.faster_whisper", f"{SPEECH}.options:FasterWhisperOptions"),
    "image_classifier": Family(
        "multimodal.backends.classifier.engine",
        "multimodal.backends.classifier.options:ClassifierOptions",
        "multimodal.backends.classifier.forward_passes:forward_passes",
    ),
    "image_describer": Family(
        "multimodal.backends.describer.engine",
        "multimodal.backends.describer.options:DescriberOptions",
    ),
    "image_text": _chat("image_text", takes_adapters=True),
    "kokoro": Family(f"{SPEECH}.kokoro"),
    "llama_cpp": Family(
        "multimodal.backends.llama_cpp.engine",
        "multimodal.backends.llama_cpp.options:LlamaCppOptions",
        takes_adapters=True,
    ),
    "minigpt4": _chat("minigpt4"),
    "onnx_classifier": Family(f"{ONNX}.classifier", f"{ONNX}.options:OnnxClassifierOptions"),
    "onnx_text": Family(f"{ONNX}.causal_lm", f"{ONNX}.options:OnnxTextOptions"),
    "onnx_whisper": Family(f"{ONNX}.whisper", f"{ONNX}.options:OnnxOptions"),
    "openai_whisper": Family(
        f"{SPEECH}.openai_whisper",
        f"{SPEECH}.options:WhisperOptions",
        f"{SPEECH}.forward_passes:whisper_passes",
    ),
    "piper": Family(f"{SPEECH}.piper"),
    "seamless": Family(
        f"{SPEECH}.seamless",
        f"{SPEECH}.options:SeamlessOptions",
        f"{SPEECH}.forward_passes:seamless_passes",
    ),
    "wav2vec2": Family(
        f"{SPEECH}.wav2vec2", forward_passes=f"{SPEECH}.forward_passes:wav2vec2_passes"
    ),
}
"""The program's own, by the `family` of their cards."""


def find_family(name: str) -> Family | None:
    """The family of that name, of which nothing is imported; None where there is none."""
    if name in FAMILIES:
        return FAMILIES[name]
    found = entry_points(group=BACKENDS, name=name)
    modules = (entry.value for entry in found)
    return next((Family(it, f"{it}:EngineOptions", f"{it}:forward_passes") for it in modules), None)


def import_object(place: str) -> Any | None:
    """What `options` or `forward_passes` of a family name; None where its module has no such name.
    Raises ImportError."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name, None) if place else None


def has_family(family: str) -> bool:
    """Whether there is an engine for cards of that family."""
    return find_family(family) is not None


def catalog_folders() -> list[Path]:
    """The folders of cards and profiles that other packages bring. Raises CardError for one that
    is not there."""
    found = sorted(entry_points(group=MODELS), key=lambda entry: entry.name)
    return [_folder(entry) for entry in found]


def _folder(entry: EntryPoint) -> Path:
    try:
        folder = Path(str(files(entry.value)))
    except ModuleNotFoundError as error:
        brought = entry.dist.name if entry.dist else entry.name
        raise CardError(
            f"The Python package {brought} says that its models are in '{entry.value}', which is "
            "not there: install it again, or remove it."
        ) from error
    return folder
