"""The proof before loading: verdicts, what swaps, the cheapest change, what can be trained."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from typing import Any

import gradio as gr
import pytest
from command_line import run
from conftest import ROOT
from fakes import FakeSource, program
from hypothesis import given, settings
from hypothesis import strategies as st
from own_models import write_profile

from benchmarks.memory.__main__ import FOUR
from multimodal.build import build
from multimodal.catalog.architectures import MeasuredArchitecture
from multimodal.catalog.cards import Catalog
from multimodal.errors import SettingsError, UnknownModelError
from multimodal.fit import answer, answer_for, tables
from multimodal.memory.estimate.fit_report import PlannedModel, co_resident_bytes, make_fit_report
from multimodal.memory.estimate.footprint import Footprint, footprint
from multimodal.memory.estimate.training import plan_training
from multimodal.memory.headroom import CUDA_CONTEXT_BYTES
from multimodal.memory.plan import PlanRequest, make_plan
from multimodal.settings import read_settings
from multimodal.web.fitting import FittingPanel

GB = 10**9


def member(name: str, resident: int, workspace: int = 0) -> PlannedModel:
    size = Footprint(resident, workspace, 0, engine_owned=False)
    return PlannedModel(name, name.upper(), "nf4", None, size)


def test_what_fits_together_stays_together() -> None:
    found = make_fit_report([member("a", 4, 2), member("b", 3, 1)], 10, reserve_bytes=1)
    assert (found.verdict, found.peak_bytes, found.spare_bytes) == ("together", 10, 0)
    assert not any(line.swaps for line in found.lines)


def test_the_cheapest_models_swap_and_say_how_long_it_takes() -> None:
    found = make_fit_report([member("a", 6 * GB), member("b", GB), member("c", 2 * GB)], 8 * GB)
    assert found.verdict == "swapping"
    assert [line.member.card for line in found.lines if line.swaps] == ["b", "c"]
    assert found.peak_bytes == 8 * GB
    assert "B (0.04 s), C (0.08 s)" in found.sentence
    assert "1.00 GB too much" in found.sentence


def test_a_model_too_large_for_the_card_is_named() -> None:
    found = make_fit_report([member("a", 9 * GB), member("b", GB)], 8 * GB, reserve_bytes=GB)
    assert found.verdict == "impossible"
    assert found.sentence == "Does not fit: A needs 9.00 GB, and 7.00 GB are there for models."
    assert found.spare_bytes == -2 * GB


sizes = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 8)), min_size=1, max_size=5)


@settings(deadline=None)
@given(sizes, st.integers(1, 60))
def test_a_certificate_is_kept_by_every_order_of_turns(
    pairs: list[tuple[int, int]], budget: int
) -> None:
    members = [member(f"m{i}", *pair) for i, pair in enumerate(pairs)]
    found = make_fit_report(members, budget)
    kept = [line.member for line in found.lines if not line.swaps]
    moments = [
        sum(m.footprint.resident for m in {*kept, active}) + active.footprint.workspace
        for active in members
    ]
    if found.verdict == "impossible":
        assert any(m.footprint.resident + m.footprint.workspace > budget for m in members)
    else:
        assert max(moments) == found.peak_bytes <= budget
        assert (found.verdict == "together") == (co_resident_bytes(members) <= budget)


@settings(deadline=None)
@given(sizes, st.integers(1, 60))
def test_no_other_choice_moves_fewer_bytes(pairs: list[tuple[int, int]], budget: int) -> None:
    members = [member(f"m{i}", *pair) for i, pair in enumerate(pairs)]
    found = make_fit_report(members, budget)
    if found.verdict != "swapping":
        return
    moved = sum(line.member.footprint.resident for line in found.lines if line.swaps)
    for count in range(len(members) + 1):
        for kept in combinations(members, count):
            base = sum(m.footprint.resident for m in kept)
            fits = all(
                base + m.footprint.workspace + (0 if m in kept else m.footprint.resident) <= budget
                for m in members
            )
            others = sum(m.footprint.resident for m in members if m not in kept)
            assert not fits or others >= moved


# ------------------------------------------------------------ the shipped profile


def gpu(catalog: Catalog, budget: int, **more: Any) -> PlanRequest:
    cards = tuple(catalog.card(name) for name in catalog.profile(str(FOUR)).defaults)
    return PlanRequest(cards, budget, CUDA_CONTEXT_BYTES, **more)


def test_the_profile_for_12_gb_fits_its_card(catalog: Catalog) -> None:
    found = make_plan(gpu(catalog, 12 * GB))
    assert found.fit_report.verdict == "swapping"
    assert found.fit_report.peak_bytes <= 12 * GB
    assert make_plan(gpu(catalog, 24 * GB)).fit_report.verdict == "together"
    assert make_plan(gpu(catalog, 24 * GB)).change is None
    assert make_plan(gpu(catalog, 3 * GB)).fit_report.verdict == "impossible"


def test_the_change_that_is_offered_makes_it_fit(catalog: Catalog) -> None:
    request = gpu(catalog, 13 * GB)
    change = make_plan(request).change
    assert change is not None
    assert change.sentence == (
        "Mistral 7B with 4,096 tokens of context; LLaVA 1.5 7B with 2,048 tokens of context"
    )
    tokens = {"mistral-7b-instruct": 4096, "llava-1.5-7b": 2048}
    fewer = [footprint(card, None, tokens.get(card.name)) for card in request.cards]
    needed = sum(size.resident for size in fewer) + max(size.workspace for size in fewer)
    assert needed + CUDA_CONTEXT_BYTES + change.spare_bytes == 13 * GB


def test_one_of_two_models_for_a_task_may_be_left_out(catalog: Catalog) -> None:
    small = catalog.card("smollm2-135m-instruct")
    shape = MeasuredArchitecture(kind="measured", weights_bytes=3 * GB)
    large = small.model_copy(update={"name": "large", "title": "Large", "architecture": shape})
    change = make_plan(PlanRequest((small, large), 2 * GB)).change
    assert change is not None
    assert change.sentence == "leave out Large"


def test_a_card_of_12_gb_trains_7b_with_qlora_only(catalog: Catalog) -> None:
    ways = {way.method: way for way in plan_training(catalog.card("mistral-7b-instruct"), 11 * GB)}
    assert [name for name, way in ways.items() if way.fits] == ["QLoRA"]
    assert ways["QLoRA"].total <= 11 * GB
    # 7.25 billion parameters, 16 bytes each, as ZeRO counts them, and autocast's copies.
    full = ways["full, AdamW"]
    assert (full.weights + full.states) / 1e9 == pytest.approx(7.25 * (16 + 2), rel=0.01)


def test_the_page_plans_with_a_persons_own_profile(tmp_path: Any) -> None:
    by_task = {"text-generation": ["smollm2-135m-instruct"]}
    write_profile(tmp_path / "models", "mine", by_task, budget="2GB")
    with gr.Blocks():
        panel = FittingPanel(program(tmp_path, FakeSource()))
    assert "Fits together, 1.05 GB spare." in panel.work_out("mine", None, "")
    assert "Fits together, 0.05 GB spare." in panel.work_out("mine", [], " 1GB ")
    assert "“lots” is no size. Write one such as 12GB." in panel.work_out("mine", [], "lots")


def test_what_is_no_text_model_has_no_training(catalog: Catalog) -> None:
    assert not list(plan_training(catalog.card("whisper-base"), GB))
    assert not list(plan_training(catalog.card("seamless-m4t-v2-large"), GB))
    assert not list(plan_training(catalog.card("stable-diffusion-1.5"), GB))


# ------------------------------------------------------------ the command


def fit_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which the command ends without taking anything apart."""
    code = "from multimodal.cli.commands import main; main()"
    command = [sys.executable, "-c", code, "fit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_the_ledger() -> None:
    told = fit_program("--profile", "gpu-12gb", "--budget", "12GB")
    assert (told.returncode, told.stderr) == (0, "")
    for words in ("Mistral 7B", "nf4-double", "swaps, 0.02 s", "Cheapest change", "QLoRA"):
        assert words in told.stdout


def test_the_command_prints_json() -> None:
    told = fit_program("--profile", "embedded", "--budget", "3GB", "--context", "2048", "--json")
    found = json.loads(told.stdout)
    assert found["verdict"] == "together"
    assert found["spare_bytes"] == found["budget_bytes"] - found["peak_bytes"] > 0
    assert {row["context_tokens"] for row in found["models"]} == {2048, None}
    assert found["training"]["SmolLM2 135M"][0]["method"] == "QLoRA"


def test_the_embedded_profile_is_certified_too() -> None:
    found = answer(read_settings())
    assert found.plan.fit_report.verdict == "together"
    assert list(found.training) == ["SmolLM2 135M"]


@pytest.mark.parametrize(
    ("device", "profile"),
    [
        ("sim:24GB", "gpu-24gb"),
        ("sim:12GB", "gpu-12gb"),
        ("sim:8GB", "gpu-8gb"),
        ("sim:2GB", "embedded"),
        ("cuda", "gpu-12gb"),
        ("cpu", "embedded"),
    ],
)
def test_a_card_that_is_not_here_can_be_planned_for(device: str, profile: str) -> None:
    assert answer(read_settings(device=device)).profile.name == profile


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--bus", "fast"), "--bus fast: write a size"),
        (("--profile", "gpu-12"), "did you mean 'gpu-12gb'?"),
        (("--context", "12"), "256"),
    ],
)
def test_bad_use_of_the_command_is_told(arguments: tuple[str, ...], sentence: str) -> None:
    told = run("fit", *arguments)
    assert told.exit_code == 2
    assert sentence in told.stderr


