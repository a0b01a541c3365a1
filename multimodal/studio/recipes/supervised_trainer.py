"""TRL's trainer for supervised fine-tuning, which makes an update fit into the memory there is."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from trl import SFTTrainer
from trl.models import get_act_offloading_ctx_manager

from multimodal.studio.context import JobContext
from multimodal.studio.recipes.batching import check_alone
from multimodal.studio.recipes.memory_plan import (
    CHANGES,
    Change,
    MemoryPlan,
    is_out_of_memory,
    out_of_memory_error,
    split_batch,
    write_plan,
)

STATE_BYTES = {"paged_adamw_8bit": 0, "adamw_8bit": 2}
"""Of AdamW's states on the device, a trained parameter; 8 in fp32."""

Guard = Callable[[Mapping[str, Any]], None]
"""Sees each batch before it is computed and may raise torch.OutOfMemoryError."""


class PlanChangedError(Exception):
    """What fits cannot be had within this run of the trainer: another optimizer, or shorter
    samples. Nothing was learned in it yet."""


class SupervisedTrainer(SFTTrainer):
    """Computes the batches of an update in the parts that `plan` allows. An update's loss is
    divided by its trained tokens, so that its gradient is the same however it is parted, and
    neither the order of the samples, nor the steps, nor the schedule change.

    Before the first update of a run the longest batch is computed forward and backward, with the
    bytes of the optimizer's states taken, since it is only then that everything is where it will
    be. Where memory runs out, then or later, the update under way is computed again in smaller
    parts; its gradients are not used before all of them are there. `guard` is a seam for tests.
    """

    def __init__(
        self, job: JobContext, plan: MemoryPlan, guard: Guard | None = None, **more: Any
    ) -> None:
        super().__init__(**more)
        self.plan = plan
        self._job, self._guard = job, guard
        self._trained: torch.nn.Module = more["model"]
        self._is_tried = False
        self._computed: list[dict[str, Any]] = []
        self._computed_step = -1

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of one batch, whose gradients are added to those that are there. Raises
        PlanChangedError before the first update, and DeviceFullError."""
        if not self._is_tried:
            self._try_longest(model)
            self._is_tried = True
        if self._computed_step != self.state.global_step:
            self._computed, self._computed_step = [], self.state.global_step
        self._computed.append(inputs)
        loss = self._attempt(model, [inputs], num_items_in_batch)
        while loss is None:
            self._shrink()
            model.zero_grad()
            loss = self._attempt(model, self._computed, num_items_in_batch)
        return loss

    def _try_longest(self, model: torch.nn.Module) -> None:
        """Leaves weights, gradients, optimizer and random numbers as they were."""
        rows: Any = self.train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        order = sorted(range(len(rows)), key=lambda at: -lengths[at])
        columns = [name for name in ("input_ids", "labels", "seq_lengths") if name in rows[0]]
        longest = [{name: rows[at][name] for name in columns} for at in order]
        inputs = self.data_collator(longest[: self._job.settings.batch])
        cards = [torch.cuda.current_device()] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(cards), self._optimizer_bytes():
            while self._attempt(model, [inputs], None) is None:
                self._shrink()
                model.zero_grad()
        model.zero_grad()
        self._tell()

    def _attempt(
        self, model: torch.nn.Module, batches: list[dict[str, Any]], items: Any
    ) -> torch.Tensor | None:
        """The loss of the last of `batches`; None where memory ran out. The error is gone with its
        frames, which hold tensors."""
        loss = None
        try:
            for inputs in batches:
                loss = self._in_pieces(model, inputs, items)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            check_alone(self._job, error)
            return None
        return loss

    def _in_pieces(self, model: torch.nn.Module, inputs: dict[str, Any], items: Any) -> Any:
        parts = list(split_batch(inputs, self.plan))
        if items is None and len(parts) > 1:  # as one batch would be divided
            items = (inputs["labels"][..., 1:] != -100).sum().to(self.args.device)
        losses = []
        for number, part in enumerate(parts, 1):
            if self._guard is not None:
                self._guard(part)
            step: Any = super().training_step
            # Devices that share the batches exchange gradients once, whatever parts each has.
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                losses.append(step(model, part, items))
        return sum(losses[1:], losses[0])

    @contextmanager
    def _optimizer_bytes(self) -> Iterator[None]:
        """Takes what the optimizer takes from its first step on."""
        count = 0
        optimizer: Any = self.optimizer
        if self.args.device.type == "cuda" and not optimizer.state:
            trained = [p.numel() for p in self._trained.parameters() if p.requires_grad]
            count = sum(trained) * STATE_BYTES.get(self.plan.optimizer, 8)
        try:
            taken = torch.empty(count, dtype=torch.uint8, device=self.args.device)
        except torch.OutOfMemoryError:
            taken = None
        if taken is None:  # no smaller batch mends that
            self._shrink(["optimizer"])
        yield
        del taken

    def _shrink(self, among: Collection[Change] = CHANGES) -> None:
        """Go on with less. Raises DeviceFullError where nothing is left that could be given up at
        this point: the optimizer not once it has states, samples not within a run."""
        settings = self._job.settings
        self._free()
        allowed = set(among)
        if self.state.global_step:
            allowed.discard("optimizer")
        if self._is_tried:
            allowed &= {"batch"}
        found = self.plan.smaller(settings, allowed)
        if found is None:
            raise out_of_memory_error(self._job.start.card.title, settings)
        self.plan, change = found
        write_plan(self._job.folder, self.plan)
        self._job.note(self.plan.sentence(change, settings), self.state.global_step)
        if change != "batch":
            raise PlanChangedError
        self._tell()

    def _free(self) -> None:
        gc.collect()
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._job.settings.offload and self.args.device.type == "cuda":
            # It counts what the failed forward left with it.
            self.maybe_activation_offload_context = get_act_offloading_ctx_manager(self._trained)

    def _tell(self) -> None:
        self.args.per_device_eval_batch_size = self.plan.batch
        self._job.tell(
            batch=self.plan.batch,
            accumulation=self.plan.accumulation(self._job.settings),
            max_length=self.plan.max_length,
        )
