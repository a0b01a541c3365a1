"""Which module is the engine of each family of models.

The program's own are in a table. Another package brings one by entry points in its metadata:

    [project.entry-points."multimodal.backends"]
    parrot = "parrot_engine.engine"

    [project.entry-points."multimodal.models"]
    parrot = "parrot_engine.models"

The first names the module of a family, which has `load(card, files, device) -> Backend` like those
here; the second a package with cards and profiles, laid out like the folder `models/`. A family of
the program's own is not replaced.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path

from multimodal.errors import CardError

BACKENDS = "multimodal.backends"
MODELS = "multimodal.models"

FAMILIES = {
    "causal_lm": "multimodal.backends.hf.causal_lm",
    "diffusion": "multimodal.backends.diffusion.pipeline",
    "faster_whisper": "multimodal.backends.speech.faster_whisper",
    "image_describer": "multimodal.backends.describer.engine",
    "image_text": "multimodal.backends.hf.image_text",
    "kokoro": "multimodal.backends.speech.kokoro",
    "llama_cpp": "multimodal.backends.llama_cpp.engine",
    "minigpt4": "multimodal.backends.hf.minigpt4",
    "openai_whisper": "multimodal.backends.speech.openai_whisper",
    "piper": "multimodal.backends.speech.piper",
    "seamless": "multimodal.backends.speech.seamless",
    "wav2vec2": "multimodal.backends.speech.wav2vec2",
}
"""The program's own, by the `family` of their cards."""


def module_name(family: str) -> str | None:
    """The module of that family, which is not imported for it; None where there is none."""
    if family in FAMILIES:
        return FAMILIES[family]
    found = entry_points(group=BACKENDS, name=family)
    return next((entry.value for entry in found), None)


def has_family(family: str) -> bool:
    """Whether there is an engine for cards of that family."""
    return module_name(family) is not None


def model_folders() -> list[Path]:
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
