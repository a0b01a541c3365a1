"""A job's settings in the words of transformers' and TRL's trainers."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from multimodal.studio.context import JobContext
from multimodal.studio.recipes.precision import compute_type
from multimodal.studio.settings import JobSettings, Method

LEARNING_RATES: dict[Method, float] = {
    "full": 5e-5,
    "lora": 2e-4,
    "qlora": 2e-4,
    "dpo": 1e-5,
    "kto": 1e-5,
    "reward": 1e-4,
    "grpo": 1e-5,
    "classify": 5e-5,
    "diffusion": 1e-3,
    "style": 1e-4,
    "transcribe": 1e-5,
    "describe": 2e-4,
}
"""Unless the person says otherwise. Full: as transformers' guide to GPT-2 has it; classify: as its
guide to image classification does; transcribe: as its examples of speech recognition have for
Whisper; adapters: QLoRA's authors for models up to 13B, and LLaVA's for theirs; preference: ten
times TRL's for full training, as its documentation says of LoRA; diffusion: tried here, for a small
model; style: as diffusers' script for LoRA has it."""
OPTIMIZERS = {
    "auto": "adamw_torch_fused",
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
C = TypeVar("C", bound=TrainingArguments)


def training_arguments(job: JobContext, config_class: type[C], **more: Any) -> C:
    """The arguments of a trainer of the class that goes with `config_class`; `more` wins over what
    the settings say. The batches before an update are those of all devices, of which this process
    computes its share."""
    settings, device = job.settings, job.start.device
    dtype = compute_type(settings, device)
    recomputes = settings.gradient_checkpointing
    given: dict[str, Any] = {
        "output_dir": str(job.folder.checkpoints),
        "per_device_train_batch_size": settings.batch,
        "per_device_eval_batch_size": settings.batch,
        "gradient_accumulation_steps": settings.accumulation,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "learning_rate": settings.learning_rate or LEARNING_RATES[settings.method],
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_share,
        "weight_decay": settings.weight_decay,
        "optim": OPTIMIZERS[settings.optimizer],
        "seed": settings.seed,
        "use_cpu": device == "cpu",
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "gradient_checkpointing": device != "cpu" if recomputes is None else recomputes,
        "dataloader_pin_memory": device != "cpu",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        **_moments(settings),
        **more,
    }
    given["gradient_accumulation_steps"] //= settings.devices
    return config_class(**given)


def _moments(settings: JobSettings) -> dict[str, Any]:
    """When the model is evaluated and saved. The trainer can only load the best at the end if it
    saves with each evaluation; checkpoints between those are `JobCallback`'s."""
    strategy = "epoch" if settings.evaluate_every is None else "steps"
    steps = {"eval_steps": settings.evaluate_every, "save_steps": settings.evaluate_every}
    return {
        "eval_strategy": strategy,
        "save_strategy": strategy,
        **(steps if settings.evaluate_every else {}),
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }
