"""What a piece of work puts on the card, recorded once and repeated: a CUDA graph.

One recording at a time in the whole process, on a stream that nothing else uses: CUDA refuses two,
and what another thread put on that stream would be recorded with it. A recording that fails cannot
be undone: PyTorch's allocator then takes it for one that goes on, so no further one is tried.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

import torch

log = logging.getLogger(__name__)

Work = Callable[[], torch.Tensor]
Replay = Callable[[], torch.Tensor]


class Recorder(Protocol):
    """Where work is recorded."""

    def beside(self, work: Work) -> torch.Tensor:
        """Run `work` where it would be recorded."""

    def record(self, work: Work) -> Replay | None:
        """What repeats `work` over the same memory, giving the same tensor filled anew; None where
        it cannot be recorded. `work` has not run yet."""


class CudaGraphs:
    """The recorder of the card that is in use. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: torch.cuda.Stream | None = None
        self._failed = False

    def beside(self, work: Work) -> torch.Tensor:
        """See `Recorder`."""
        with self._lock:
            stream, mine = self._own_stream(), torch.cuda.current_stream()
            stream.wait_stream(mine)
            with torch.cuda.stream(stream):
                made = work()
            mine.wait_stream(stream)
            made.record_stream(mine)
            return made

    def record(self, work: Work) -> Replay | None:
        """See `Recorder`."""
        with self._lock, torch.cuda.stream(torch.cuda.current_stream()):
            return None if self._failed else self._recorded(work)

    def _recorded(self, work: Work) -> Replay | None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the card meanwhile: another model's weights on their way.
            with torch.cuda.graph(
                graph, stream=self._own_stream(), capture_error_mode="thread_local"
            ):
                made = work()
        except RuntimeError as error:
            self._failed = True
            log.warning(
                "A model's step could not be recorded (%s). Nothing is recorded any more; take "
                "'static_cache' out of its card and start again.",
                error,
            )
            return None

        def replay() -> torch.Tensor:
            graph.replay()
            return made

        return replay

    def _own_stream(self) -> torch.cuda.Stream:
        """Of high priority: those of the usual one are handed out in turns, to others as well."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(priority=-1)  # type: ignore[no-untyped-call]
        return self._stream


CUDA_GRAPHS = CudaGraphs()