def test_a_profile_that_cannot_run_says_so_at_the_start(tmp_path: Any) -> None:
    models = tmp_path / "models"
    card = (ROOT / "models/cards/text-generation/phi-2.toml").read_text("utf-8")
    card = card.replace('name = "phi-2"', 'name = "odd"').replace("causal_lm", "odd_family")
    write_profile(models, "odd", {"text-generation": ["odd"]}, budget="9GB")
    (models / "cards" / "text").mkdir(parents=True)
    (models / "cards" / "text" / "odd.toml").write_text(card, "utf-8")
    with pytest.raises(SettingsError, match=r"odd_family.*multimodal fit --profile odd"):
        build(read_settings(profile="odd", data=tmp_path))


def test_a_set_of_ones_own_is_certified(catalog: Catalog) -> None:
    found = answer(
        read_settings(budget="12GB"), models=("llama-3-8b-instruct", "llava-next-mistral-7b")
    )
    names = [line.member.card for line in found.plan.fit_report.lines]
    assert names == ["llama-3-8b-instruct", "llava-next-mistral-7b"]
    assert found.plan.fit_report.reserve_bytes, "a budget alone is taken for a card"
    assert not any("--budget" in line for line in tables(found)[0].foot)
    unnamed = answer(read_settings(profile="embedded"), models=("llama-3-8b-instruct",))
    assert any("--budget 12GB" in line for line in tables(unnamed)[0].foot)
    with pytest.raises(UnknownModelError, match="did you mean 'phi-2'"):
        answer(read_settings(), models=("phi2",))


# Whole profiles, each for the machine it names.
@pytest.mark.parametrize("name", ["laptop", "gpu-8gb", "gpu-12gb", "gpu-24gb"])
def test_every_profile_is_certified_for_its_budget(catalog: Catalog, name: str) -> None:
    profile = catalog.profile(name)
    fit_report = answer_for(catalog, profile).plan.fit_report
    assert fit_report.verdict != "impossible"
    assert fit_report.peak_bytes <= profile.budget
    for card in map(catalog.card, profile.names):
        alone = answer_for(catalog, profile, models=(card.name,)).plan.fit_report
        assert alone.verdict == "together", f"{card.name}: {alone.sentence}"
