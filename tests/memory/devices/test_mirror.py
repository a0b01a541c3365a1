"""Mirrors of real modules, with the CPU standing in for the device: nothing is copied back, and
what comes back is the same bit for bit."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
import transformers
from small_shapes import TEXT
from torch import nn

from multimodal.memory.devices.host_slabs import PAGE, HostMemoryPool
from multimodal.memory.devices.mirror import HostMirror
from multimodal.memory.devices.storages import slots, storage_bytes

CPU = torch.device("cpu")


def llama() -> nn.Module:
    config = transformers.AutoConfig.for_model("llama", **TEXT, tie_word_embeddings=True)
    return transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()


def quantized(kind: str) -> nn.Module:
    """Two layers as bitsandbytes keeps them, with a tied one and a buffer."""
    made: Any
    if kind == "int8":
        made = [bnb.nn.Linear8bitLt(128, 128, bias=False, has_fp16_weights=False) for _ in range(2)]
    else:
        made = [
            bnb.nn.Linear4bit(128, 128, quant_type="nf4", compress_statistics=kind == "nf4-double")
            for _ in range(2)
        ]
    module = nn.Sequential(*made).to(CPU)
    module.register_buffer("scale", torch.ones(3))
    return module


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.arange(20)[None]).logits
    return found


def contents(module: nn.Module) -> list[torch.Tensor]:
    return [slot.tensor.clone() for slot in slots(module)]


def storages(module: nn.Module) -> dict[int, torch.UntypedStorage]:
    found = (slot.tensor.untyped_storage() for slot in slots(module))
    return {storage.data_ptr(): storage for storage in found}


def test_output_after_fifty_evictions_is_bit_identical() -> None:
    model = llama()
    before = logits(model)
    mirror = HostMirror(model, CPU)
    for _ in range(50):
        mirror.evict()
        mirror.restore()
    assert torch.equal(logits(model), before)
    assert model.lm_head.weight is model.model.embed_tokens.weight, "what is tied stays tied"


@pytest.mark.parametrize("kind", ["nf4", "nf4-double", "int8"])
def test_the_quantization_state_moves_along(kind: str) -> None:
    module = quantized(kind)
    if kind == "int8":
        module(torch.randn(2, 128, dtype=torch.float16))  # scales move to the layer's state
    before, size = contents(module), storage_bytes(module)
    mirror = HostMirror(module, CPU)
    original = set(storages(module))
    mirror.evict()
    assert size <= mirror.size_bytes <= size + 512 * len(before)
    assert not original & set(storages(module)), "every storage of the device was given up"
    assert all(torch.equal(a, b) for a, b in zip(before, contents(module), strict=True))
    mirror.restore()
    assert all(torch.equal(a, b) for a, b in zip(before, contents(module), strict=True))


def test_scales_that_move_between_attributes_are_found_again() -> None:
    """An 8-bit layer hands its weight over to its state in its first forward."""
    module, sound = quantized("int8"), torch.randn(2, 128, dtype=torch.float16)
    mirror = HostMirror(module, CPU)
    mirror.evict()
    mirror.restore()
    before = module(sound)
    known = set(storages(module))
    mirror.evict()
    assert not known & set(storages(module))
    mirror.restore()
    assert torch.equal(module(sound), before)


@pytest.mark.parametrize(
    "make", [llama, lambda: quantized("nf4-double"), lambda: quantized("int8")]
)
def test_evicting_copies_nothing_and_frees_the_device(make: Any) -> None:
    model = make()
    mirror = HostMirror(model, CPU)
    mirror.evict()
    host = storages(model)
    for _ in range(3):
        mirror.restore()
        on_device = storages(model)
        assert not on_device.keys() & host.keys(), "every tensor is on the device again"
        slabs = [weakref.ref(slab) for slab in on_device.values()]
        del on_device
        mirror.evict()
        assert storages(model).keys() == host.keys(), "the module holds the mirror itself"
    gc.collect()
    assert slabs
    assert not any(slab() is not None for slab in slabs)


def test_each_layer_has_a_slab_of_its_own_in_the_order_of_running() -> None:
    model = llama()
    mirror = HostMirror(model, CPU)
    mirror.evict()
    assert mirror.layers == ["", "model.layers.0", "model.layers.1", "model.layers.2"]
    assert len(storages(model)) == len(mirror.layers)


def test_views_and_odd_strides_come_back_as_they_were() -> None:
    module = nn.Module()
    base = torch.arange(24, dtype=torch.float32)
    module.register_buffer("whole", base)
    module.register_buffer("turned", base.view(4, 6).t())
    module.register_buffer("tail", base[20:])
    module.register_buffer("empty", torch.empty(0))
    mirror = HostMirror(module, CPU)
    before = contents(module)
    mirror.evict()
    mirror.restore()
    assert all(torch.equal(a, b) for a, b in zip(before, contents(module), strict=True))
    whole, tail = module.whole, module.tail
    assert isinstance(whole, torch.Tensor)
    assert isinstance(tail, torch.Tensor)
    assert whole.untyped_storage().data_ptr() == tail.untyped_storage().data_ptr()
    assert mirror.size_bytes == 512


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_layers_without_room_visit_while_they_run(layers: int) -> None:
    model = llama()
    before = logits(model)
    mirror = HostMirror(model, CPU)
    mirror.evict()
    host = storages(model)
    room = sum([slab.nbytes() for slab in host.values()][: layers + 1])
    mirror.restore(at_most_bytes=room)
    here = {at: slab for at, slab in storages(model).items() if at not in host}
    assert sum(slab.nbytes() for slab in here.values()) == room
    for _ in range(2):
        assert torch.equal(logits(model), before)
        absent = [model.get_submodule(f"model.layers.{n}") for n in range(layers, 3)]
        assert all(storages(layer).keys() <= host.keys() for layer in absent), "visitors have left"
    mirror.evict()
    mirror.restore()
    assert not storages(model).keys() & host.keys()
    assert torch.equal(logits(model), before)


def test_a_visitor_leaves_even_where_its_forward_fails() -> None:
    model = llama()
    mirror = HostMirror(model, CPU)
    mirror.evict()
    layer = model.get_submodule("model.layers.1")
    host = storages(layer)
    mirror.restore(at_most_bytes=0)
    with pytest.raises(TypeError):
        layer()
    assert storages(layer).keys() == host.keys()


def test_host_memory_is_taken_when_a_model_leaves_for_the_first_time() -> None:
    module = quantized("nf4-double")
    mirror = HostMirror(module, CPU)
    missing = mirror.missing_bytes()
    assert missing > 0
    assert mirror.size_bytes == 0
    before = contents(module)
    mirror.evict()
    assert (mirror.size_bytes, mirror.missing_bytes()) == (missing, 0)
    mirror.release()
    assert mirror.size_bytes == missing, "a module that is away needs its mirror"
    mirror.restore()
    mirror.release()
    assert (mirror.size_bytes, mirror.missing_bytes()) == (0, missing)
    for _ in range(2):
        mirror.evict()
        mirror.restore()
    assert all(torch.equal(a, b) for a, b in zip(before, contents(module), strict=True))


class _Filling(HostMirror):
    """A mirror whose device has room for two slabs at a time."""

    made: list[weakref.ref[Any]]

    def _new_slab(self, size_bytes: int) -> torch.Tensor:
        if sum(slab() is not None for slab in self.made) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        slab = super()._new_slab(size_bytes)
        self.made.append(weakref.ref(slab.untyped_storage()))
        return slab


def test_what_did_not_fit_is_gone_while_the_error_is_handled() -> None:
    """Else the next try would find the device as full as this one."""
    model = llama()
    before = logits(model)
    mirror = _Filling(model, CPU)
    mirror.made = []
    mirror.evict()
    with pytest.raises(torch.OutOfMemoryError) as told:
        mirror.restore()
    assert told.tb is not None
    assert len(mirror.made) == 2
    assert [slab() for slab in mirror.made] == [None, None]
    mirror.restore(at_most_bytes=0)
    assert torch.equal(logits(model), before)


# ------------------------------------------------------------ locked pages


class Driver:
    """Locks so many bytes of host memory and no more."""

    def __init__(self, most_bytes: int) -> None:
        self.left = most_bytes
        self.locked: dict[int, int] = {}

    def lock(self, address: int, size_bytes: int) -> bool:
        if size_bytes > self.left:
            return False
        self.left -= size_bytes
        self.locked[address] = size_bytes
        return True

    def unlock(self, address: int) -> None:
        self.left += self.locked.pop(address)


def test_pages_are_locked_to_the_page_and_given_back() -> None:
    sizes, driver = [1000, 0, 3 * PAGE, PAGE + 1], Driver(100 * PAGE)
    slabs = HostMemoryPool(sizes, driver)
    assert slabs.is_locked
    assert [tensor.nbytes for tensor in slabs.tensors] == sizes
    assert sorted(driver.locked.values()) == [PAGE, 2 * PAGE, 3 * PAGE]
    assert all(address % PAGE == 0 for address in driver.locked)
    assert list(driver.locked) == [t.data_ptr() for t in slabs.tensors if t.nbytes]
    slabs.close()
    assert (driver.locked, driver.left) == ({}, 100 * PAGE)
    forgotten = HostMemoryPool(sizes, driver)
    del forgotten
    gc.collect()
    assert driver.locked == {}, "nobody else could lock these pages otherwise"


def test_what_the_driver_does_not_lock_is_copied_all_the_same() -> None:
    model = llama()
    before = logits(model)
    refusing = Driver(64 * PAGE)
    mirror = HostMirror(model, CPU, refusing)
    for _ in range(2):
        mirror.evict()
        assert refusing.locked
        assert not mirror.is_pinned
        mirror.restore()
        assert torch.equal(logits(model), before)
    generous = Driver(1 << 30)
    other = HostMirror(model, CPU, generous)
    other.evict()
    assert other.is_pinned
    other.restore()
    other.release()
    assert generous.locked == {}
    assert torch.equal(logits(model), before)
