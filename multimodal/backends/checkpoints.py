"""Models of transformers from a local folder in the published layout, in the card's quantization.

Safetensors are read, and PyTorch's own format only for the model that is published in no other:
as tensors, so that nothing of a checkpoint is run. Nothing is looked up on the net. A checkpoint
that was quantized when it was saved is taken as it is; one that is quantized here is saved like
that for the next load (`quantize_once`).
"""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from multimodal.backends.attention import ungroup_attention
from multimodal.backends.load_context import current_load_context
from multimodal.backends.quantize_once import quantize_once
from multimodal.backends.tokenizer_files import LOCAL
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CardError
from multimodal.memory.devices.device_errors import translate_device_errors
from multimodal.memory.estimate.footprint import usual_quantization
from multimodal.memory.estimate.quantization import BLOCK, EIGHT_BIT, FOUR_BIT, TORCH
from multimodal.weights.quantized import QuantizationSettings, library_versions, source_digest

SAFE, PICKLED = "*.safetensors", "*.bin"
CONFIGURATIONS = ("config.json", "generation_config.json", "*.index.json")
ADAPTER = "adapter_config.json"
CPU_ROWS = 32
"""Rows in a block of bitsandbytes' kernel for the CPU."""

disable_progress_bar()  # type: ignore[no-untyped-call]
set_verbosity_error()  # type: ignore[no-untyped-call]
# An optional kernel for the CPU is not installed; nothing is wrong.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# 8-bit layers compute in fp16 whatever they are given.
warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")


def from_folder(
    cls: Any,
    card: ModelCard,
    files: Path,
    device: str,
    quantized: bool = True,
    unneeded: tuple[str, ...] = (),
    pickled: bool = False,
) -> Any:
    """The model of the folder `files`, of the class `cls`, for inference. `quantized`: whether the
    card's quantization touches it; what it leaves stays in 16 bits.

    `unneeded`: ends of the names of weights that only training uses, so that they may be missing.
    `pickled`: whether PyTorch's *.bin will do where there are no safetensors; it is read for
    tensors alone.
    Raises BackendError where weights are missing, CardError for an unknown quantization.
    """
    kind = usual_quantization(card)
    read = partial(_read, cls, card, device, unneeded)
    packed = None
    if quantized and not is_quantized(files):
        packed = quantization_config(card, kind, device)
    safe = not pickled or any(files.glob(SAFE))
    ungroup_attention(device)
    context = current_load_context()
    alone = not (files / ADAPTER).exists()  # with one, the library would save only that
    if packed is None or context is None or not (alone and context.quantized.are_wanted):
        return read(files, packed, safe)
    digest, size = source_digest(files, (*CONFIGURATIONS, SAFE if safe else PICKLED))
    settings = QuantizationSettings(
        kind=kind,
        compute=str(element_type(kind, device)).removeprefix("torch."),
        model=cls.__name__,
        source=digest,
        libraries=library_versions(),
    )
    published = partial(read, files, packed, safe)
    return quantize_once(context, card, settings, size, published, read)


def _read(
    cls: Any,
    card: ModelCard,
    device: str,
    unneeded: tuple[str, ...],
    files: Path,
    packed: BitsAndBytesConfig | None = None,
    safe: bool = True,
) -> Any:
    """The model of a folder, quantized as `packed` says, or as the checkpoint itself does."""
    # An explicit None would undo what a checkpoint says of its own quantization.
    more = {"quantization_config": packed} if packed else {}
    try:
        with translate_device_errors(card.title):
            model, found = cls.from_pretrained(
                files,
                dtype=element_type(usual_quantization(card), device),
                device_map={"": device},
                use_safetensors=safe,
                weights_only=True,
                output_loading_info=True,
                **LOCAL,
                **more,
            )
    except pickle.UnpicklingError as error:
        raise BackendError(
            f"{card.title}: the weights in {files} consist of more than tensors, or are damaged; "
            "nothing in them was run. Fetch them again from their authors."
        ) from error
    # transformers makes up what a checkpoint lacks; nobody would want to talk to that.
    if missing := sorted(name for name in found["missing_keys"] if not name.endswith(unneeded)):
        raise BackendError(
            f"{card.title}: the checkpoint lacks {len(missing)} of the model's weights, such as "
            f"{missing[0]}. Fetch it again, or compare its config.json with the card."
        )
    leave_unpacked(model)
    return model.eval().requires_grad_(False)


def leave_unpacked(model: torch.nn.Module, is_trained: bool = False) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit layers in whole blocks for inference,
    and fails on one that does not consist of them. Such a layer is computed as it is, and every
    layer of a model that is trained, since no gradient goes through a repacked one."""
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu") and (
            is_trained or layer.in_features % BLOCK or layer.out_features % CPU_ROWS
        ):
            layer.support_avx512bf16_for_cpu = False


def check_folder(card: ModelCard, files: Path, pickled: bool = False) -> None:
    """Raise BackendError unless `files` holds a configuration, and weights that `from_folder` reads
    with the same `pickled`."""
    weights = (SAFE, PICKLED) if pickled else (SAFE,)
    for patterns, what in ((("config.json",), "config.json"), (weights, "file of safetensors")):
        if not any(path for pattern in patterns for path in files.glob(pattern)):
            raise BackendError(
                f"{card.title}: there is no {what} in {files}. Put the model there in the layout "
                "of the Hugging Face hub, or correct the source in its card."
            )


def quantization_config(card: ModelCard, kind: str, device: str) -> BitsAndBytesConfig | None:
    """What bitsandbytes is asked for; None for a format of 16 or 32 bits."""
    if kind in FOUR_BIT:
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type=kind.partition("-")[0],
            bnb_4bit_use_double_quant=kind.endswith("-double"),
            bnb_4bit_compute_dtype=sixteen_bits(device),
        )
    if kind in EIGHT_BIT:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    if kind not in TORCH:
        raise CardError(
            f"{card.name}: there is no quantization '{kind}'. Known: {', '.join(TORCH)}."
        )
    return None


def element_type(kind: str, device: str) -> torch.dtype:
    """In which format the parts that are not quantized are kept, and the arithmetic is done."""
    if kind == "fp32":
        return torch.float32
    # A CPU computes in bfloat16 or not at all quickly; the bytes are the same.
    return torch.float16 if kind == "fp16" and device != "cpu" else sixteen_bits(device)


def sixteen_bits(device: str) -> torch.dtype:
    """bfloat16, or float16 on cards before Ampere, which only imitate bfloat16."""
    if device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16


def is_quantized(files: Path) -> bool:
    """Whether the checkpoint was quantized when it was saved."""
    config = json.loads((files / "config.json").read_text("utf-8"))
    return bool(config.get("quantization_config"))
