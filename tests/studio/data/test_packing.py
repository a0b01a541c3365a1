"""The share of padding before and after packing is that of the batches that are computed."""

from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import pack_dataset

from multimodal.studio.data.packing import padding_shares


def test_samples_of_one_length_need_no_padding() -> None:
    found = padding_shares([8] * 6, 4, 16)
    assert (found.before, found.after) == (0, 0)
    assert (found.rows, found.packed_rows) == (6, 3)


def test_a_batch_is_padded_to_its_longest_and_rows_are_shared() -> None:
    found = padding_shares([2, 8, 4, 4, 2], 2, 8)
    # Batches of 2 x 8, 2 x 4 and 1 x 2 tokens hold 20; three rows of 8 hold them packed.
    assert found.before == pytest.approx(1 - 20 / 26)
    assert found.after == pytest.approx(1 - 20 / 24)
    assert found.packed_rows == 3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 32), min_size=1, max_size=40), st.integers(1, 8))
def test_rows_are_as_many_as_trl_trains(lengths: list[int], batch: int) -> None:
    found = padding_shares(lengths, batch, 32)
    samples = Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    packed = pack_dataset(samples, 32, "bfd")
    assert found.packed_rows == len(packed)
    assert 0 <= found.before < 1
    assert 0 <= found.after < 1
