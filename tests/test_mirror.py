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
from torch import nn

from multimodal.memory.mirror import Mirror
from multimodal.memory.storages import slots, true_bytes

CPU = torch.device("cpu")


def llama() -> nn.Module:
    config = transformers.AutoConfig.for_model(
        "llama",
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
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


def contents(module: nn.Module) -> list[torch.Tensor]:
    return [slot.tensor.clone() for slot in slots(module)]


def storages(module: nn.Module) -> dict[int, torch.UntypedStorage]:
    found = (slot.tensor.untyped_storage() for slot in slots(module))
    return {storage.data_ptr(): storage for storage in found}


def test_output_after_fifty_evictions_is_bit_identical() -> None:
    model, ids = llama(), torch.arange(20)[None]
    with torch.no_grad():
        before = model(ids).logits
    mirror = Mirror(model, CPU, pin=False)
    for _ in range(50):
        mirror.evict()
        mirror.restore()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    assert model.lm_head.weight is model.model.embed_tokens.weight, "what is tied stays tied"


@pytest.mark.parametrize("kind", ["nf4", "nf4-double", "int8"])
def test_the_quantization_state_moves_along(kind: str) -> None:
    module = quantized(kind)
    if kind == "int8":
        module(torch.randn(2, 128, dtype=torch.float16))  # scales move to the layer's state
    before, size = contents(module), true_bytes(module)
    mirror = Mirror(module, CPU, pin=False)
    assert size <= mirror.size_bytes <= size + 512 * len(before)
    original = set(storages(module))
    mirror.evict()
    assert not original & set(storages(module)), "every storage of the device was given up"
    assert all(torch.equal(a, b) for a, b in zip(before, contents(module), strict=True))
    mirror.restore()
    assert all(torch.equal(a, b) for a, b in zip(before, contents(module), strict=True))


def test_scales_that_move_between_attributes_are_found_again() -> None:
    """An 8-bit layer hands its weight over to its state in its first forward."""
    module, sound = quantized("int8"), torch.randn(2, 128, dtype=torch.float16)
    mirror = Mirror(module, CPU, pin=False)
    mirror.evict()
    mirror.restore()
    before = module(sound)
    known = set(storages(module))
    mirror.evict()
    assert not known & set(storages(module))
    mirror.restore()
    assert torch.equal(module(sound), before)


def inside(module: nn.Module, slabs: list[torch.Tensor]) -> bool:
    """Whether every tensor of `module` lies in one of `slabs`."""
    spans = [(slab.data_ptr(), slab.data_ptr() + slab.nbytes) for slab in slabs]
    lies = [slot.tensor.data_ptr() for slot in slots(module) if slot.tensor.numel()]
    return all(any(start <= at < end for start, end in spans) for at in lies)


@pytest.mark.parametrize(
    "make", [llama, lambda: quantized("nf4-double"), lambda: quantized("int8")]
)
def test_evicting_copies_nothing_and_frees_the_device(make: Any) -> None:
    model = make()
    mirror = Mirror(model, CPU, pin=False)
    for _ in range(3):
        mirror.evict()
        assert inside(model, mirror._host), "the module holds the mirror itself"
        mirror.restore()
        assert inside(model, mirror._on_device), "every tensor is on the device again"
        slabs = [weakref.ref(slab.untyped_storage()) for slab in mirror._on_device]
    mirror.evict()
    gc.collect()
    assert slabs
    assert not any(slab() is not None for slab in slabs)


def test_each_layer_has_a_slab_of_its_own_in_the_order_of_running() -> None:
    mirror = Mirror(llama(), CPU, pin=False)
    assert mirror._layers == ["", "model.layers.0", "model.layers.1", "model.layers.2"]


def test_views_and_odd_strides_come_back_as_they_were() -> None:
    module = nn.Module()
    base = torch.arange(24, dtype=torch.float32)
    module.register_buffer("whole", base)
    module.register_buffer("turned", base.view(4, 6).t())
    module.register_buffer("tail", base[20:])
    module.register_buffer("empty", torch.empty(0))
    mirror = Mirror(module, CPU, pin=False)
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
    model, ids = llama(), torch.arange(20)[None]
    with torch.no_grad():
        before = model(ids).logits
    mirror = Mirror(model, CPU, pin=False)
    room = sum(slab.nbytes for slab in mirror._host[: layers + 1])
    mirror.evict()
    mirror.restore(at_most_bytes=room)
    assert sum(slab.nbytes for slab in mirror._on_device) == room
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(model(ids).logits, before)
        absent = [model.get_submodule(f"model.layers.{n}") for n in range(layers, 3)]
        assert all(inside(layer, mirror._host) for layer in absent), "visitors have left"
    mirror.evict()
    mirror.restore()
    assert inside(model, mirror._on_device)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)


def test_a_visitor_leaves_even_where_its_forward_fails() -> None:
    model = llama()
    mirror = Mirror(model, CPU, pin=False)
    mirror.evict()
    mirror.restore(at_most_bytes=0)
    layer = model.get_submodule("model.layers.1")
    with pytest.raises(TypeError):
        layer()
    assert inside(layer, mirror._host)
