"""What a step of fine-tuning really takes, with what `fit` says of it.

    python -m benchmarks.training_memory [--model CARD ...] [--method qlora|lora|full ...]
                                         [--tokens 512] [--batch 1] [--out FILE]

Two updates by TRL's trainer on a model of full size with random weights, as its card describes it.
With an NVIDIA card the most that PyTorch's allocator held; without one the live storages of
PyTorch, counted as `fit` counts them, which is only for small models such as gpt2.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from trl import SFTConfig, SFTTrainer

from benchmarks.figures import tell
from multimodal.backends.checkpoints import leave_unpacked
from multimodal.build import read_catalog
from multimodal.catalog.architectures import ModelPart, ModulesArchitecture
from multimodal.memory.devices.storages import storage_bytes
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.memory.estimate.training import (
    Method,
    TrainingStep,
    training_bytes,
)
from multimodal.settings import read_settings
from multimodal.studio.recipes.arguments import OPTIMIZERS

METHODS: tuple[Method, ...] = ("qlora", "lora", "full")
MODELS = ("gpt2", "phi-2", "mistral-7b-instruct")
UPDATES, ACCUMULATION = 2, 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_memory")
    parser.add_argument("--model", action="append", help="a card of transformers' text models")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    on_cpu = not torch.cuda.is_available()
    catalog = read_catalog(read_settings())
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "card": "none: live storages on the CPU" if on_cpu else torch.cuda.get_device_name(),
    }
    for name in asked.model or (MODELS[:1] if on_cpu else MODELS):
        part = text_part(catalog.card(name).architecture)
        for method in asked.method or METHODS:
            step = TrainingStep(method, asked.batch, asked.tokens, "bf16", on_cpu=on_cpu)
            found[f"{name}, {method}"] = compare(part, step)
    tell(found, asked.out)


def text_part(architecture: Any) -> ModelPart:
    if not isinstance(architecture, ModulesArchitecture):
        raise SystemExit("Name a card whose text model transformers builds, such as gpt2.")
    return next(iter(architecture.parts.values()))


def compare(part: ModelPart, step: TrainingStep) -> dict[str, Any]:
    said = training_bytes(part, step).total
    try:
        taken = measure(part, step)
    except torch.OutOfMemoryError:
        return {"estimate_bytes": said, "measured_bytes": "the card was full"}
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    return {"estimate_bytes": said, "measured_bytes": taken, "ratio": round(said / taken, 3)}


def measure(part: ModelPart, step: TrainingStep) -> int:
    """Bytes of the model, and the most that two updates held beside it."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(load_model(part, step, Path(folder) / "model"), step, folder)
        if step.on_cpu:
            live = LiveStorages()
            with live:
                trainer.train()
            return storage_bytes(trainer.model) + live.peak
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
        return torch.cuda.max_memory_allocated()


def load_model(part: ModelPart, step: TrainingStep, folder: Path) -> Any:
    """Random weights in the format in which the studio's recipes keep them."""
    config = transformers.AutoConfig.for_model(**part.config)
    is_wide = step.method == "full" or step.precision == "fp32"
    kind = torch.float32 if is_wide else torch.bfloat16
    device = "cpu" if step.on_cpu or step.method == "qlora" else "cuda"
    with torch.device(device):
        model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=kind)
    if step.method != "qlora":
        return model
    model.save_pretrained(folder)
    del model
    packed = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=kind,
    )
    place = {"": "cpu" if step.on_cpu else "cuda"}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=packed, dtype=kind, device_map=place
    )
    leave_unpacked(model, is_trained=True)
    return model


def make_trainer(model: Any, step: TrainingStep, folder: str) -> Any:
    sample = {"input_ids": [0] * step.tokens, "labels": [0] * step.tokens}
    accumulation = ACCUMULATION if step.accumulates else 1
    arguments = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=step.batch,
        gradient_accumulation_steps=accumulation,
        max_steps=UPDATES,
        max_length=step.tokens,
        use_cpu=step.on_cpu,
        bf16=step.precision == "bf16",
        gradient_checkpointing=step.gradient_checkpointing,
        optim=OPTIMIZERS[step.optimizer],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    adapter = LoraConfig(r=step.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([sample] * (step.batch * accumulation * UPDATES)),
        processing_class=transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel({"a": 0})),
            pad_token="a",  # noqa: S106
        ),
        peft_config=None if step.method == "full" else adapter,
    )


if __name__ == "__main__":
    main()
