"""Engines that compute on the CPU although there is a card: nothing of them is booked on it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import xllamacpp
from conftest import WEIGHTS
from fakes import FakeSource, card
from small_memory import A, C, Manager, held, leased, use

from multimodal.backends.compute_device import can_load_libraries, has_gpu, runs_on_cpu
from multimodal.build import build
from multimodal.catalog.cards import Catalog
from multimodal.errors import CapacityError
from multimodal.events import Done
from multimodal.fit import answer, tables
from multimodal.hands_free.readiness import check_room
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.host import HostDevice, HostMemory, host_bytes
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Conversation, Message, Task, TextPart
from multimodal.settings import read_settings
from multimodal.web.fitting import render_fit

SMALL = "smollm2-135m-instruct"
PROFILE = """name = "mine"
title = "Mine"
device = "cuda"
budget = "12GB"
[models]
text-generation = ["{text}"]
automatic-speech-recognition = ["whisper-small", "whisper-base"]
image-to-text = ["picture-describer"]
"""
NEEDS_NO_CARD = pytest.mark.skipif(
    has_gpu(xllamacpp.get_device_info()), reason="this llama.cpp computes on a card"
)


def mine(folder: Path, text: str = SMALL) -> str:
    path = folder / "mine.toml"
    path.write_text(PROFILE.format(text=text), "utf-8")
    return str(path)


# ------------------------------------------------------------ families


def test_what_has_an_engine_for_a_card_computes_there(catalog: Catalog) -> None:
    for name in ("mistral-7b-instruct", "whisper-small", "stable-diffusion-1.5", "llava-1.5-7b"):
        assert not runs_on_cpu(catalog.card(name))
    kept_off = catalog.card("gpt2").model_copy(update={"device": "cpu"})
    assert runs_on_cpu(kept_off), "the card says so"


def test_voices_and_the_picture_describer_have_no_engine_for_a_card(catalog: Catalog) -> None:
    for name in ("piper-joe-en-us", "kokoro-82m", "picture-describer"):
        assert runs_on_cpu(catalog.card(name))


def test_llama_cpp_computes_where_it_was_built_for(catalog: Catalog) -> None:
    """The package index has it for the CPU only; that of its authors knows CUDA as well."""
    gguf = catalog.card("mistral-7b-instruct-gguf")
    assert runs_on_cpu(gguf) is not has_gpu(xllamacpp.get_device_info())
    no_layers = gguf.model_copy(update={"engine": {"gpu_layers": 0}})
    assert runs_on_cpu(no_layers), "all of its layers stay on the CPU"


def test_a_graphics_card_is_told_from_what_else_llama_cpp_computes_on() -> None:
    kinds = Enum(
        "kinds", [f"GGML_BACKEND_DEVICE_TYPE_{n}" for n in ("CPU", "GPU", "IGPU", "ACCEL")]
    )

    def devices(*names: str) -> list[dict[str, Any]]:
        return [{"type": kinds[f"GGML_BACKEND_DEVICE_TYPE_{name}"]} for name in names]

    assert not has_gpu(devices("CPU", "ACCEL"))
    assert has_gpu(devices("CPU", "GPU"))
    assert has_gpu(devices("IGPU", "CPU"))


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
def test_a_library_that_cannot_be_opened_is_none(tmp_path: Path) -> None:
    """CTranslate2 opens cuBLAS of CUDA 12 at the first sound, and fails without it."""
    assert can_load_libraries(["libm.so.6"])
    assert not can_load_libraries(["libcublas.so.0"])
    (tmp_path / "libcublas.so.0").write_bytes(b"no library")
    assert not can_load_libraries(["libm.so.6", "libcublas.so.0"], [tmp_path])


def test_without_a_card_of_its_own_ctranslate2_computes_on_the_cpu(catalog: Catalog) -> None:
    """Tests hide the cards of the machine."""
    assert runs_on_cpu(catalog.card("whisper-base"))


# ------------------------------------------------------------ the ledger, fit, and the page agree


@NEEDS_NO_CARD
def test_fit_books_it_in_host_memory(tmp_path: Path) -> None:
    profile = mine(tmp_path, "mistral-7b-instruct-gguf")
    found = answer(read_settings(profile=profile, data=tmp_path))
    beside = [member.card for member in found.plan.beside]
    assert beside == ["mistral-7b-instruct-gguf", "picture-describer"]
    assert [line.member.card for line in found.plan.fit_report.lines] == ["whisper-small"]
    told = json.loads(found.as_json())["in_host_memory"]
    assert [model["card"] for model in told] == beside
    for words in (str(tables(found)[0]), render_fit(found)):
        assert "on the CPU, in host memory" in words


@NEEDS_NO_CARD
def test_a_gguf_model_answers_beside_a_card_that_it_takes_nothing_of(
    tmp_path: Path, weights_of: Callable[[str], Path]
) -> None:
    """SmolLM2 answers for real."""
    weights_of(SMALL)
    with closing(
        build(
            read_settings(profile=mine(tmp_path), device="sim:12GB", data=tmp_path, weights=WEIGHTS)
        )
    ) as made:
        talk = Conversation((Message("user", (TextPart("Hello"),)),))
        events = list(made.assistant.reply(talk, threading.Event()))
        assert isinstance(events[-1], Done)
        snapshot = made.memory.snapshot()
        (model,) = snapshot.held
        assert (model.card, model.place) == (SMALL, "host")
        assert snapshot.used_bytes == 0
        assert snapshot.host_bytes == footprint(made.catalog.card(SMALL)).total


# ------------------------------------------------------------ room in host memory


class Ram(HostDevice):
    """Host memory of which so much is free, mirrors apart."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self.held: dict[str, int] = {}

    def available_bytes(self) -> int:
        parked = self.mirrors.parked_bytes if self.mirrors else 0
        return self.total - parked - sum(self.held.values())

    def begin_load(self, card: str, size_bytes: int, parked: bool = False) -> None:
        super().begin_load(card, size_bytes)
        assert self.available_bytes() >= size_bytes, "the machine would swap"
        self.held[card] = size_bytes

    def remove(self, card: str) -> None:
        self.held.pop(card, None)


