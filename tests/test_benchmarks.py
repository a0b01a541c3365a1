"""The memory benchmark as far as it runs without a card: its models are what cards describe."""

from __future__ import annotations

import pytest
import torch
from small_shapes import SMALL, card, one
from tiny_engines import WHISPER
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from benchmarks.decode import LARGE, OPTIONS, large, unlimited
from benchmarks.memory.__main__ import FOUR
from benchmarks.memory.models import RandomModel
from benchmarks.memory.simulated import measure
from benchmarks.memory.turns import all_of_them, by_cost, least_recently_used, mixed, replay
from multimodal.catalog.architectures import ModelPart, ModulesArchitecture
from multimodal.catalog.cards import Catalog
from multimodal.memory.devices.mirror import HostMirror
from multimodal.memory.devices.storages import storage_bytes
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.estimate.modules import build_meta_module


@pytest.mark.parametrize("kind", ["nf4-double", "nf4", "bf16"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "llava"])
def test_a_random_model_holds_what_its_card_says(name: str, kind: str) -> None:
    model = RandomModel(card(one(SMALL[name]), kind), "cpu")
    held = sum(storage_bytes(module) for module in model.modules())
    expected = footprint(card(one(SMALL[name]), kind)).weights
    assert held == pytest.approx(expected, rel=0.02)


def test_a_random_model_runs_moves_and_says_the_same() -> None:
    model = RandomModel(card(one(SMALL["llava"]), "bf16"), "cpu")
    model.run_once(40)
    before = model.output()
    mirrors = [HostMirror(module, torch.device("cpu")) for module in model.modules()]
    for mirror in mirrors:
        mirror.evict()
        mirror.restore()
    assert torch.equal(model.output(), before)
    assert before.isfinite().all()
    assert before.abs().sum() > 0


def test_what_a_random_whisper_is_given_are_numbers() -> None:
    """Half a minute of sound has more frames than fp16 can count."""
    part = ModelPart(library="whisper", model="Whisper", config=vars(WHISPER))
    shape = ModulesArchitecture(kind="modules", parts={"model": part})
    whisper = card(shape, "fp16").model_copy(update={"family": "openai_whisper"})
    assert RandomModel(whisper, "cpu").output().isfinite().all()


def test_the_simulated_run_stays_in_its_budget_and_moves_less_than_its_peers(
    catalog: Catalog,
) -> None:
    profile = catalog.profile(str(FOUR))
    found = measure(catalog, profile, 12 * 10**9, turns=40)
    assert found["most_used_bytes"] <= found["budget_bytes"]
    assert "simulated" in found["device"]
    assert all(ratio <= 1 for ratio in found["moved_against"].values())
    order = mixed(catalog, profile, 40)
    assert order == mixed(catalog, profile, 40), "the same turns every time"
    assert {c.name for c in order} == set(profile.names)
    room = 11 * 10**9
    costs = [replay(order, room, rule).moved_bytes for rule in (by_cost, least_recently_used)]
    assert costs[0] <= costs[1] <= replay(order, room, all_of_them).moved_bytes


@pytest.mark.parametrize("name", ["llama", "llava"])
def test_options_of_generate_are_measured_against_a_ceiling(name: str) -> None:
    found = large(card(one(SMALL[name]), "fp32"), 1, "cpu")
    assert set(found["of_ceiling"]) == {"generate", *OPTIONS}
    assert all(0 < share < 1 for share in found["of_ceiling"].values())


@pytest.mark.parametrize("name", LARGE)
def test_the_models_that_are_measured_attend_to_everything(catalog: Catalog, name: str) -> None:
    """A window as long as the context would be measured with another kind of cache than the
    published model has."""
    shape = catalog.card(name).architecture
    assert isinstance(shape, ModulesArchitecture)
    (part,) = shape.parts.values()
    text = build_meta_module(unlimited(part)).config.get_text_config(decoder=True)
    assert {type(layer) for layer in DynamicCache(config=text).layers} == {DynamicLayer}
