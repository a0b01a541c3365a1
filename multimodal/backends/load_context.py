"""What a load may use beside the three arguments of every family's `load`.

Those are the seam that engines of other packages implement too; what only the reading of
checkpoints needs, deep inside some families, is set around the call. It holds for the thread that
loads, until the block ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from multimodal.weights.quantized import QuantizedCheckpoints


@dataclass(frozen=True)
class LoadContext:
    """`quantized`: where models are kept as they were quantized. `report` tells who waits what is
    being done. `saves`: whether this load may save one, or only read it."""

    quantized: QuantizedCheckpoints
    report: Callable[[str], None]
    saves: bool = True


_context: ContextVar[LoadContext | None] = ContextVar("load_context", default=None)


@contextmanager
def load_context(context: LoadContext) -> Iterator[None]:
    """Let what is loaded in this block use `context`."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def current_load_context() -> LoadContext | None:
    """That of the block around; None where there is none, as for a library that only loads."""
    return _context.get()
