"""The adapter that LoRA and the preference methods train."""

from __future__ import annotations

from peft import LoraConfig, TaskType

from multimodal.studio.settings import JobSettings


def lora_config(settings: JobSettings, task: TaskType = TaskType.CAUSAL_LM) -> LoraConfig:
    """Beside every linear layer but the head: with fewer, LoRA falls short of full training at any
    rank (Dettmers et al. 2023, section 4)."""
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        bias="none",
        task_type=task,
    )
