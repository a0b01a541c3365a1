"""Engines are found: the program's own in a table, and those that other packages bring."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT

from multimodal.backends.registry import FAMILIES, has_family, model_folders, module_name
from multimodal.build import build, read_catalog
from multimodal.catalog.cards import Catalog
from multimodal.errors import CardError
from multimodal.events import TextDelta
from multimodal.messages import Conversation, Message, TextPart
from multimodal.settings import read_settings

SITE = ROOT / "tests/fixtures/site"


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What was imported of the package is imported anew by the next test."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "parrot_engine"]:
        del sys.modules[name]


def test_every_family_of_the_table_is_a_module_and_has_a_card(catalog: Catalog) -> None:
    assert all(find_spec(name) is not None for name in FAMILIES.values())
    assert {card.family for card in catalog.cards} == set(FAMILIES)


def test_nothing_is_brought_by_packages_that_are_not_there() -> None:
    assert module_name("parrot") is None
    assert not has_family("parrot")
    assert model_folders() == []


@pytest.mark.usefixtures("forgotten")
def test_a_package_brings_an_engine_and_its_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(SITE))
    assert module_name("parrot") == "parrot_engine.engine"
    program = build(read_settings(profile="parrot", data=tmp_path, upgrade=False))
    try:
        said = Message("user", (TextPart("Pretty Polly"),))
        events = list(program.assistant.reply(Conversation((said,)), threading.Event()))
    finally:
        program.close()
    told = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert told == "Pretty Polly"


def test_no_package_replaces_an_engine_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SITE))
    assert module_name("llama_cpp") == FAMILIES["llama_cpp"]


def test_models_that_a_package_promised_and_lost_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(SITE / "parrot_engine-1.0.dist-info", tmp_path / "parrot_engine-1.0.dist-info")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(CardError, match=r"package parrot-engine .*'parrot_engine\.models'"):
        read_catalog(read_settings(data=tmp_path / "data"))
