"""What is given up when memory runs out, and how a batch is parted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from multimodal.studio.folder import JobFolder
from multimodal.studio.recipes.memory_plan import (
    MemoryPlan,
    first_plan,
    is_out_of_memory,
    out_of_memory_error,
    read_plan,
    split_batch,
    write_plan,
)
from multimodal.studio.settings import JobSettings


def settings(**asked: Any) -> JobSettings:
    return JobSettings(name="taught", model="tiny", data="lines.txt", **asked)


def ladder(asked: JobSettings) -> list[MemoryPlan]:
    found = [first_plan(asked)]
    while smaller := found[-1].smaller(asked):
        found.append(smaller[0])
    return found


@pytest.mark.parametrize(
    ("batch", "sizes"), [(4, [4, 2, 1]), (6, [6, 3, 1]), (5, [5, 1]), (12, [12, 6, 3, 1])]
)
def test_batches_are_divided_so_that_an_update_sees_as_many_samples(
    batch: int, sizes: list[int]
) -> None:
    asked = settings(batch=batch, accumulation=3)
    found = ladder(asked)
    assert [plan.batch for plan in found] == sizes
    assert {plan.batch * plan.accumulation(asked) for plan in found} == {3 * batch}


def test_the_optimizer_goes_before_the_length_and_that_only_where_it_may() -> None:
    full = ladder(settings(method="full", batch=2, may_shorten=True))
    assert [(plan.batch, plan.optimizer, plan.max_length) for plan in full] == [
        (2, "auto", 512),
        (1, "auto", 512),
        (1, "paged_adamw_8bit", 512),
        (1, "paged_adamw_8bit", 256),
    ]
    assert ladder(settings(batch=1)) == [MemoryPlan(1, 512, "auto")]
    assert ladder(settings(batch=1, method="full", optimizer="adamw")) == [
        MemoryPlan(1, 512, "adamw")
    ]


def test_offload_begins_with_an_optimizer_that_leaves_the_card() -> None:
    assert first_plan(settings(offload=True)).optimizer == "paged_adamw_8bit"
    assert first_plan(settings(offload=True, optimizer="adamw")).optimizer == "adamw"


def test_plan_is_read_back_and_a_damaged_one_is_the_first(tmp_path: Path) -> None:
    plan = MemoryPlan(2, 256, "adamw_8bit")
    write_plan(JobFolder(tmp_path), plan)
    assert read_plan(JobFolder(tmp_path), settings()) == plan
    (tmp_path / "memory_plan.json").write_text("{", "utf-8")
    assert read_plan(JobFolder(tmp_path), settings()) == first_plan(settings())


def test_errors_of_a_full_device_are_told_from_others() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you")
    )
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_what_can_still_be_tried_is_named() -> None:
    told = str(out_of_memory_error("Tiny", settings(method="full")))
    assert "--may-shorten" in told
    assert "--method lora" in told
    assert "--may-shorten" not in str(out_of_memory_error("Tiny", settings(may_shorten=True)))


LENGTHS = (5, 3, 7, 2, 4)


def samples() -> list[dict[str, list[int]]]:
    return [
        {"input_ids": [10 * at + i for i in range(length)], "labels": list(range(length))}
        for at, length in enumerate(LENGTHS)
    ]


def test_padded_batch_is_parted_by_rows_without_needless_columns() -> None:
    whole = DataCollatorForLanguageModeling(pad_token_id=0)(samples())
    found = list(split_batch(whole, MemoryPlan(2, 64, "auto")))
    assert [tuple(part["input_ids"].shape) for part in found] == [(2, 5), (2, 7), (1, 4)]
    for part, first in zip(found, (0, 2, 4), strict=True):
        alone = DataCollatorForLanguageModeling(pad_token_id=0)(samples()[first : first + 2])
        assert all(torch.equal(part[name], alone[name]) for name in alone)


def test_flat_batch_is_parted_between_samples_as_if_it_had_been_collated_so() -> None:
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    found = list(split_batch(collator(samples()), MemoryPlan(1, 9, "auto")))
    bounds = (0, 2, 4, 5)  # 5 + 3, 7 + 2, 4 tokens
    assert len(found) == len(bounds) - 1
    for part, (first, last) in zip(found, pairwise(bounds), strict=True):
        alone = collator(samples()[first:last])
        assert set(part) == set(alone)
        for name, value in alone.items():
            same = torch.equal(part[name], value) if torch.is_tensor(value) else part[name] == value
            assert same, name


def test_sample_longer_than_a_part_is_a_part_of_its_own() -> None:
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    found = list(split_batch(collator(samples()), MemoryPlan(1, 4, "auto")))
    assert [part["input_ids"].shape[1] for part in found] == list(LENGTHS)
