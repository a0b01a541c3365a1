"""A checkpoint in transformers' layout, in 32 bits, of which every weight is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from multimodal.backends.tokenizer_files import LOCAL
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.memory.devices.device_errors import device_error


def load_wide(
    cls: Any, card: ModelCard, files: Path, unneeded: tuple[str, ...] = (), **more: Any
) -> Any:
    """The model of the class `cls` in the folder `files`, on the CPU. `unneeded`: ends of the names
    of weights that may be missing; `more` is for its configuration. Raises BackendError."""
    try:
        model, found = cls.from_pretrained(
            files,
            dtype=torch.float32,
            use_safetensors=True,
            weights_only=True,
            output_loading_info=True,
            **more,
            **LOCAL,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if (told := device_error(error, card.title)) is not None:
            raise told from error
        raise BackendError(f"{card.title} could not be loaded: {error}") from error
    if missing := sorted(name for name in found["missing_keys"] if not name.endswith(unneeded)):
        raise BackendError(
            f"{card.title}: the checkpoint lacks {len(missing)} of the model's weights, such as "
            f"{missing[0]}. Fetch it again."
        )
    return model.eval()
