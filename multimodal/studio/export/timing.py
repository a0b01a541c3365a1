"""How long something takes that is computed again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

TRIES = 3


def fastest(compute: Callable[[], object]) -> float:
    """Seconds of the fastest of a few tries: what else the machine does makes the others slower."""
    seconds: list[float] = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
