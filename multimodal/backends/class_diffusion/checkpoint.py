"""A class-conditional diffusion model in a folder: UNet2DModel and scheduler as diffusers saves
them, and the names of the classes.

    config.json, diffusion_pytorch_model.safetensors    UNet2DModel
    scheduler_config.json                               DDIMScheduler
    labels.json                                         the classes, in the order of the embeddings

The embedding after those of the classes stands for none of them, for the pass without the prompt
that classifier-free guidance needs (Ho and Salimans 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, UNet2DModel
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from multimodal.errors import BackendError
from multimodal.memory.devices.device_errors import device_error

LABELS_FILE = "labels.json"
_LABELS = TypeAdapter(tuple[str, ...])


@dataclass(frozen=True, slots=True)
class ClassDiffusionModel:
    """`labels`: of the classes; the single label "" where the pictures had none."""

    unet: Any
    scheduler: Any
    labels: tuple[str, ...]

    @property
    def no_class(self) -> int:
        """The number that stands for none of the classes."""
        return len(self.labels)


def load_checkpoint(files: Path, title: str) -> ClassDiffusionModel:
    """In fp32, on the CPU. `title` names the model in errors. Raises BackendError for files that
    are missing, damaged, or of another model; DeviceFullError."""
    try:
        labels = _LABELS.validate_json((files / LABELS_FILE).read_bytes())
        unet: Any = UNet2DModel.from_pretrained(  # type: ignore[no-untyped-call]
            str(files), use_safetensors=True, local_files_only=True
        )
        scheduler: Any = DDIMScheduler.from_pretrained(  # type: ignore[no-untyped-call]
            str(files), local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, ValidationError, SafetensorError) as error:
        if (told := device_error(error, title)) is not None:
            raise told from error
        raise BackendError(f"{title} could not be loaded from {files}: {error}") from error
    if unet.config.num_class_embeds != len(labels) + 1:
        raise BackendError(
            f"{title}: {LABELS_FILE} names {len(labels)} classes, and the model has "
            f"{unet.config.num_class_embeds} embeddings instead of one more. Teach it again."
        )
    return ClassDiffusionModel(unet, scheduler, labels)


def save_checkpoint(model: ClassDiffusionModel, folder: Path) -> None:
    """Raises OSError."""
    model.unet.save_pretrained(folder, safe_serialization=True)
    model.scheduler.save_pretrained(folder)
    (folder / LABELS_FILE).write_bytes(_LABELS.dump_json(model.labels))
