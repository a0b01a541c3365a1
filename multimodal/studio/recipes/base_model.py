"""The model that a job begins with, loaded for training.

A folder of the hub's layout is read by transformers (safetensors only, no code of the checkpoint's
own). A GGUF file is unpacked: transformers marks such a model as quantized, and then neither its
Trainer takes it nor `save_pretrained`, so the weights go into a model made anew from the same
configuration. For QLoRA the unpacked model is written into the job's folder for as long as
bitsandbytes reads it. An earlier result is merged before that: merging into weights of four bits
would round away what it learned.
"""

from __future__ import annotations

import copy
import gc
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GgufConfig

from multimodal.backends.attention import ungroup_attention
from multimodal.backends.checkpoints import check_folder, is_quantized, leave_unpacked
from multimodal.backends.llama_cpp.gguf_files import gguf_files
from multimodal.backends.tokenizer_files import LOCAL
from multimodal.errors import BackendError, RequestError
from multimodal.memory.devices.device_errors import translate_device_errors
from multimodal.private_files import make_private_folder
from multimodal.studio import ranks
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.precision import compute_type, precision_notice, weight_type
from multimodal.studio.tokenizer import load_model_tokenizer

GGUF, FOLDER, SEEING = "llama_cpp", "causal_lm", "image_text"
"""Families of the cards that can be taught."""
UNPACKED = "unpacked"
"""The folder, in the job's, of a model that bitsandbytes is about to read."""

# PEFT says that GPT-2's layers are transposed, which it then takes care of.
logging.getLogger("peft").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """`model` of transformers, on the job's device; `dtype`: what is computed in."""

    model: Any
    tokenizer: Any
    dtype: torch.dtype


def load_base(
    job: JobContext, model_class: Any = AutoModelForCausalLM, unneeded: tuple[str, ...] = ()
) -> BaseModel:
    """The model of `job.start`, in four bits where they are asked for, in what is computed
    in below another adapter, else in fp32. `model_class`: of transformers' Auto classes;
    `unneeded`: ends of the names of weights that the checkpoint may lack, such as a new head's.
    Noted: that the device cannot have the precision that was asked for.

    Raises RequestError for what cannot be taught, BackendError for what is wrong with the files,
    DeviceFullError.
    """
    start, card = job.start, job.start.card
    _check(job)
    ungroup_attention(start.device)
    dtype = compute_type(job.settings, start.device)
    if notice := precision_notice(job.settings, start.device):
        job.note(notice)
    with translate_device_errors(card.title):
        tokenizer = load_model_tokenizer(card, start.files)
        reader = _Reader(job, model_class, unneeded)
        model = reader.quantized() if job.settings.is_packed else reader.plain()
    return BaseModel(model, tokenizer, dtype)


def _check(job: JobContext) -> None:
    card, method = job.start.card, job.settings.method
    if card.family not in {GGUF, FOLDER, SEEING}:
        raise RequestError(
            f"{card.title} is no text model of transformers or GGUF, so it cannot be taught by "
            f"'{method}'; choose one that is listed under text-generation."
        )
    if card.family == GGUF:
        gguf_files(card, job.start.files)
        return
    check_folder(card, job.start.files)
    if method == "full" and is_quantized(job.start.files):
        raise RequestError(
            f"{card.title} was published in few bits, which cannot be trained themselves; teach it "
            "by lora, or take the original model."
        )


class _Reader:
    def __init__(self, job: JobContext, model_class: Any, unneeded: tuple[str, ...]) -> None:
        self._job, self._class, self._unneeded = job, model_class, unneeded
        self._card, self._files = job.start.card, job.start.files
        self._device: str = job.start.device
        self._is_gguf = self._card.family == GGUF

    def plain(self) -> Any:
        """In the type of its weights, an earlier adapter merged."""
        dtype = weight_type(self._job.settings, self._device)
        if self._is_gguf:
            return self._merged(self._from_gguf(dtype).to(self._device))
        return self._merged(self._from_folder(self._files, dtype))

    def quantized(self) -> Any:
        """Linear layers as nf4 with constants that are quantized too (Dettmers et al. 2023), the
        rest in what is computed in."""
        dtype = compute_type(self._job.settings, self._device)
        packed = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        with self._float_folder() as folder:
            given = None if folder == self._files and is_quantized(folder) else packed
            model = self._from_folder(folder, dtype, given)
        leave_unpacked(model, is_trained=True)
        return model

    @contextmanager
    def _float_folder(self) -> Iterator[Path]:
        """A folder that bitsandbytes can read: the checkpoint's own, or one for the time being."""
        if not self._is_gguf and self._job.start.adapter is None:
            yield self._files
            return
        folder = self._job.folder.path / f"{UNPACKED}-{ranks.rank()}"
        shutil.rmtree(folder, ignore_errors=True)
        make_private_folder(folder)
        try:
            read = self._from_gguf if self._is_gguf else self._from_folder_on_cpu
            self._merged(read(torch.bfloat16)).save_pretrained(folder)
            gc.collect()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _from_folder_on_cpu(self, dtype: torch.dtype) -> Any:
        return self._from_folder(self._files, dtype, device="cpu")

    def _from_folder(
        self, folder: Path, dtype: torch.dtype, packed: Any = None, device: str = ""
    ) -> Any:
        # An explicit None would undo what a checkpoint says of its own quantization.
        more = {"quantization_config": packed} if packed else {}
        model, found = self._class.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device or self._device},
            use_safetensors=True,
            weights_only=True,
            output_loading_info=True,
            **LOCAL,
            **more,
        )
        self._check_missing(found["missing_keys"])
        return model

    def _from_gguf(self, dtype: torch.dtype) -> Any:
        """Unpacked, on the CPU."""
        path = gguf_files(self._card, self._files).language
        unpacked, found = self._class.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
            output_loading_info=True,
            **LOCAL,
        )
        self._check_missing(found["missing_keys"])
        config = copy.deepcopy(unpacked.config)
        with init_empty_weights(include_buffers=False):
            model = self._class.from_config(config, dtype=dtype)
        model.load_state_dict(unpacked.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = unpacked.generation_config
        return model

    def _merged(self, model: Any) -> Any:
        """With what an earlier job taught, if there is one."""
        if self._job.start.adapter is None:
            return model
        folder = str(self._job.start.adapter)
        config = PeftConfig.from_pretrained(folder)
        # Of no task, so that what was learned for chats can lie below a classifier.
        config.task_type = None
        return PeftModel.from_pretrained(model, folder, config=config).merge_and_unload()

    def _check_missing(self, names: Any) -> None:
        if missing := sorted(name for name in names if not name.endswith(self._unneeded)):
            raise BackendError(
                f"{self._card.title}: the checkpoint lacks {len(missing)} of the model's weights, "
                f"such as {missing[0]}. Fetch it again, or compare its config.json with the card."
            )
