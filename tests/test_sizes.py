"""Sizes are written in the unit that a person would choose."""

from __future__ import annotations

import pytest

from multimodal.sizes import download_size


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [
        (0, "0 kB"),
        (1, "1 kB"),
        (11_227, "12 kB"),
        (999_999, "1000 kB"),
        (1_000_000, "1 MB"),
        (93_000_000, "93 MB"),
        (4_000_000_000, "4.0 GB"),
    ],
)
def test_a_download_is_told_in_its_own_unit(size_bytes: int, written: str) -> None:
    assert download_size(size_bytes) == written
