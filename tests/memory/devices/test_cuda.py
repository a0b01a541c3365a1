"""The CUDA device as far as it can be tried without a card: what it refuses, and how the manager
uses a device that measures. `benchmarks/memory` tries the rest on a card."""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import wait_until
from fakes import FakeBackend, FakeSource, card
from small_memory import A, C, CardOnCpu, Forgetful, Layers, leased, manager, use
from torch import nn

from multimodal.backends.base import load
from multimodal.backends.registry import FAMILIES, Family
from multimodal.catalog.cards import Catalog
from multimodal.errors import BackendError, DeviceFullError, SettingsError
from multimodal.memory.devices import cuda
from multimodal.memory.devices.cuda import PLANS, Cuda, MovableModel, limit_convolution_plans
from multimodal.memory.devices.kernels import use_kernels
from multimodal.memory.devices.mirror import HostMirror
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.devices.storages import storage_bytes
from multimodal.memory.peaks import Peaks

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_without_a_card_the_reason_is_told() -> None:
    with pytest.raises(SettingsError, match=r"PyTorch .* (CPU only|finds no card)"):
        Cuda()


def test_out_of_memory_while_loading_is_no_broken_model(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "multimodal.backends.full_device"
    module: Any = type(json)(name)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    module.load = full
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(FAMILIES, "full_device", Family(name, ""))
    wanted = catalog.card("whisper-base").model_copy(update={"family": "full_device"})
    with pytest.raises(DeviceFullError, match="out of memory"):
        load(wanted, tmp_path, "cuda")


@pytest.mark.parametrize("partly", [False, True])
def test_a_model_of_several_modules_comes_back_whole_or_not_at_all(
    partly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, model = CardOnCpu(1 << 20), Layers(nn.Linear(8, 8), nn.Linear(8, 8))
    device.free_bytes = lambda: 100_000  # type: ignore[method-assign]
    device.finish_load("a", model)
    device.park("a", model)
    parked = [layer.weight.data_ptr() for layer in model.layers]
    restore, restored = HostMirror.restore, list[HostMirror]()

    def restore_first(mirror: HostMirror, at_most_bytes: int | None = None) -> None:
        if restored:
            raise torch.OutOfMemoryError("CUDA out of memory")
        restore(mirror, at_most_bytes)
        restored.append(mirror)
        assert model.layers[0].weight.data_ptr() != parked[0]

    monkeypatch.setattr(HostMirror, "restore", restore_first)
    with pytest.raises(DeviceFullError, match="RTX"):
        (device.restore_partly if partly else device.restore)("a", model)
    assert restored
    assert [layer.weight.data_ptr() for layer in model.layers] == parked, "it has left again"


@pytest.mark.parametrize(("given", "kept"), [(None, "1000"), ("50", "50")])
def test_plans_of_convolutions_are_bounded_unless_the_person_says_otherwise(
    given: str | None, kept: str
) -> None:
    name, _ = PLANS
    environment = {} if given is None else {name: given}
    limit_convolution_plans(environment)
    assert environment == {name: kept}


# ------------------------------------------------------------ mirrors, through the manager


class Linear(FakeBackend):
    """A model with a real module."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.linear = nn.Linear(8, 8)

    def modules(self) -> list[nn.Module]:
        return [self.linear]


class Modules(FakeSource):
    def load(self, card: Any, files: Path, engine: str) -> FakeBackend:
        super().load(card, files, engine)
        return Linear(card, self)


class Mirroring(Simulated):
    """A simulated card that mirrors real modules as `Cuda` does, with the CPU as the card."""

    partly = False

    def __init__(self) -> None:
        super().__init__(1000, host_bytes=10_000)
        self.mirrors: dict[str, HostMirror] = {}

    def finish_load(self, card: str, model: object) -> int:
        assert isinstance(model, MovableModel)
        (module,) = model.modules()
        self.mirrors[card] = HostMirror(module, CPU)
        return storage_bytes(module)

    def park(self, card: str, model: object) -> int:
        self.mirrors[card].evict()
        return self.mirrors[card].size_bytes

    def restore(self, card: str, model: object) -> None:
        super().restore(card, model)
        self.mirrors[card].restore()

    def restore_partly(self, card: str, model: object) -> bool:
        self.mirrors[card].restore(at_most_bytes=0)
        return self.partly

    def drop_mirror(self, card: str) -> None:
        self.mirrors.pop(card)


def test_a_model_with_modules_is_mirrored_evicted_and_restored() -> None:
    device = Mirroring()
    memory = manager(400, Modules(), device)
    first, second = card("first", size=280), card("second", size=290)
    with leased(memory, first) as lease:
        model = lease.backend
        assert isinstance(model, Linear)
        before = model.linear.weight.clone()
    (held,) = memory.snapshot().held
    assert held.size_bytes == memory.snapshot().decisions[-1].true_bytes == 8 * 9 * 4
    use(memory, second)
    with leased(memory, first) as lease:
        assert lease.backend is model
        assert torch.equal(model.linear.weight, before)
    memory.close()
    assert device.mirrors == {}


def test_the_last_resort_brings_back_a_part() -> None:
    device = Mirroring()
    memory = manager(400, Modules(), device)
    first, second = card("first", size=300), card("second", size=290)
    use(memory, first, second)
    device.fail_next, device.partly = 9, True
    with leased(memory, first) as lease:
        assert lease.notices[-1].startswith("Only part of it fits")
    assert memory.snapshot().decisions[-1].error is None
    device.fail_next = 0
    with leased(memory, first) as lease:
        assert lease.notices == (), "all of it was tried again, since others may have left"
    assert memory.snapshot().decisions[-1].how == "restored"
    use(memory, first)
    assert len(memory.snapshot().decisions) == 4, "what is there as a whole stays"


class Settling(Simulated):
    """A card whose copies go on after a restore has returned."""

    def wait_for_copies(self, card: str) -> float | None:
        return 12.5


def test_a_restore_takes_until_its_last_copy_has_arrived() -> None:
    memory = manager(100, device=Settling(100, host_bytes=1000))
    use(memory, A, C, A)
    wait_until(lambda: memory.snapshot().decisions[-1].seconds == 12.5, 60)
    assert [d.how for d in memory.snapshot().decisions] == ["loaded", "loaded", "restored"]
    assert memory.snapshot().decisions[0].seconds != 12.5


# ------------------------------------------------------------ room for mirrors


def sized(kilobytes: int) -> Layers:
    return Layers(nn.Linear(256, kilobytes, bias=False))


def test_models_on_the_card_give_up_their_mirrors_for_one_that_leaves() -> None:
    device = CardOnCpu(10 * 1024)
    models = {name: sized(4) for name in "abc"}
    before = {name: model.layers[0].weight.clone() for name, model in models.items()}
    for name, model in models.items():
        assert device.finish_load(name, model) == 4 * 1024
    assert [device.park(name, models[name]) for name in "ab"] == [4096, 4096]
    assert device.park("c", models["c"]) == 0, "both others are away and need theirs"
    device.restore("a", models["a"])
    assert device.park("c", models["c"]) == 4096, "that of the model on the card gave way"
    assert device.park("a", models["a"]) == 0
    device.drop_mirror("b")
    assert device.park("a", models["a"]) == 4096
    device.restore("a", models["a"])
    device.restore("c", models["c"])
    assert all(torch.equal(models[name].layers[0].weight, before[name]) for name in "ac")


def test_a_reload_is_priced_by_where_the_model_would_come_from() -> None:
    device = CardOnCpu(10 * 1024)
    model = sized(8)
    device.finish_load("with modules", model)
    assert device.reload_s("with modules", 8 * 1024, 7.0) == pytest.approx(8 * 1024 / 10e9)
    assert device.reload_s("of another engine", 8 * 1024, 7.0) == 7.0
    device.most_host_bytes = 1024
    assert device.reload_s("with modules", 8 * 1024, 7.0) == 7.0


def test_nothing_stays_of_a_model_that_could_not_be_loaded() -> None:
    device, source = Forgetful(), FakeSource()
    memory = manager(100, source, device)
    source.fail = [BackendError("half of it is damaged")]
    with pytest.raises(BackendError, match="damaged"):
        use(memory, A)
    assert device.forgotten == ["a"]
    use(memory, A, C)
    device.fail_next = 9
    with pytest.raises(DeviceFullError):
        use(memory, A)
    assert device.forgotten == ["a"], "what could not be restored stays parked"


# ------------------------------------------------------------ peaks


def test_a_peak_that_was_seen_raises_the_next_reservation(tmp_path: Path) -> None:
    path, device = tmp_path / "peaks.json", Simulated(1000)
    memory = manager(500, device=device, peaks=Peaks(path))
    for taken, expected in ((20, 0), (10, 22)):
        with memory.lease(A, threading.Event()) as lease:
            assert lease.size_bytes == expected
            list(lease.wait())
            device.take("turn", taken // 2)
            device.take("turn", taken - taken // 2)
        device.give_back("turn")
    assert json.loads(path.read_text()) == {"a": 20}
    assert Peaks(path).workspace("a", 5, 100) == 22
    assert Peaks(path).workspace("a", 50, 100) == 50, "an estimate is never lowered"
    assert Peaks(path).workspace("a", 5, 20) == 20, "nor is there more than there is room for"


def test_turns_that_overlap_teach_nothing() -> None:
    device, peaks = Simulated(1000), Peaks()
    memory = manager(500, device=device, peaks=peaks)
    with leased(memory, A), leased(memory, card("other", size=10)):
        device.take("turn", 20)
    assert [peaks.workspace(name, 0, 100) for name in ("a", "other")] == [0, 0]


def test_a_turn_that_found_the_device_full_teaches_what_it_took_at_least() -> None:
    """Else the next one would be let in by the same estimate, and fail the same way."""
    device, peaks = Simulated(1000), Peaks()
    memory = manager(500, device=device, peaks=peaks)
    with leased(memory, A) as lease:
        device.take("turn", 70)
        assert memory.recover_from_oom(lease) is not None
    assert peaks.workspace("a", 10, 1000) == 77


@pytest.mark.parametrize("damage", ["{", '{"a": "much"}', "[]"])
def test_a_damaged_file_of_peaks_is_started_anew(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "peaks.json"
    path.write_text(damage)
    peaks = Peaks(path)
    assert peaks.workspace("a", 7, 100) == 7
    peaks.learn("a", 10)
    assert Peaks(path).workspace("a", 7, 100) == 11


def test_peaks_that_cannot_be_kept_stop_nobody(tmp_path: Path) -> None:
    peaks = Peaks(tmp_path / "gone" / "peaks.json")
    peaks.learn("a", 10)
    assert peaks.workspace("a", 0, 100) == 11
    use(manager(), A)


def test_kernels_are_loaded_once_before_the_first_model_comes(
    caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried on the CPU, which has them all; a card that is short of room would end the process."""
    device, tried = CardOnCpu(0), list[torch.device]()
    device.free_bytes = lambda: 100  # type: ignore[method-assign]

    def note(on: torch.device) -> None:
        tried.append(on)
        use_kernels(on)

    monkeypatch.setattr(cuda, "use_kernels", note)
    with caplog.at_level(logging.WARNING):
        device.begin_load("a", 50)
        device.begin_load("b", 50)
    assert tried == [CPU]
    assert "could not be tried" not in caplog.text


def test_a_kernel_that_cannot_be_tried_keeps_no_model_out(caplog: Any) -> None:
    use_kernels(torch.device("meta"))
    assert caplog.text.count("a kernel could not be tried") >= 1
