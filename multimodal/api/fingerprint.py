"""`system_fingerprint`: what an answer depends on beside its request.

Two answers with one fingerprint, one request and one seed are the same text if the engine computes
each conversation by itself, as llama.cpp does here: every slot has its own cache, so what others
ask at the same time changes no logit (docs/decisions/0003-slots.md). Where a fingerprint differs,
nothing is promised.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from multimodal.backends.base import cores
from multimodal.catalog.cards import ModelCard

ENGINES = ("xllamacpp", "torch", "transformers", "bitsandbytes", "diffusers", "numpy")
"""Packages that compute an answer's tokens, or load the weights they are computed from."""


def fingerprint(card: ModelCard) -> str:
    """Of a card (weights, quantization, slots and engine options are in it), the versions of the
    engines, the processor and the number of threads: "fp_" and ten hexadecimal digits."""
    known = "\n".join((card.model_dump_json(), *_versions(), platform.machine(), str(cores())))
    return f"fp_{hashlib.sha256(known.encode()).hexdigest()[:10]}"


@cache
def _versions() -> tuple[str, ...]:
    return tuple(f"{name} {_version(name)}" for name in ENGINES)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
