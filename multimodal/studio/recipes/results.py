"""What a job leaves: an adapter in PEFT's layout, or a model in the hub's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel

from multimodal.private_files import make_private_folder


@contextmanager
def fresh_result(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` at the end; what is there stays
    where an error comes first."""
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    make_private_folder(fresh)
    yield fresh
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)


def save_result(model: Any, tokenizer: Any, folder: Path, base: str) -> None:
    """Write `model` into `folder`, whole or not at all: an adapter that names the card `base` as
    what it belongs to, or all weights with tokenizer and generation settings. Safetensors only."""
    with fresh_result(folder) as fresh:
        if isinstance(model, PeftModel):
            _save_adapter(model, fresh, base)
        else:
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)


def _save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    config = model.peft_config["default"]
    loaded_from = config.base_model_name_or_path
    config.base_model_name_or_path = base
    try:
        # The vocabulary never changes; "auto" would look for the base model on the hub.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        # A form that nobody filled in, and that names the folder where the base lay.
        (folder / "README.md").unlink(missing_ok=True)
    finally:
        config.base_model_name_or_path = loaded_from
