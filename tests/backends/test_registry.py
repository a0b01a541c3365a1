"""Engines are found: the program's own in a table, and those that other packages bring."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from multimodal.backends.base import load
from multimodal.backends.engine_options import check_options
from multimodal.backends.registry import (
    FAMILIES,
    catalog_folders,
    find_family,
    has_family,
    import_object,
)
from multimodal.build import build, read_catalog
from multimodal.catalog.architectures import ModelPart, ModulesArchitecture
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.errors import CardError
from multimodal.events import TextDelta
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Conversation, Message, TextPart
from multimodal.settings import read_settings

SITE = ROOT / "tests/fixtures/site"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with an engine is installed; what was imported of it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(SITE))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "parrot_engine"]:
        del sys.modules[name]


EXPORTED = {"onnx_classifier", "onnx_text", "onnx_whisper"}
"""Their cards are written by exports."""


def test_every_family_of_the_table_is_a_module_and_has_a_card(catalog: Catalog) -> None:
    for family in FAMILIES.values():
        assert find_spec(family.engine) is not None
        for place in filter(None, (family.options, family.forward_passes)):
            assert import_object(place) is not None, place
    assert {card.family for card in catalog.cards} == set(FAMILIES) - EXPORTED


def test_nothing_is_brought_by_packages_that_are_not_there() -> None:
    assert find_family("parrot") is None
    assert not has_family("parrot")
    assert catalog_folders() == []


@pytest.mark.usefixtures("site")
def test_a_package_brings_an_engine_and_its_card(tmp_path: Path) -> None:
    family = find_family("parrot")
    assert family is not None
    assert family.engine == "parrot_engine.engine"
    with closing(build(read_settings(profile="parrot", data=tmp_path, upgrade=False))) as program:
        said = Message("user", (TextPart("Pretty Polly"),))
        events = list(program.assistant.reply(Conversation((said,)), threading.Event()))
    told = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert told == "Pretty Polly"


def parrot(**facts: Any) -> ModelCard:
    found = Catalog([SITE / "parrot_engine" / "models"]).card("parrot").model_dump(mode="json")
    return ModelCard.model_validate({**found, **facts})


@pytest.mark.usefixtures("site")
def test_an_engine_of_a_package_declares_its_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load(parrot(engine={"repeats": 2}), tmp_path, "cpu").close()
    with pytest.raises(CardError, match=r"no option of parrot; did you mean engine\.repeats\?"):
        load(parrot(engine={"repeat": 2}), tmp_path, "cpu")
    monkeypatch.delattr("parrot_engine.engine.EngineOptions")
    check_options(parrot(engine={"anything": 2}))


@pytest.mark.usefixtures("site")
def test_an_engine_of_a_package_declares_its_forward_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"in_features": 8, "out_features": 100}
    layer = ModelPart(library="torch", model="Linear", config=sizes)
    shape = ModulesArchitecture(kind="modules", parts={"beak": layer})
    card = parrot(architecture=shape, quantization=["bf16"])
    assert footprint(card).runtime == card.context_tokens * (8 + 100) * 2
    monkeypatch.delattr("parrot_engine.engine.forward_passes")
    with pytest.raises(CardError, match="parrot: nothing is known of what an engine"):
        footprint(card)


@pytest.mark.usefixtures("site")
def test_no_package_replaces_an_engine_of_the_program() -> None:
    assert find_family("llama_cpp") is FAMILIES["llama_cpp"]


def test_models_that_a_package_promised_and_lost_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(SITE / "parrot_engine-1.0.dist-info", tmp_path / "parrot_engine-1.0.dist-info")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(CardError, match=r"package parrot-engine .*'parrot_engine\.models'"):
        read_catalog(read_settings(data=tmp_path / "data"))
