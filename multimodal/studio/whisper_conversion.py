"""Whisper as a job leaves it, written once more for the engine of the chat (CTranslate2)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from multimodal.errors import JobError
from multimodal.private_files import make_private_folder

ENGINE_FOLDER = "ctranslate2"
"""In the folder of a job."""


def write_engine_folder(result: Path, folder: Path) -> None:
    """Write the Whisper model in `result`, in transformers' layout, into `folder` in 16 bits as
    CTranslate2 reads it, whole or not at all; nothing where it is there already. Takes seconds, and
    host memory for the weights in 16 bits twice. Raises JobError."""
    if (folder / "model.bin").is_file():
        return
    from ctranslate2.converters import TransformersConverter
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.utils.logging import disable_progress_bar

    from multimodal.backends.tokenizer_files import LOCAL

    disable_progress_bar()  # type: ignore[no-untyped-call]
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        make_private_folder(fresh)
        copied = ["tokenizer.json"]
        converter = TransformersConverter(str(result), copy_files=copied, load_as_float16=True)
        converter.convert(str(fresh), quantization="float16", force=True)
        mels = WhisperConfig.from_pretrained(result, **LOCAL).num_mel_bins
        extractor: Any = WhisperFeatureExtractor(feature_size=mels)  # type: ignore[no-untyped-call]
        extractor.save_pretrained(fresh)
        fresh.replace(folder)
    except (OSError, RuntimeError, ValueError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise JobError(f"{result} could not be converted for CTranslate2: {error}") from error
