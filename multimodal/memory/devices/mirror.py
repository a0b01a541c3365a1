"""A model's weights in page-locked host memory, so that leaving the device costs nothing.

Weights never change while a model is used. The mirror is filled once, when the model leaves for the
first time: one that always stays takes no host memory. Evicting lets every place that held a device
tensor hold its twin in the mirror, and drops the device's storages: nothing is copied back, from
the second time on nothing at all. Restoring copies slab by slab, in the order in which
layers run, on a stream of its own; a layer waits for its own slab only, so that the first forward
overlaps the copy.

A mirrored 4-bit layer must not run on the CPU: there bitsandbytes repacks weights in place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multimodal.memory.devices.host_slabs import HostMemoryPool, PageLocks
from multimodal.memory.devices.storages import slots

ALIGNMENT = 512


@dataclass(frozen=True, slots=True)
class _Block:
    """Where one storage lies: which slab, from which byte, how many."""

    slab: int
    start: int
    size: int


class HostMirror:
    """The mirror of one module that is on `device`. Not thread-safe: its lease is.

    Without `locks` host memory is pageable and copies are slower. On a CPU "device", as in tests,
    everything works alike with no stream.
    """

    def __init__(
        self, module: nn.Module, device: torch.device, locks: PageLocks | None = None
    ) -> None:
        self._module = module
        self._device = device
        self._locks = locks
        self._stream = _stream(device)
        self.layers: list[str] = []
        """In the order in which they are copied; first "" for what lies outside all of them."""
        self._places: list[tuple[int, _Block]] = []
        """By address, where each block now is."""
        self._host: HostMemoryPool | None = None
        self._on_device: list[torch.Tensor] = []
        self._layer_hooks: list[RemovableHandle] = []
        self._copied: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        """Before the first and behind the last copy of the last restore."""

    @property
    def size_bytes(self) -> int:
        """What the mirror takes of host memory; 0 until it is filled."""
        return 0 if self._host is None else self._host.size_bytes

    @property
    def is_pinned(self) -> bool:
        """Whether it is filled and all of it is read at the speed of the bus."""
        return self._host is not None and self._host.is_locked

    def missing_bytes(self) -> int:
        """What filling it will take of host memory; 0 once it is filled."""
        return sum(self._laid_out()) if self._host is None else 0

    def evict(self) -> None:
        """Let the module hold its mirror and give up the device's memory; copies nothing once the
        mirror is filled. Raises OSError where the host has no memory for it, and the module
        stays."""
        self._wait()
        host = self._filled()
        for hook in self._layer_hooks:
            hook.remove()
        self._layer_hooks.clear()
        self._move(host.tensors)
        self._on_device = []

    def release(self) -> None:
        """Give up the host memory of a module that is on the device as a whole; the next eviction
        fills it again."""
        if self._host is not None and self._on_device and not self._layer_hooks:
            self._wait()
            self._host.close()
            self._host = None

    def restore(self, at_most_bytes: int | None = None) -> None:
        """Bring the module back. Returns before the copies end; layers wait for their own.

        Layers beyond `at_most_bytes` stay in the mirror: each is copied in for its own forward and
        dropped after it. That is slow, and it runs.
        """
        tensors = self._filled().tensors
        made = self._made(tensors, at_most_bytes)
        staying = [
            (layer, slab, host)
            for layer, slab, host in zip(self.layers, made, tensors, strict=True)
            if slab is not host
        ]
        with self._timed_copies():
            for layer, slab, host in staying:
                self._copy(layer, slab, host)
        self._move(made)
        self._on_device = [slab for _, slab, _ in staying]
        for layer, slab, host in zip(self.layers, made, tensors, strict=True):
            if slab is host:
                self._stream_layer(self._module.get_submodule(layer), host)

    def arrival_s(self, since: HostMirror) -> float:
        """Wait until the last restore has arrived: the seconds from the first copy of `since`; 0
        where restoring had waited already."""
        if self._copied is None or since._copied is None:
            return 0.0
        self._copied[1].synchronize()
        return float(since._copied[0].elapsed_time(self._copied[1])) / 1000

    # ------------------------------------------------------------ laying out

    def _laid_out(self) -> list[int]:
        """Give every storage a place, and return the bytes of each slab: one a layer, and first
        one for what lies outside all layers."""
        sizes, found = [0], dict[int, _Block]()
        self.layers = [""]
        for slot in slots(self._module):
            storage = slot.tensor.untyped_storage()
            if not storage.nbytes() or storage.data_ptr() in found:
                continue
            layer = _layer_of(slot.layer)
            if layer not in self.layers:
                self.layers.append(layer)
                sizes.append(0)
            slab = self.layers.index(layer)
            found[storage.data_ptr()] = _Block(slab, sizes[slab], storage.nbytes())
            sizes[slab] += -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        self._places = sorted(found.items())
        return sizes

    def _filled(self) -> HostMemoryPool:
        """The mirror, with a copy of every storage."""
        if self._host is None:
            host = HostMemoryPool(self._laid_out(), self._locks)
            self._fill(host.tensors)
            self._host = host
        return self._host

    def _fill(self, tensors: list[torch.Tensor]) -> None:
        left = dict(self._places)
        for slot in slots(self._module):
            storage = slot.tensor.untyped_storage()
            if (block := left.pop(storage.data_ptr(), None)) is not None:
                whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
                tensors[block.slab][block.start : block.start + block.size].copy_(whole)

    # ------------------------------------------------------------ moving

    def _move(self, to: list[torch.Tensor]) -> None:
        """Rebind every place to its twin in the slabs `to`.

        Places are looked up anew: bitsandbytes moves tensors between attributes as it runs.
        """
        for slot in list(slots(self._module)):
            tensor = slot.tensor
            twin = self._twin(tensor, to)
            # What was made since, such as a bias that was cast, is no weight of the checkpoint.
            slot.rebind(tensor.to(to[0].device) if twin is None else twin)
        self._places = sorted(
            (to[block.slab].data_ptr() + block.start, block) for _, block in self._places
        )

    def _twin(self, tensor: torch.Tensor, to: list[torch.Tensor]) -> torch.Tensor | None:
        """The view of the slabs `to` that holds what `tensor` holds; None for a tensor that is not
        of this mirror."""
        index = bisect_right(self._places, tensor.data_ptr(), key=lambda place: place[0]) - 1
        if index < 0 or not tensor.numel():
            return None
        address, block = self._places[index]
        inside = tensor.data_ptr() - address
        if inside >= block.size:
            return None
        return _view(tensor, to[block.slab], block.start + inside)

    def _made(self, tensors: list[torch.Tensor], at_most_bytes: int | None) -> list[torch.Tensor]:
        """A slab of the device for every layer that may stay, the mirror's own for the others."""
        made, taken = list[torch.Tensor](), 0
        try:
            for index, host in enumerate(tensors):
                stays = not index or at_most_bytes is None or taken + host.nbytes <= at_most_bytes
                made.append(self._new_slab(host.nbytes) if stays else host)
                taken += host.nbytes if stays else 0
        except RuntimeError:
            made.clear()  # the error holds this frame as long as somebody handles it
            raise
        return made

    def _new_slab(self, size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, device=self._device)

    @contextmanager
    def _timed_copies(self) -> Iterator[None]:
        if (stream := self._stream) is None:
            yield
            return
        begun, ended = _timer(), _timer()
        begun.record(stream)
        yield
        ended.record(stream)
        self._copied = begun, ended

    def _copy(self, layer: str, slab: torch.Tensor, host: torch.Tensor) -> None:
        if (stream := self._stream) is None:
            slab.copy_(host)
            return
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            slab.copy_(host, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(stream)
        slab.record_stream(stream)
        if layer:
            _wait_before(self._module.get_submodule(layer), copied)
        else:  # used by whoever asks for it, so everything after this waits
            torch.cuda.current_stream(self._device).wait_event(copied)

    def _stream_layer(self, layer: nn.Module, host: torch.Tensor) -> None:
        """Let `layer` be on the device only while it runs."""
        resident_slabs: list[torch.Tensor] = []

        def arrive(_module: nn.Module, _inputs: Any) -> None:
            slab = self._new_slab(host.nbytes)
            slab.copy_(host, non_blocking=True)
            _shift(layer, host, slab)
            resident_slabs.append(slab)

        def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            for slab in resident_slabs:
                _shift(layer, slab, host)
            resident_slabs.clear()

        self._layer_hooks.append(layer.register_forward_pre_hook(arrive))
        self._layer_hooks.append(layer.register_forward_hook(leave, always_call=True))

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
            torch.cuda.current_stream(self._device).synchronize()


def _view(tensor: torch.Tensor, slab: torch.Tensor, start: int) -> torch.Tensor:
    """A tensor of the same shape whose first element lies at that byte of `slab`."""
    offset = start // tensor.element_size()
    return torch.as_strided(slab.view(tensor.dtype), tensor.size(), tensor.stride(), offset)


def _shift(module: nn.Module, source: torch.Tensor, target: torch.Tensor) -> None:
    """Let what `module` holds in the slab `source` be its twin in the slab `target`."""
    for slot in list(slots(module)):
        inside = slot.tensor.data_ptr() - source.data_ptr()
        if slot.tensor.numel() and 0 <= inside < source.nbytes:
            slot.rebind(_view(slot.tensor, target, inside))


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _timer() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _layer_of(path: str) -> str:
    """The layer that a module belongs to: its path up to the first number; "" outside all."""
    steps = path.split(".")
    for index, step in enumerate(steps):
        if step.isdigit():
            return ".".join(steps[: index + 1])
    return ""


def _wait_before(layer: nn.Module, copied: torch.cuda.Event) -> None:
    """Let the next forward of `layer`, and no later one, wait for the copy."""

    def wait(_module: nn.Module, _inputs: Any) -> None:
        torch.cuda.current_stream().wait_event(copied)
        handle.remove()

    handle = layer.register_forward_pre_hook(wait)
