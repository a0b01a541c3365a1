"""The processes of one job whose batches several devices share. `accelerate launch` starts them and
numbers each in its environment; the first, of rank 0, writes the job's files and judges the result.
A job on one device is one process of rank 0.

What one process alone decides leaves the others waiting in a reduction that never ends, so all that
changes which steps are computed is agreed upon here."""

from __future__ import annotations

import os


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of the device on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    return rank() == 0


def any_says(flag: bool) -> bool:
    """Whether any of the processes says so. Each calls it at the same point; before the processes
    know each other, and of one alone, it is what this one says."""
    import torch
    from torch import distributed

    if not _are_several():
        return flag
    is_cuda = distributed.get_backend() == "nccl"
    said = torch.tensor(int(flag), device="cuda" if is_cuda else "cpu")
    distributed.all_reduce(said, op=distributed.ReduceOp.MAX)
    return bool(said.item())


def wait_for_all() -> None:
    """Until each of the processes got here."""
    any_says(False)


def _are_several() -> bool:
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()
