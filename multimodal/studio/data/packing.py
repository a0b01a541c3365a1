"""How much of what is computed is padding, and what packing makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multimodal.studio.recipes import check_libraries


@dataclass(frozen=True, slots=True)
class Padding:
    """Shares from 0 to 1 of the tokens of all batches that are no sample's."""

    before: float
    """Batches of samples as they come, each padded to its longest."""
    after: float
    """Rows of `max_length` tokens that several samples share, as TRL packs them (best fit first,
    samples whole): the room that stays empty."""
    rows: int
    """Samples before packing."""
    packed_rows: int


def padding_shares(lengths: Sequence[int], batch: int, max_length: int) -> Padding:
    """Of samples of those lengths in tokens, each at most `max_length` and at least one, in
    batches of `batch` in that order. Raises ConfigurationError where TRL is not installed."""
    padded = 0
    for first in range(0, len(lengths), batch):
        some = lengths[first : first + batch]
        padded += max(some) * len(some)
    packed = _packed_rows(lengths, max_length)
    total = sum(lengths)
    return Padding(1 - total / padded, 1 - total / (packed * max_length), len(lengths), packed)


def _packed_rows(lengths: Sequence[int], max_length: int) -> int:
    check_libraries()
    import datasets
    from trl import pack_dataset

    samples = datasets.Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
    is_shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return len(pack_dataset(samples, max_length, "bfd"))
    finally:
        if is_shown:
            datasets.enable_progress_bars()
