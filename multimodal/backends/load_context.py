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
    being done. `saves`: whether this load may save one, or only read it. `file_bytes`: the most
    that a file of weights holds, and so what host memory holds of it while it is written."""

    quantized: QuantizedCheckpoints
    report: Callable[[str], None]
    saves: bool = True
    file_bytes: int = 1_000_000_000


_context: ContextVar[LoadContext | None] = ContextVar("load_context", default=None)


@contextmanager
def use_load_context(context: LoadContext) -> Iterator[None]:
    """Let what is loaded in this block use `context`."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def current_load_context() -> LoadContext | None:
    """That of the block around; None where there is none, as for a library that only loads."""
    return _context.get()
