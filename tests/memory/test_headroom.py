"""The room for models: the program keeps what `fit` plans with, and what other programs took of the
card since it started is not given away."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from fakes import card
from small_memory import A, B, held, leased, manager, use

from multimodal.build import build
from multimodal.catalog.cards import Catalog
from multimodal.errors import DeviceFullError, SettingsError
from multimodal.fit import answer
from multimodal.memory.devices.base import CUDA_CONTEXT_BYTES
from multimodal.memory.devices.cuda import Cuda
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.headroom import model_bytes, planned_reserve_bytes
from multimodal.settings import read_settings

GB = 10**9


@pytest.mark.parametrize(
    ("profile", "device", "reserve"),
    [
        ("gpu-8gb", "sim:8GB", CUDA_CONTEXT_BYTES),
        ("gpu-12gb", "sim:12GB", CUDA_CONTEXT_BYTES),
        ("gpu-24gb", "sim:24GB", CUDA_CONTEXT_BYTES),
        ("gpu-12gb", "sim:16GB", CUDA_CONTEXT_BYTES),
        ("embedded", "sim:12GB", 0),
        ("embedded", "cpu", 0),
        ("gpu-8gb", "cpu", 0),
    ],
)
def test_the_program_keeps_as_much_free_as_fit_does(
    profile: str, device: str, reserve: int, tmp_path: Path
) -> None:
    settings = read_settings(profile=profile, device=device, data=tmp_path)
    planned = answer(settings).plan.fit_report
    assert planned.reserve_bytes == reserve
    with closing(build(settings)) as program:
        assert program.memory.budget_bytes == planned.budget_bytes - reserve


def test_a_card_in_use_has_less_room_for_ledger_and_limit_alike() -> None:
    device = Simulated(12 * GB, others_bytes=2 * GB, context_bytes=CUDA_CONTEXT_BYTES)
    limits: list[int] = []
    device.set_limit = limits.append  # type: ignore[method-assign]
    room = model_bytes(12 * GB, device)
    assert room == 10 * GB - CUDA_CONTEXT_BYTES
    memory = manager(room, device=device)
    assert limits == [memory.budget_bytes] == [room]
    assert model_bytes(8 * GB, device) == 8 * GB - CUDA_CONTEXT_BYTES


def test_a_budget_of_nothing_is_refused_in_a_sentence() -> None:
    with pytest.raises(SettingsError, match=r"--budget 0\.50 GB leaves nothing .* larger budget"):
        model_bytes(GB // 2, Simulated(12 * GB, context_bytes=CUDA_CONTEXT_BYTES))
    with pytest.raises(SettingsError, match="other programs take its memory"):
        model_bytes(12 * GB, Simulated(12 * GB, others_bytes=12 * GB))


def test_a_card_keeps_room_for_its_context_whatever_the_profile_is_made_for(
    catalog: Catalog,
) -> None:
    assert Cuda.context_bytes == CUDA_CONTEXT_BYTES
    for name in ("embedded", "gpu-8gb"):
        profile = catalog.profile(name)
        assert planned_reserve_bytes(profile, "cuda") == CUDA_CONTEXT_BYTES
        assert planned_reserve_bytes(profile, "cpu") == 0


def test_the_cpu_says_nothing_of_a_card(tmp_path: Path) -> None:
    settings = read_settings(profile="gpu-8gb", device="cpu", budget="0.7GB", data=tmp_path)
    with closing(build(settings)) as program:
        assert program.memory.budget_bytes == 700_000_000


def test_a_turn_makes_room_that_another_program_took_meanwhile() -> None:
    device = Simulated(100)
    memory = manager(100, device=device)
    use(memory, A, B)
    device.others_bytes = 10
    with leased(memory, A, workspace=10) as lease:
        assert lease.evicted == ("b",)
        assert held(memory) == {"a"}


def test_a_turn_that_other_programs_leave_no_room_is_told_so() -> None:
    device = Simulated(100)
    memory = manager(100, device=device)
    use(memory, A)
    device.others_bytes = 35
    with pytest.raises(DeviceFullError, match="Close other programs"), leased(memory, A, 10):
        pass


def test_a_turn_without_a_workspace_needs_no_room() -> None:
    device = Simulated(100)
    memory = manager(100, device=device)
    small = card("small", size=10)
    use(memory, small)
    device.others_bytes = 100
    use(memory, small)
