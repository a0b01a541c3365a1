"""A checkpoint is quantized once: the model is saved as it then is, and read like that next time.

The library saves and reads it (`save_pretrained`, `from_pretrained`), so what comes back is what
was quantized, bit for bit. That holds for every family and every kind of bitsandbytes that is read
through `checkpoints.from_folder`: tied weights, weights kept in 32 bits, GPT-2's transposed layers
and MiniGPT-4's text model included; `tests/backends/test_quantize_once.py` compares them. What
diffusers loads is quantized by `diffusion.pipeline`, and it is not saved.

It is saved while the load waits, and not behind the first turn: transformers takes a quantized
model's tensors from the model itself, so it could not leave the device meanwhile, and safetensors
holds the interpreter's lock while it writes. Checksums are made behind it. It is saved before
anything runs: on some CPUs, bitsandbytes repacks 4-bit layers as they are used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from multimodal.backends.load_context import LoadContext
from multimodal.backends.worker import release_frames
from multimodal.catalog.cards import ModelCard
from multimodal.errors import DeviceFullError, DeviceLostError
from multimodal.memory.devices.device_errors import device_error
from multimodal.memory.devices.storages import storage_bytes
from multimodal.sizes import download_size
from multimodal.weights.quantized import (
    CheckpointRecord,
    QuantizationSettings,
    QuantizedCheckpoint,
    QuantizedCheckpoints,
)

log = logging.getLogger(__name__)


def quantize_once(
    context: LoadContext,
    card: ModelCard,
    settings: QuantizationSettings,
    published_bytes: int,
    read_published: Callable[[], Any],
    read_saved: Callable[[Path], Any],
) -> Any:
    """The model, from the checkpoint that was saved with these `settings`, or from the published
    one, and then saved. One model of a card is kept: a family may ask for one.

    Raises what `read_published` raises; what is saved is never the reason why a model fails, unless
    the device is full.
    """
    store, bits = context.quantized, "8 bits" if settings.kind == "int8" else "4 bits"
    if (found := store.find(card.base, settings)) is not None:
        size = download_size(found.size_bytes)
        told = f"{size}, saved in {bits} by an earlier start ({found.seconds})"
        context.report(f"Loading {card.title}: {told}")
        if (model := _saved(store, found, read_saved)) is not None:
            return model
    size = download_size(published_bytes)
    context.report(f"Loading {card.title}: {size} as published, quantized to {bits}")
    started_s = time.perf_counter()
    model = read_published()
    seconds = time.perf_counter() - started_s
    if found is not None:  # the published one could be read, so it was not the device's fault
        store.discard_unreadable(found)
    if context.saves:
        context.report(f"Saving {card.title} in {bits}, so that later starts are quicker")
        record = CheckpointRecord(
            title=card.title,
            settings=settings,
            published_bytes=published_bytes,
            published_s=seconds,
            true_bytes=storage_bytes(model),
            files={},
        )
        write = partial(model.save_pretrained, max_shard_size=context.file_bytes)
        store.save(card.base, record, write)
    return model


def _saved(
    store: QuantizedCheckpoints, found: QuantizedCheckpoint, read: Callable[[Path], Any]
) -> Any:
    """The model of a saved checkpoint; None where it cannot be read, or is not what was saved."""
    record = found.record
    started_s = time.perf_counter()
    try:
        model = read(found.folder)
        if (size := storage_bytes(model)) != record.true_bytes:
            raise ValueError(f"it holds {size:,} bytes and not {record.true_bytes:,}")
    except (DeviceFullError, DeviceLostError, MemoryError):
        raise
    except Exception as error:
        if device_error(error, record.title) is not None:
            raise
        release_frames(error)
        log.warning("%s cannot be read, the published weights are: %s", found.folder, error)
        return None
    timed = store.note_seconds(found, time.perf_counter() - started_s)
    sizes = download_size(found.size_bytes), download_size(record.published_bytes)
    told = "%s was read as it was saved: %s, %s instead of %s"
    log.info(told, record.title, timed.seconds, *sizes)
    return model
