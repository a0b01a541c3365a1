"""How a job is made to fit: what is computed at once, and what is given up in which order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from multimodal.errors import DeviceFullError
from multimodal.memory.devices.device_errors import device_error
from multimodal.studio.folder import JobFolder
from multimodal.studio.settings import JobSettings

SHORT = 256
"""Tokens that samples are cut to at last, as the guide to GPT-2 says, where that is allowed."""
HOST_FULL = "DefaultCPUAllocator: can't allocate memory"
FILE = "memory_plan.json"

Change = Literal["batch", "optimizer", "length"]
CHANGES: tuple[Change, ...] = ("batch", "optimizer", "length")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`batch` samples are computed at once, of at most `max_length` tokens. It divides the batch
    that was asked for, so that an update sees the same samples in the same order whatever fits."""

    batch: int
    max_length: int
    optimizer: str

    def accumulation(self, settings: JobSettings) -> int:
        return settings.accumulation * settings.batch // self.batch

    def smaller(
        self, settings: JobSettings, allowed: Collection[Change] = CHANGES
    ) -> tuple[MemoryPlan, Change] | None:
        """What to try once this was too much, of what is `allowed`: the largest divisor of the
        batch up to half of it; then states of the optimizer in 8 bits that may leave the card,
        where a whole model is trained and no optimizer was asked for; then shorter samples, where
        they are permitted. None where nothing is left."""
        if self.batch > 1 and "batch" in allowed:
            half = range(self.batch // 2, 0, -1)
            fitting = next(size for size in half if settings.batch % size == 0)
            return replace(self, batch=fitting), "batch"
        is_free = settings.method == "full" and self.optimizer == "auto"
        if is_free and "optimizer" in allowed:
            return replace(self, optimizer="paged_adamw_8bit"), "optimizer"
        if settings.may_shorten and self.max_length > SHORT and "length" in allowed:
            return replace(self, max_length=SHORT), "length"
        return None

    def sentence(self, change: Change, settings: JobSettings) -> str:
        """What changed and what it costs, for people."""
        if change == "batch":
            return (
                f"Memory ran out, so samples are computed {self.batch} at a time, in "
                f"{self.accumulation(settings)} batches before each update, which still sees "
                f"{settings.batch * settings.accumulation} samples."
            )
        if change == "optimizer":
            return (
                "Memory ran out at a batch of 1, so the optimizer keeps its states in 8 bits and "
                "in pages that move to host memory; steps take longer while they move."
            )
        return (
            f"Memory ran out at a batch of 1, so samples are cut to {self.max_length} tokens, as "
            "--may-shorten allows."
        )


def first_plan(settings: JobSettings) -> MemoryPlan:
    optimizer = settings.optimizer
    if optimizer == "auto" and settings.offload:
        optimizer = "paged_adamw_8bit"
    return MemoryPlan(settings.batch, settings.max_length, optimizer)


def read_plan(folder: JobFolder, settings: JobSettings, most: int = 0) -> MemoryPlan:
    """What fitted last in the job's folder, so that a resumed run goes on with the same states;
    the first plan where nothing is known. `most`: samples at once that the job's bytes are for."""
    plan = folder.read(FILE, MemoryPlan) or first_plan(settings)
    return replace(plan, batch=min(plan.batch, most or plan.batch))


def write_plan(folder: JobFolder, plan: MemoryPlan) -> None:
    folder.write(FILE, plan)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host for a CPU, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or HOST_FULL in str(error):
        return True
    return isinstance(device_error(error), DeviceFullError)


def out_of_memory_error(title: str, settings: JobSettings) -> DeviceFullError:
    """With everything that could still be tried."""
    ways = ["close other programs"]
    if settings.max_length > SHORT and not settings.may_shorten:
        ways.append("allow samples of 256 tokens with --may-shorten")
    if settings.gradient_checkpointing is False:
        ways.append("leave out --no-gradient-checkpointing")
    if settings.method in {"full", "lora"}:
        ways.append(f"use --method {'lora' if settings.method == 'full' else 'qlora'}")
    if not settings.offload:
        ways.append("try --offload, which is slow")
    ways.append("take a smaller model")
    return DeviceFullError(
        f"{title}: memory runs out even with one sample at a time; {', '.join(ways[:-1])}, or "
        f"{ways[-1]}. A resumed job goes on from its last checkpoint."
    )


def split_batch(inputs: Mapping[str, Any], plan: MemoryPlan) -> Iterator[dict[str, Any]]:
    """A batch as TRL's collator for language models makes it, in parts that the plan allows: of
    padded samples (rows, tokens), so many rows without the columns that only longer ones need; of
    samples in one flat row (1, tokens), as packing makes it, as many as such rows would hold."""
    if "attention_mask" in inputs:
        yield from _rows(inputs, plan.batch)
    else:
        yield from _spans(inputs, plan.batch * plan.max_length)


def _rows(inputs: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(inputs["input_ids"]), size):
        part = {name: value[start : start + size] for name, value in inputs.items()}
        length = int(part["attention_mask"].sum(dim=1).max())
        yield {name: value[:, :length] for name, value in part.items()}


def _spans(inputs: Mapping[str, Any], tokens: int) -> Iterator[dict[str, Any]]:
    bounds = inputs["cu_seq_lens_q"].tolist()
    first = 0
    while first < len(bounds) - 1:
        fitting = [at for at, end in enumerate(bounds) if end - bounds[first] <= tokens]
        last = max(fitting[-1], first + 1)
        yield _span(inputs, first, bounds[first : last + 1])
        first = last


def _span(inputs: Mapping[str, Any], first: int, bounds: list[int]) -> dict[str, Any]:
    """The samples from the one of that number on, between those positions."""
    offsets = inputs["cu_seq_lens_q"].new_tensor(bounds) - bounds[0]
    longest = int(offsets.diff().max())
    names = ("input_ids", "labels", "position_ids", "seq_idx")
    part = {name: inputs[name][:, bounds[0] : bounds[-1]] for name in names}
    return {
        **part,
        "seq_idx": part["seq_idx"] - first,
        "cu_seq_lens_q": offsets,
        "cu_seq_lens_k": offsets,
        "max_length_q": longest,
        "max_length_k": longest,
    }