def beside(ram: Ram, source: FakeSource, budget: int) -> Manager:
    host = HostMemory(budget, source, None, lambda card: card.task is Task.TTS, ram)
    memory: Manager = MemoryManager(Simulated(100, host_bytes=1000), 100, source, host=host)
    host.share_with(memory.mirrors)
    return memory


def test_mirrors_of_the_card_give_way_to_a_model_on_the_cpu() -> None:
    source, ram = FakeSource(), Ram(130)
    memory = beside(ram, source, budget=100)
    use(memory, A, C, card("d", size=70))
    assert [mirror.card for mirror in memory.snapshot().mirrored] == ["a", "c"]
    with leased(memory, card("voice", Task.TTS, size=40)):
        assert [mirror.card for mirror in memory.snapshot().mirrored] == ["c"]
    assert source.closed == ["a"], "the longest parked, and no more than was needed"
    use(memory, A)
    assert source.loaded.count("a") == 2


def test_where_host_memory_lacks_the_turn_is_told_and_the_card_goes_on() -> None:
    memory = beside(Ram(50), FakeSource(), budget=100)
    with pytest.raises(CapacityError, match=r"of host memory is free\. Close other programs and"):
        use(memory, card("voice", Task.TTS, size=60))
    use(memory, A)
    assert held(memory) == {"a"}


def test_what_is_larger_than_the_budget_of_host_memory_is_told_so(catalog: Catalog) -> None:
    gguf = catalog.card("mistral-7b-instruct-gguf")
    assert host_bytes(16 * 10**9) > footprint(gguf).total
    memory: Manager = HostMemory(host_bytes(8 * 10**9), FakeSource())
    with pytest.raises(
        CapacityError, match=r"needs 4\.90 GB and 3\.20 GB of host memory are for models on the CPU"
    ):
        use(memory, gguf)


def test_models_of_a_spoken_conversation_must_fit_where_each_of_them_is_kept() -> None:
    memory = beside(Ram(1000), FakeSource(), budget=50)
    voice, other = (card(name, Task.TTS, size=30) for name in ("voice", "other"))
    assert (memory.budget_for(voice), memory.budget_for(A)) == (50, 100)
    check_room(memory, [A, voice])  # type: ignore[arg-type]
    with pytest.raises(CapacityError, match=r"Voice, Other must be .* budget of host memory"):
        check_room(memory, [A, voice, other])  # type: ignore[arg-type]
