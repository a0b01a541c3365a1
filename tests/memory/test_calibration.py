"""What was measured of a card: how it is measured, kept, and used in place of estimates."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from small_memory import CardOnCpu, Layers, leased, manager
from small_shapes import TEXT
from tiny_seeing import VISION
from torch import nn

from benchmarks.memory.turns import mixed
from multimodal import distributions
from multimodal.backends import probes
from multimodal.build import choose_profile
from multimodal.calibrate import calibrate, calibrate_new_gpu, format_probe, measure_new_gpu
from multimodal.catalog.cards import Catalog
from multimodal.doctor import rules
from multimodal.doctor.machine import Machine
from multimodal.errors import SettingsError
from multimodal.fit import answer_for, tables
from multimodal.memory.calibration.probes import MOST_AWAY, Measurements, measure_mirror
from multimodal.memory.calibration.process import run_probes
from multimodal.memory.calibration.record import (
    WHOLE_TURN,
    Calibration,
    DeviceFingerprint,
    Probe,
    read,
    write,
)
from multimodal.memory.devices.base import CUDA_CONTEXT_BYTES
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.devices.torch_build import TorchBuild
from multimodal.memory.estimate.factors import ESTIMATE
from multimodal.memory.headroom import driver_margin_bytes, model_bytes, planned_reserve_bytes
from multimodal.settings import read_settings

FILES = sorted((ROOT / "tests/fixtures/calibrations").glob("*.json"))
CPU = torch.device("cpu")


def kept(name: str) -> Calibration:
    path = ROOT / "tests/fixtures/calibrations" / f"{name}.json"
    return Calibration.model_validate_json(path.read_text("utf-8"))


# ------------------------------------------------------------ keeping


def test_a_calibration_is_kept_for_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    found = kept("12gb-linux")
    write(tmp_path, found)
    assert read(tmp_path) == read(tmp_path, found.subject) == found
    for name in ("torch", "card", "bitsandbytes", "driver"):
        assert read(tmp_path, found.subject.model_copy(update={name: "another"})) is None


@pytest.mark.parametrize("damage", ["", "{", '{"subject": 3}', "\x00"])
def test_a_damaged_calibration_is_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "calibration.json").write_text(damage, "utf-8")
    assert read(tmp_path) is None


def test_it_holds_nothing_of_the_person() -> None:
    subject = DeviceFingerprint.of("NVIDIA RTX", 12, "13.0", "580.1").model_dump()
    told = json.dumps(subject)
    assert str(Path.home()) not in told
    known = {"card", "card_bytes", "system", "driver", "torch", "cuda", "bitsandbytes"}
    assert set(subject) == known


def test_a_card_without_bitsandbytes_is_known_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(distributions, "version", missing)
    subject = DeviceFingerprint.of("NVIDIA RTX", 12, "13.0", "580.1")
    assert (subject.torch, subject.bitsandbytes) == ("", "")


# ------------------------------------------------------------ measuring


def test_a_probe_that_ends_its_process_is_told_and_the_others_go_on() -> None:
    """A kernel that cannot be launched may end the process without a Python error."""
    asked: list[Sequence[str]] = []

    def start(names: Sequence[str]) -> Iterator[str]:
        asked.append(tuple(names))
        yield "a library says hello"
        for name in names:
            yield json.dumps({"begun": name})
            if name == "b":
                return
            yield json.dumps({"name": name, "facts": {"x_s": 1.0}, "seconds": 2.0})

    told: list[tuple[str, bool]] = []
    found = run_probes("abcd", lambda name, probe: told.append((name, probe is None)), start)
    assert asked == [tuple("abcd"), tuple("cd")]
    errors = {name: probe.error for name, probe in found.items()}
    assert errors == dict.fromkeys("acd", "") | {"b": "it ended the process that tried it"}
    assert told == [(name, begins) for name in "abcd" for begins in (True, False)]


def test_a_process_that_never_begins_is_tried_once() -> None:
    starts: list[int] = []

    def start(names: Sequence[str]) -> Iterator[str]:
        starts.append(len(names))
        yield from ()

    found = run_probes(("a", "b"), lambda name, probe: None, start)
    assert starts == [2]
    assert {probe.error for probe in found.values()} == {"its process did not begin"}


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_small_model_leaves_and_comes_back_right(kind: str) -> None:
    facts = measure_mirror(kind, CPU)
    assert 0 < facts["away_from_exact"] < MOST_AWAY[kind]
    assert facts["first_answer_s"] > 0


TINY_WHISPER = probes.HEARING | {
    "n_audio_state": 32,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_text_state": 32,
    "n_text_head": 2,
    "n_text_layer": 1,
}
TINY_DECODER = probes.DECODER | {"block_out_channels": (32,) * 4, "layers_per_block": 1}


@pytest.mark.parametrize(
    "probe",
    [
        lambda: probes.measure_speech_recognition(CPU, TINY_WHISPER),
        lambda: probes.measure_image_encoder(CPU, VISION),
        lambda: probes.measure_image_decoder(64, CPU, TINY_DECODER),
    ],
    ids=["hearing", "seeing", "decoder"],
)
def test_what_a_turn_takes_is_measured_beside_what_is_counted_for_it(
    probe: Callable[[], Measurements],
) -> None:
    facts = probe()
    assert facts["counted_bytes"] > 0
    assert facts["turn_s"] > 0


def test_ways_to_decode_are_measured_in_tokens_a_second() -> None:
    facts = probes.measure_token_decoding(CPU, TEXT)
    told = format_probe("decoding", Probe(facts=facts))
    assert min(facts.values()) > 0
    for name in ("dynamic", "static"):
        assert f"{name} {facts[f'{name}_tokens_per_s']:.3g} tokens/s" in told


# ------------------------------------------------------------ by itself


def lines_like(found: Calibration, error: str = "") -> Callable[[Sequence[str]], Iterator[str]]:
    """A process that tells what was measured before, or fails with `error` in all of it."""

    def start(names: Sequence[str]) -> Iterator[str]:
        for name in names:
            yield json.dumps({"begun": name})
            probe = found.probes.get(name, Probe(facts={"x_s": 1.0}))
            told = Probe(error=error) if error else probe
            yield json.dumps({"name": name, **told.model_dump()})

    return start


def test_a_new_card_is_measured_before_its_first_use_and_told_meanwhile(tmp_path: Path) -> None:
    found, told = kept("12gb-linux"), list[str]()
    measure_new_gpu(found.subject, tmp_path, told.append, lines_like(found))
    kept_now = read(tmp_path, found.subject)
    assert kept_now is not None
    assert kept_now.context_bytes == found.context_bytes
    assert told[0].startswith(f"{found.subject.card} is new here")
    assert "--no-calibrate" in told[0]
    assert len(told) == 1 + len(probes.PROBES)


@pytest.mark.parametrize("error", ["CUDA error: out of memory", ""])
def test_where_nothing_can_be_measured_the_start_goes_on_with_estimates(
    tmp_path: Path, error: str
) -> None:
    found, told = kept("12gb-linux"), list[str]()
    start = lines_like(found, error) if error else lambda names: iter(())
    measure_new_gpu(found.subject, tmp_path, told.append, start)
    assert told[-1].endswith("Estimates are used.")
    assert (error or "its process did not begin") in told[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_cannot_be_kept_does_not_end_the_start(tmp_path: Path) -> None:
    found, told = kept("12gb-linux"), list[str]()
    (tmp_path / "data").write_text("a file", "utf-8")
    measure_new_gpu(found.subject, tmp_path / "data", told.append, lines_like(found))
    assert told[-1].startswith("The result cannot be kept in ")


def test_without_a_card_a_start_measures_nothing_and_says_nothing(tmp_path: Path) -> None:
    for options in ({}, {"device": "sim:12GB"}, {"device": "cpu"}, {"calibrate": False}):
        told = list[str]()
        calibrate_new_gpu(read_settings(data=tmp_path, **options), told.append)
        assert told == []


def test_without_a_card_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"card to measure; `multimodal doctor`"):
        calibrate(read_settings(data=tmp_path), lambda name, probe: None)
    assert not list(tmp_path.iterdir())


def test_a_person_reads_what_came_out() -> None:
    found = kept("12gb-linux").probes
    assert format_probe("bus", found["bus"]) == (
        "ok    bus           locked 25 GB/s, pageable 9 GB/s  (0.4 s)"
    )
    failed = format_probe("bus", kept("8gb-windows").probes["bus"])
    assert failed == "fail  bus           the driver locks no host memory: copies are slower"


# ------------------------------------------------------------ using


def test_what_was_measured_replaces_what_was_estimated(catalog: Catalog) -> None:
    linux, windows = kept("12gb-linux"), kept("12gb-windows")
    profile = catalog.profile("gpu-12gb")
    assert linux.context_bytes == 535_500_000, "510 MB were seen, and kernels are loaded later"
    assert planned_reserve_bytes(profile, "cuda", linux.context_bytes) == 535_500_000
    assert windows.context_bytes is None, "Windows does not count what other processes take"
    assert planned_reserve_bytes(profile, "cuda", windows.context_bytes) == CUDA_CONTEXT_BYTES
    assert (linux.has_mirrors, kept("8gb-windows").has_mirrors) == (True, False)
    assert (linux.is_spilling, windows.is_spilling) == (False, True)
    assert driver_margin_bytes(windows.is_spilling) > driver_margin_bytes(linux.is_spilling)


def test_what_turns_were_measured_to_take_replaces_what_is_estimated_for_them() -> None:
    whole, none = kept("24gb-linux"), kept("12gb-linux")
    assert none.factors == ESTIMATE
    assert whole.factors.convolution == pytest.approx(1.5 * WHOLE_TURN)
    assert whole.factors.hearing == pytest.approx(1.2 * WHOLE_TURN)
    assert kept("h200-linux").factors.convolution * 0.402718720 == pytest.approx(0.674, rel=0.01)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_fit_and_the_ledger_give_the_same_bytes_with_what_was_measured(
    path: Path, catalog: Catalog
) -> None:
    """Every model of the profile's defaults, and the budget less the context."""
    found = kept(path.stem)
    profile = choose_profile(catalog, "auto", found.subject.card_bytes)
    device = Simulated(found.subject.card_bytes, context_bytes=found.context_bytes or 0)
    device.context_bytes = device.context_bytes or CUDA_CONTEXT_BYTES
    device.factors = found.factors
    budget = min(profile.budget, found.subject.card_bytes)
    memory = manager(model_bytes(budget, device), device=device)
    asked = answer_for(
        catalog,
        profile,
        budget,
        device_kind="cuda",
        context_bytes=found.context_bytes,
        factors=found.factors,
    ).plan.fit_report
    assert asked.reserve_bytes + memory.budget_bytes == asked.budget_bytes
    assert asked.lines
    for member in (each.member for each in asked.lines):
        card = catalog.card(member.card)
        with memory.lease(card, threading.Event()) as lease:
            list(lease.wait())
            assert lease.size_bytes == member.footprint.workspace, member.card
            assert memory.snapshot().used_bytes >= member.footprint.total
        memory.unload(card.name)
    assert any(each.member.footprint.workspace for each in asked.lines)


