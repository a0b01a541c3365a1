"""A model that was loaded, or could not be: what it holds, and what is said once it is gone."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from types import ModuleType

import pytest
import torch

from multimodal.backends.base import load
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.registry import FAMILIES, Family
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.errors import (
    BackendError,
    CardError,
    DeviceFullError,
    DeviceLostError,
    MultimodalError,
)


class HalfWay(ModuleType):
    """A family whose models fail when they have taken some memory."""

    def __init__(self, error: Exception) -> None:
        super().__init__("multimodal.backends.half_way")
        self.error = error
        self.taken: weakref.ref[torch.Tensor] | None = None

    def load(self, card: ModelCard, files: Path, device: str) -> None:
        weights = torch.zeros(1000)
        self.taken = weakref.ref(weights)
        raise self.error


FAILURES: list[tuple[Exception, type[MultimodalError], str]] = [
    (torch.OutOfMemoryError("CUDA out of memory"), DeviceFullError, "is out of memory"),
    (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), DeviceFullError, "is out of memory"),
    (
        RuntimeError("CUDA error: misaligned address"),
        DeviceLostError,
        "start the program again",
    ),
    (DeviceFullError("there is no room"), DeviceFullError, "there is no room"),
    (BackendError("weights are missing"), BackendError, "^weights are missing$"),
    (ValueError("a size is wrong"), BackendError, "could not be loaded: a size is wrong"),
]


@pytest.fixture(params=FAILURES, ids=lambda failure: repr(failure[0]))
def failure(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[HalfWay, type[MultimodalError], str]:
    error, told, sentence = request.param
    family = HalfWay(error)
    monkeypatch.setitem(sys.modules, family.__name__, family)
    monkeypatch.setitem(FAMILIES, "half_way", Family(family.__name__, ""))
    return family, told, sentence


def test_a_load_that_fails_half_way_is_told_and_holds_nothing(
    failure: tuple[HalfWay, type[MultimodalError], str], catalog: Catalog, tmp_path: Path
) -> None:
    """As long as the error is known, and without waiting for a garbage collection."""
    family, told, sentence = failure
    card = catalog.card("whisper-base").model_copy(update={"family": "half_way"})
    with pytest.raises(told, match=sentence) as caught:
        load(card, tmp_path, "cpu")
    assert type(caught.value) is told
    assert family.taken is not None
    assert family.taken() is None


def test_an_unknown_family_is_named(catalog: Catalog, tmp_path: Path) -> None:
    card = catalog.card("whisper-base").model_copy(update={"family": "unheard_of"})
    with pytest.raises(CardError, match="there is no backend for the family 'unheard_of'"):
        load(card, tmp_path, "cpu")


def test_an_unloaded_model_is_gone(catalog: Catalog) -> None:
    model = torch.nn.Linear(2, 2)
    there, loaded = weakref.ref(model), LoadedModel(catalog.card("whisper-base"), model)
    del model
    assert loaded.modules() == [there()]
    loaded.close()
    assert there() is None
    assert loaded.modules() == []


def test_a_model_of_another_engine_has_nothing_that_could_be_moved(catalog: Catalog) -> None:
    assert LoadedModel(catalog.card("whisper-base"), object()).modules() == []
