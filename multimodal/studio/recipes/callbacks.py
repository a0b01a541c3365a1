"""What a trainer tells of a job, and how the job tells a trainer to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from multimodal.studio import ranks
from multimodal.studio.checkpoints import prune, write_manifest
from multimodal.studio.context import JobContext
from multimodal.studio.evaluation.comparisons import Example, generate_answers

OWN_MEASURES = ("_runtime", "_per_second", "total_flos", "num_tokens", "epoch")
"""Ends of the names of what trainers log and a job does not tell."""

Show = Callable[[Any, Any, int], None]
"""Of the model, its tokenizer and the step: has it answer held-out prompts, and shows that."""


class JobCallback(TrainerCallback):
    """For any of TRL's trainers: metrics of each step, sample answers at every evaluation, a
    checkpoint and the end once `job.stop` is set, and a manifest for each checkpoint."""

    def __init__(self, job: JobContext, show: Show | None = None) -> None:
        self._job, self._show = job, show
        self._tokens, self._seconds, self._began_s = 0.0, 0.0, 0.0
        self._first_step = self._train_began_s = 0.0
        self._saved_step = -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._first_step, self._train_began_s = state.global_step, time.monotonic()
        self._job.tell(
            step=state.global_step,
            steps=state.max_steps,
            batch=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps * self._job.settings.devices,
            doing="training",
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._began_s = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._seconds += time.monotonic() - self._began_s
        every = self._job.settings.save_every
        if every and state.global_step % every == 0:
            control.should_save = True
        if ranks.any_says(self._job.stop.is_set()):
            control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Also called where training stops within an epoch; then nothing is evaluated, and the
        checkpoint is of that step."""
        if not ranks.any_says(self._job.stop.is_set()):
            return
        control.should_save = self._saved_step != state.global_step
        if not float(state.epoch).is_integer():
            control.should_evaluate = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        values = _metric_values(logs or {})
        if "loss" in values:
            values |= self._speed(float((logs or {}).get("num_tokens", 0.0)), state)
        if values:
            values["memory_bytes"] = float(memory_bytes(self._job.start.device))
            self._job.measure(state.global_step, state.epoch, values)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        processing_class: Any = None,
        **more: Any,
    ) -> None:
        if self._show is not None and ranks.is_first() and not self._job.stop.is_set():
            self._show(model, processing_class, state.global_step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Trainers would remove old checkpoints before the new one is known to be whole."""
        self._saved_step = state.global_step
        ranks.wait_for_all()  # each keeps the state of its random numbers there
        if not ranks.is_first():
            return
        checkpoints = self._job.folder.checkpoints
        write_manifest(checkpoints / f"checkpoint-{state.global_step}")
        prune(checkpoints, spare=[Path(state.best_model_checkpoint or "").name])

    def _speed(self, tokens: float, state: TrainerState) -> dict[str, float]:
        """Tokens a second in steps alone, and what is left at the pace of this run, evaluations
        included. The first step of a run, which prepares the device, tells nothing of its speed."""
        is_first = not self._tokens
        made, seconds = tokens - self._tokens, self._seconds
        self._tokens, self._seconds = tokens, 0.0
        pace = (time.monotonic() - self._train_began_s) / (state.global_step - self._first_step)
        found = {"eta_s": pace * (state.max_steps - state.global_step)}
        if made > 0 and seconds > 0 and not is_first:
            found["tokens_per_s"] = made / seconds
        return found


def memory_bytes(device: str) -> int:
    """The most that tensors took on a card; on a CPU, what the process has now."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)


def _metric_values(logs: Mapping[str, Any]) -> dict[str, float]:
    names = {"train_loss": "train_loss_mean"}
    return {
        names.get(name, name): float(value)
        for name, value in logs.items()
        if isinstance(value, int | float) and not name.endswith(OWN_MEASURES)
    }


def show_answers(
    job: JobContext,
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    max_new_tokens: int,
    step: int,
) -> None:
    """What the model answers to held-out prompts at the evaluation of that step."""
    prompts = [example.prompt for example in examples]
    answers = generate_answers(model, tokenizer, prompts, max_new_tokens)
    for example, answer in zip(examples, answers, strict=True):
        job.show(step, example.text, answer, example.expected)
