"""Which profile and device `auto` are: the largest one that this version runs on the card that is
there, and the CPU without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import ROOT
from own_models import write_card, write_profile

from multimodal.backends.registry import has_family
from multimodal.build import choose_profile, choose_profile_and_device, missing_families
from multimodal.catalog.cards import AUTO, Catalog
from multimodal.errors import SettingsError
from multimodal.fit import answer
from multimodal.memory.devices.base import Cpu
from multimodal.memory.devices.simulated import Simulated
from multimodal.settings import read_settings

GB = 1_000_000_000


@pytest.fixture
def own(tmp_path: Path) -> Catalog:
    """The shipped catalog, and profiles of a family that runs and of one that nobody wrote."""
    for name, family in (("runs", "llama_cpp"), ("planned", "not_written_yet")):
        write_card(tmp_path, name, "text-generation", family)
    for name, device, budget, card in (
        ("small", "cuda", "6GB", "runs"),
        ("large", "cuda", "11GB", "runs"),
        ("planned", "cuda", "10GB", "planned"),
        ("huge-planned", "cuda", "12GB", "planned"),
        ("host", "cpu", "5GB", "runs"),
    ):
        write_profile(tmp_path, name, {"text-generation": [card]}, device=device, budget=budget)
    return Catalog([ROOT / "models", tmp_path])


def chosen(catalog: Catalog, card_gb: float) -> str:
    families = {"llama_cpp"}
    return choose_profile(catalog, AUTO, int(card_gb * GB), families.__contains__).name


@pytest.mark.parametrize(
    ("card_gb", "profile"),
    [(0, "embedded"), (5.9, "embedded"), (6, "small"), (10.5, "small"), (24, "large")],
)
def test_auto_is_the_largest_profile_that_the_card_holds_and_this_version_runs(
    own: Catalog, card_gb: float, profile: str
) -> None:
    assert chosen(own, card_gb) == profile


def test_auto_plans_with_what_cannot_be_run_only_where_that_is_asked(own: Catalog) -> None:
    everything = choose_profile(own, AUTO, 12 * GB, lambda family: True)
    assert everything.budget == 12 * GB
    assert missing_families(own, own.profile("huge-planned")) == ["not_written_yet"]


@pytest.mark.parametrize("card_gb", [0, 4, 8, 12, 12.88, 16, 24, 80])
def test_auto_never_is_a_shipped_profile_that_cannot_be_run_here(
    catalog: Catalog, card_gb: float
) -> None:
    profile = choose_profile(catalog, AUTO, int(card_gb * GB))
    assert all(has_family(catalog.card(name).family) for name in profile.names)
    assert profile.device == "cpu" or profile.budget <= card_gb * GB


def test_a_profile_that_is_named_is_taken_as_it_is(own: Catalog) -> None:
    assert choose_profile(own, "planned", 0).name == "planned"


no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")


@no_card
def test_without_a_card_auto_is_the_embedded_profile_on_the_cpu(catalog: Catalog) -> None:
    profile, device = choose_profile_and_device(read_settings(), catalog)
    assert profile.name == "embedded"
    assert isinstance(device, Cpu)


@no_card
def test_a_profile_for_a_card_is_not_run_without_one_unless_that_is_asked(
    catalog: Catalog,
) -> None:
    with pytest.raises(SettingsError, match=r"gpu-12gb is for an NVIDIA card.*--device cpu"):
        choose_profile_and_device(read_settings(profile="gpu-12gb"), catalog)
    profile, device = choose_profile_and_device(
        read_settings(profile="gpu-12gb", device="cpu"), catalog
    )
    assert profile.name == "gpu-12gb"
    assert isinstance(device, Cpu)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("sim:24GB", "gpu-24gb"),
        ("sim:12GB", "gpu-12gb"),
        ("sim:8GB", "gpu-8gb"),
        ("sim:2GB", "embedded"),
    ],
)
def test_a_simulated_card_plays_the_profile_of_a_real_one(
    catalog: Catalog, device: str, name: str, tmp_path: Path
) -> None:
    """The one that `multimodal fit` plans for it."""
    settings = read_settings(device=device, data=tmp_path)
    profile, card = choose_profile_and_device(settings, catalog)
    assert profile.name == name == answer(settings).profile.name
    assert isinstance(card, Simulated)
    assert card.engine == "cpu"


def test_a_simulated_card_is_taken_with_any_profile(catalog: Catalog) -> None:
    for name in ("gpu-12gb", "embedded"):
        profile, device = choose_profile_and_device(
            read_settings(profile=name, device="sim:12GB"), catalog
        )
        assert profile.name == name
        assert isinstance(device, Simulated)
