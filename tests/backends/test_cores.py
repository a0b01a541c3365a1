"""How many threads engines on the CPU compute with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from multimodal.backends.base import cores, load
from multimodal.catalog.cards import Catalog


@pytest.mark.parametrize(("told", "found"), [("1", 1), ("3", 3), ("2,4", 2), ("0", 1)])
def test_it_is_what_other_libraries_are_told(
    monkeypatch: pytest.MonkeyPatch, told: str, found: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert cores() == found


@pytest.mark.parametrize("told", [None, "", "many", "-1"])
def test_it_is_the_cores_where_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    there = cores()
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert cores() == there >= 1


def test_an_engine_on_openmp_leaves_pytorch_as_many(
    catalog: Catalog, weights_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CTranslate2 sets them for all libraries in the process that compute by OpenMP."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    try:
        name = "whisper-base"
        load(catalog.card(name), weights_of(name), "cpu").close()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