def test_fit_says_where_its_reserve_comes_from(catalog: Catalog) -> None:
    profile = catalog.profile("gpu-12gb")
    measured_bytes = kept("12gb-linux").context_bytes
    for context, words in ((None, "stays (a reserve)"), (measured_bytes, "stays (measured)")):
        found = answer_for(catalog, profile, context_bytes=context)
        assert found.plan.fit_report.reserve_bytes == (context or CUDA_CONTEXT_BYTES)
        assert words in str(tables(found)[0])


def test_models_are_not_mirrored_where_mirrors_failed() -> None:
    device, model = CardOnCpu(1 << 30, has_mirrors=False), Layers(nn.Linear(8, 8))
    assert device.finish_load("a", model) == 8 * 9 * 4
    assert device.park("a", model) == 0, "it is closed, and read from the disk next time"


def test_what_failed_on_a_card_is_switched_off() -> None:
    """No mirrors, no figure of the bus, and no refusals."""
    failed = kept("8gb-windows")
    device = Simulated.calibrated(failed, host_bytes=16 * 10**9)
    assert (failed.has_mirrors, failed.bus_bytes_per_s) == (False, None)
    assert (device.host_bytes, device.locks_pages) == (0, False)
    assert device.factors == failed.factors
    assert Simulated.calibrated(kept("12gb-windows"), host_bytes=0).spills
    assert not Simulated.calibrated(kept("12gb-linux"), host_bytes=0).spills


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_card_keeps_the_budget_that_follows_from_it(path: Path, catalog: Catalog) -> None:
    """Played by the simulated card, with the context, the bus and the locked memory of a file."""
    found = kept(path.stem)
    profile = choose_profile(catalog, "auto", found.subject.card_bytes)
    device = Simulated.calibrated(found, host_bytes=16 * 10**9)
    budget = model_bytes(profile.budget, device)
    assert budget == min(profile.budget, found.subject.card_bytes) - device.context_bytes
    memory = manager(budget, device=device)
    most = 0
    for card in mixed(catalog, profile, 60):
        with leased(memory, card) as lease:
            device.take("turn", lease.size_bytes)
            most = max(most, memory.snapshot().used_bytes)
            assert device.taken_bytes <= budget + device.context_bytes
            assert lease.granted
        device.give_back("turn")
    assert 0 < most <= budget
    assert device.spilled_bytes == 0
    hows = {decision.how for decision in memory.snapshot().decisions}
    assert ("restored" in hows) <= found.has_mirrors


def test_the_doctor_tells_what_was_measured() -> None:
    with_card = TorchBuild(cuda="13.0", gpu="NVIDIA GeForce RTX 4070 Ti", gpu_bytes=12)

    def told(build: TorchBuild, found: Calibration | None) -> list[tuple[str, str]]:
        findings = rules.calibration(
            Machine("Linux", "Linux", "3.12", 64, 8, 10**10, 10**10, build=build), found
        )
        return [(finding.verdict, finding.found) for finding in findings]

    assert told(TorchBuild(), None) == []
    ((verdict, words),) = told(with_card, None)
    assert (verdict, "multimodal calibrate" in words) == ("info", True)
    assert told(with_card, kept("12gb-linux")) == [("ok", "7 measurements, all as they should be")]
    ((verdict, words),) = told(with_card, kept("8gb-windows"))
    assert verdict == "info"
    assert "mirror int8: it ended the process that tried it" in words
