"""Where the engine of each family really computes on a machine with a graphics card.

Most compute on the device that they are given. Some have no engine for a card, and some only where
their library was built for it: llama.cpp from the package index is not, and CTranslate2 opens a
library of CUDA 12 that PyTorch's newer packages do not bring. What computes on the CPU lies in host
memory, and nothing of it is to be booked on the card.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from multimodal.backends.engine_options import parse_options
from multimodal.backends.llama_cpp.options import LlamaCppOptions
from multimodal.catalog.cards import ModelCard
from multimodal.memory.host import is_cpu_only

CUBLAS = ("cublasLt64_12.dll", "cublas64_12.dll")
if sys.platform != "win32":
    CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")
"""What CTranslate2 4.8 opens at its first computation on a card, behind what that needs itself."""


def runs_on_cpu(card: ModelCard) -> bool:
    """Whether the engine of `card` computes on the CPU although there is a graphics card: because
    the card says so, or because its family cannot do otherwise here."""
    if is_cpu_only(card):
        return True
    uses_card = ENGINES.get(card.family)
    return uses_card is not None and not uses_card(card)


def has_gpu(devices: Iterable[Mapping[str, Any]]) -> bool:
    """Whether there is a graphics card among the devices that llama.cpp was built for and sees."""
    return any(
        getattr(device["type"], "name", "").endswith(("_GPU", "_IGPU")) for device in devices
    )


def can_load_libraries(names: Sequence[str], folders: Iterable[Path] = ()) -> bool:
    """Whether the system finds these libraries, or they lie together in one of `folders`; they stay
    open, so that whoever asks for one by its name gets it."""
    places = [Path(), *folders]
    return any(all(_opens(str(place / name)) for name in names) for place in places)


def _opens(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _llama_cpp(card: ModelCard) -> bool:
    return parse_options(card, LlamaCppOptions).gpu_layers > 0 and _llama_cpp_offloads()


@cache
def _llama_cpp_offloads() -> bool:
    try:
        import xllamacpp
    except ImportError:
        return False
    return has_gpu(xllamacpp.get_device_info())


@cache
def _ctranslate2_computes() -> bool:
    try:
        import ctranslate2
    except ImportError:
        return False
    return ctranslate2.get_cuda_device_count() > 0 and can_load_libraries(CUBLAS, _cublas_folders())


def _cublas_folders() -> list[Path]:
    """Where NVIDIA's package of cuBLAS for CUDA 12 keeps it."""
    try:
        found = importlib.util.find_spec("nvidia.cublas")
    except ModuleNotFoundError:
        return []
    places = (found.submodule_search_locations or []) if found is not None else []
    return [Path(place) / ("bin" if sys.platform == "win32" else "lib") for place in places]


ENGINES: Mapping[str, Callable[[ModelCard], bool]] = {
    **dict.fromkeys(
        ("piper", "kokoro", "image_describer", "onnx_classifier", "onnx_text", "onnx_whisper"),
        lambda card: False,
    ),
    "llama_cpp": _llama_cpp,
    "faster_whisper": lambda card: _ctranslate2_computes(),
}
"""By family, whether its engine uses a graphics card; every other one does."""
