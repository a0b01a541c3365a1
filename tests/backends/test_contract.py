"""What every engine promises, whatever its family: it holds what its card says, ends when it is
told to, comes back from host memory the same, survives a full device, and says that it was closed.

The CPU stands in for the device; `test_card` does it on a card."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import faster_whisper
import numpy as np
import pytest
import tiny_gguf
import tiny_onnx
import tiny_speech
import torch
from conftest import wait_until
from diffusers import UNet2DConditionModel
from fakes import StopAfter
from tiny_adapters import adapter_card, save_adapter
from tiny_engines import ENGINES, leave_and_return, made_of, request_for
from tiny_hearing import heard
from tiny_style import save_adapter_of
from torch.nn.modules.module import register_module_forward_pre_hook

from multimodal.backends.base import AdapterHost, Backend, load
from multimodal.backends.registry import FAMILIES, find_family
from multimodal.catalog.architectures import ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import (
    EngineEvent,
    ImageDescribed,
    Notice,
    Progress,
    SentenceSpoken,
    SpeechTranscribed,
    TextDelta,
)
from multimodal.memory.devices.cuda import MovableModel
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.devices.storages import slots, storage_bytes
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.manager import MemoryManager
from multimodal.memory.transfers import ReportProgress
from multimodal.messages import Usage
from multimodal.requests import ChatMessage, Request, TextRequest, TranscriptionRequest
from multimodal.runner import Runner

NOT_TORCH = "its library lays out its memory itself, and no part of it can be moved"
NOT_ON_A_CARD = "it runs on the CPU whatever the device"
NO_CHAT = "each request stands alone"
WIDE_ON_CPU = "beside what is packed, it is in 32 bits on the CPU and in 16 on a card"
ONE_QUESTION = "it makes its cache itself, and answers one question about one picture"

Fail = Callable[[pytest.MonkeyPatch], None]
"""Lets the next computation find the device full, once."""


def fail_torch(patch: pytest.MonkeyPatch) -> None:
    def full(_module: Any, _inputs: Any) -> None:
        hook.remove()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = register_module_forward_pre_hook(full)


def fail_ctranslate2(patch: pytest.MonkeyPatch) -> None:
    def full(*_inputs: Any, **_more: Any) -> None:
        patch.undo()
        raise RuntimeError("CUDA failed with error out of memory")

    patch.setattr(faster_whisper.WhisperModel, "transcribe", full)


@dataclass(frozen=True)
class Case:
    """`make` gives a card and the folder of its weights. `exempt`: what this family cannot do, and
    why; the test shows that it cannot."""

    family: str
    make: Callable[[Path, pytest.FixtureRequest], tuple[ModelCard, Path]]
    asks: str
    kinds: tuple[str, ...] = ()
    fail: Fail | None = fail_torch
    exempt: dict[str, str] = field(default_factory=dict)


def on_torch(name: str) -> Case:
    engine, family = ENGINES[name], name.partition(" ")[0]

    def make(folder: Path, _request: pytest.FixtureRequest) -> tuple[ModelCard, Path]:
        return engine.make(folder, engine.kinds[0]), folder

    exempt = {} if engine.asks in {"text", "picture"} else {"prefix": NO_CHAT}
    if "blip" in name:
        exempt["prefix"] = ONE_QUESTION
    if family == "diffusion":
        exempt |= dict.fromkeys(("int8", "nf4-double"), WIDE_ON_CPU)
    if name == "diffusion ldm":
        exempt["fp32"] = "no card can name the text encoder of LDM"
    return Case(family, make, engine.asks, engine.kinds, exempt=exempt)


def on_llama_cpp(name: str) -> Case:
    def make(folder: Path, _request: pytest.FixtureRequest) -> tuple[ModelCard, Path]:
        tiny_gguf.SAVED[name](folder / "checkpoint")
        tiny_gguf.save_gguf(folder / "checkpoint", folder / "gguf")
        return tiny_gguf.card(name), folder / "gguf"

    exempt = {"mirror": NOT_TORCH, "full": "it takes all its memory when it is loaded"}
    return Case("llama_cpp", make, "picture", fail=None, exempt=exempt)


def speaking(family: str, save: Callable[[Path], None]) -> Case:
    def make(folder: Path, _request: pytest.FixtureRequest) -> tuple[ModelCard, Path]:
        save(folder / family)
        return tiny_speech.card(family, folder / family, tiny_speech.ENGLISH), folder / family

    exempt = {"mirror": NOT_TORCH, "full": NOT_ON_A_CARD, "prefix": NO_CHAT}
    return Case(family, make, "voice", fail=None, exempt=exempt)


def on_onnx(family: str, save: Callable[[Path], ModelCard], asks: str, **exempt: str) -> Case:
    def make(folder: Path, _request: pytest.FixtureRequest) -> tuple[ModelCard, Path]:
        return save(folder), folder

    exempt |= {"mirror": NOT_TORCH, "full": NOT_ON_A_CARD}
    return Case(family, make, asks, fail=None, exempt=exempt)


def embedded(family: str, card: str, asks: str, fail: Fail | None, **exempt: str) -> Case:
    def make(_folder: Path, request: pytest.FixtureRequest) -> tuple[ModelCard, Path]:
        catalog, weights_of = (request.getfixturevalue(name) for name in ("catalog", "weights_of"))
        return catalog.card(card), weights_of(card)

    return Case(family, make, asks, fail=fail, exempt={"prefix": NO_CHAT, **exempt})


CASES: dict[str, Case] = {
    **{name: on_torch(name) for name in ENGINES},
    **{f"llama_cpp {name}": on_llama_cpp(name) for name in tiny_gguf.SAVED},
    "onnx_text": on_onnx("onnx_text", tiny_onnx.save_onnx_text, "text"),
    "onnx_classifier": on_onnx(
        "onnx_classifier", tiny_onnx.save_onnx_classifier, "description", prefix=NO_CHAT
    ),
    "onnx_whisper": on_onnx(
        "onnx_whisper", tiny_onnx.save_onnx_whisper, "speech", prefix=NO_CHAT
    ),
    "kokoro": speaking("kokoro", tiny_speech.save_kokoro),
    "piper": speaking("piper", tiny_speech.save_piper),
    "faster_whisper": embedded(
        "faster_whisper", "whisper-base", "speech", fail_ctranslate2, mirror=NOT_TORCH
    ),
    "image_describer": embedded(
        "image_describer", "picture-describer", "description", None,
        mirror=NOT_ON_A_CARD, full=NOT_ON_A_CARD,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """One that is loaded, the request it is asked, and all that it answers."""

    case: Case
    card: ModelCard
    files: Path
    backend: Backend
    request: Request
    events: list[EngineEvent]

    def load(self, kind: str | None = None) -> Backend:
        card = self.card if kind is None else kinded(self.card, kind)
        return load(card, self.files, "cpu")

    def answer(self) -> list[str]:
        return made_of(list(self.backend.run(self.request, threading.Event())))

    def answers_as_before(self) -> bool:
        return self.answer() == made_of(self.events)


def kinded(card: ModelCard, kind: str) -> ModelCard:
    return card.model_copy(update={"quantization": (kind,)})


@pytest.fixture(scope="module", params=CASES)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, speech: Any
) -> Iterator[Engine]:
    case = CASES[request.param]
    card, files = case.make(tmp_path_factory.mktemp("engine"), request)
    backend = load(card, files, "cpu")
    pause = np.zeros(3 * 16_000, np.float32)
    said = np.concatenate([speech, pause] * 3)  # three windows
    asked = request_for(case.asks, said)
    yield Engine(case, card, files, backend, asked, list(backend.run(asked, threading.Event())))
    backend.close()


def modules(backend: Backend) -> list[torch.nn.Module]:
    return list(backend.modules()) if isinstance(backend, MovableModel) else []


def steps(events: list[EngineEvent]) -> int:
    """How much was done: tokens, steps of a drawing, windows heard, sentences, descriptions."""
    if events and isinstance(usage := events[-1], Usage):
        return usage.completion_tokens + usage.steps
    made = [event for event in events if isinstance(event, SentenceSpoken | ImageDescribed)]
    listened = [e for e in events if isinstance(e, Progress) and e.text == "Listening"]
    return len(made) + sum(progress.fraction != 1 for progress in listened)


def test_every_family_keeps_the_contract() -> None:
    assert {case.family for case in CASES.values()} == set(FAMILIES)


def test_it_holds_what_its_card_says_and_comes_back_from_its_mirror(engine: Engine) -> None:
    if not modules(engine.backend):
        pytest.skip(engine.case.exempt["mirror"])
    for kind in engine.case.kinds:
        backend = engine.load(kind)
        parts = modules(backend)
        held = sum(storage_bytes(part) for part in parts)
        if kind not in engine.case.exempt:
            said = footprint(kinded(engine.card, kind)).weights
            assert held == pytest.approx(said, rel=0.02), kind
        before = [slot.tensor.clone() for part in parts for slot in slots(part)]
        mirrors = leave_and_return(backend)
        after = [slot.tensor for part in parts for slot in slots(part)]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), kind
        assert held <= sum(mirror.size_bytes for mirror in mirrors), kind
        backend.close()


def test_it_ends_within_a_step_of_a_stop_and_is_free(engine: Engine) -> None:
    cut = list(engine.backend.run(engine.request, StopAfter(1)))
    assert steps(cut) <= 2
    assert steps(cut) < steps(engine.events)
    assert not [event for event in cut if isinstance(event, SpeechTranscribed)]
    assert all(event.finish == "stopped" for event in cut if isinstance(event, Usage))
    assert engine.answers_as_before()


def test_it_is_free_once_its_stream_is_closed(engine: Engine) -> None:
    before = set(threading.enumerate())
    stream = engine.backend.run(engine.request, threading.Event())
    next(stream)
    stream.close()
    wait_until(lambda: set(threading.enumerate()) <= before, 30)
    assert engine.answers_as_before()


def test_it_answers_the_same_after_it_was_evicted(engine: Engine) -> None:
    if not modules(engine.backend):
        pytest.skip(engine.case.exempt["mirror"])
    leave_and_return(engine.backend)
    assert engine.answers_as_before()


@dataclass
class Given:
    """A source that hands out a model that is loaded already."""

    backend: Backend

    def fetch(self, card: ModelCard, report: ReportProgress) -> Path:
        return Path()

    def load(self, card: ModelCard, files: Path, engine: str) -> Backend:
        return self.backend


def test_it_answers_after_it_found_the_device_full(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.case.fail is None:
        pytest.skip(engine.case.exempt["full"])
    room = 10**11
    device = Simulated(room, host_bytes=room)
    memory: MemoryManager[Backend] = MemoryManager(device, room, Given(engine.backend))
    assert footprint(engine.card).total, "computed before, since that runs its modules too"
    engine.case.fail(monkeypatch)
    stop = threading.Event()
    events = list(Runner(memory).run(engine.card, lambda: engine.request, stop))
    told = [event for event in events if isinstance(event, Notice) and "was full" in event.text]
    assert [notice.text for notice in told] == ["The device was full; its cache was emptied."]
    assert made_of(events[events.index(told[0]) + 1 :]) == made_of(engine.events)


def test_its_second_turn_reads_only_what_is_new_and_answers_alike(engine: Engine) -> None:
    if not isinstance(engine.request, TextRequest):
        pytest.skip(engine.case.exempt["prefix"])
    said = "".join(event.text for event in engine.events if isinstance(event, TextDelta))
    later = ChatMessage("assistant", said), ChatMessage("user", "Is it red?")
    follow = replace(engine.request, messages=(*engine.request.messages, *later))
    first = engine.events[-1]
    assert engine.answers_as_before()
    other = engine.load()
    answers = [list(one.run(follow, threading.Event())) for one in (engine.backend, other)]
    other.close()
    assert made_of(answers[0]) == made_of(answers[1]) != []
    cached, nothing = (a[-1].cached_tokens for a in answers if isinstance(a[-1], Usage))
    assert nothing == 0
    assert isinstance(first, Usage)
    if "prefix" in engine.case.exempt:
        assert cached == 0
    else:
        assert cached > first.prompt_tokens - 8


def test_what_switches_adapters_takes_one_for_a_turn(engine: Engine, tmp_path: Path) -> None:
    family = find_family(engine.card.family)
    if family is None or not family.switches_adapters:
        pytest.skip("it takes none, or only as it loads a model")
    adapter = random_adapter(engine, tmp_path)
    card = adapter_card(engine.card, adapter)
    adapted = cast("AdapterHost", engine.backend).adapted(card)
    answers = [made_of(list(adapted.run(engine.request, threading.Event()))) for _ in range(2)]
    assert answers[0] == answers[1] != made_of(engine.events)
    assert adapted.switch_s > 0
    assert engine.answers_as_before(), "nothing of it is left"


def random_adapter(engine: Engine, folder: Path) -> Path:
    unets = [it for it in modules(engine.backend) if isinstance(it, UNet2DConditionModel)]
    if unets:
        return save_adapter_of(copy.deepcopy(unets[0]), folder)
    shape = engine.card.architecture
    assert isinstance(shape, ModulesArchitecture)
    return save_adapter(folder, dict(next(iter(shape.parts.values())).config), std=0.5)


def test_what_hears_writes_no_words_of_silence(engine: Engine) -> None:
    if not isinstance(engine.request, TranscriptionRequest):
        pytest.skip("it does not hear")
    told = heard(engine.backend, np.zeros(16_000 * 4, np.float32)).spoken
    assert (told.text, told.language, told.segments) == ("", None, ())


def test_it_says_so_once_it_is_closed(engine: Engine) -> None:
    backend = engine.load()
    backend.close()
    assert modules(backend) == []
    with pytest.raises(
        BackendError, match=rf"{re.escape(engine.card.title)} was unloaded before it could "
    ):
        list(backend.run(engine.request, threading.Event()))
