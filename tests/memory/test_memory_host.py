"""Models that run on the CPU beside a card: what they take of the card, which is nothing, and of
host memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import WEIGHTS
from fakes import FakeBackend, FakeSource, card
from small_memory import A, B, Manager, held, leased, manager, use
from starlette.applications import Starlette
from starlette.testclient import TestClient

from multimodal.backends.compute_device import runs_on_cpu
from multimodal.build import build, read_catalog
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.errors import CapacityError
from multimodal.fit import answer
from multimodal.hands_free.readiness import check_room
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.headroom import is_on_gpu
from multimodal.memory.host import LEAST_HOST_BYTES, HostMemory, host_bytes
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Controls, Message, Task, TextPart
from multimodal.settings import read_settings
from multimodal.web.gauge import gauge
from multimodal.web.reading_aloud import AnswerReader

VOICE = card("voice", Task.TTS, size=60, device="cpu")
OTHER = card("other", Task.TTS, size=50, device="cpu")
PROFILES = ("gpu-8gb", "gpu-12gb", "gpu-24gb")


@dataclass
class Places(FakeSource):
    """Remembers onto what each model was loaded."""

    engines: list[tuple[str, str]] = field(default_factory=list)

    def load(self, card: ModelCard, files: Path, engine: str) -> FakeBackend:
        self.engines.append((card.name, engine))
        return super().load(card, files, engine)


class Card(Simulated):
    """Engines are told to load onto it."""

    engine = "cuda"


def on_a_card(source: FakeSource | None = None, host: int = 100) -> Manager:
    source = source or FakeSource()
    return MemoryManager(Card(100), 100, source, host=HostMemory(host, source))


def test_a_model_that_only_runs_on_the_cpu_takes_nothing_of_the_card() -> None:
    source = Places()
    memory = on_a_card(source)
    use(memory, A)
    with leased(memory, VOICE, workspace=5):
        snapshot = memory.snapshot()
    assert source.engines == [("a", "cuda"), ("voice", "cpu")]
    assert (snapshot.used_bytes, snapshot.host_bytes) == (60, 65)
    assert [(h.card, h.place, h.leases) for h in snapshot.held] == [
        ("a", "device", 0),
        ("voice", "host", 1),
    ]
    assert memory.device.free_bytes() == 40
    assert source.closed == [], "nothing had to leave for it"
    assert [decision.card for decision in snapshot.decisions] == ["voice", "a"]


def test_without_a_card_it_is_charged_like_any_other() -> None:
    memory = manager()
    use(memory, VOICE)
    snapshot = memory.snapshot()
    assert (snapshot.used_bytes, snapshot.host_bytes) == (60, 0)
    assert [held.place for held in snapshot.held] == ["device"]


def test_models_on_the_cpu_take_turns_in_their_own_budget() -> None:
    source = FakeSource()
    memory = on_a_card(source)
    use(memory, A, B, VOICE, OTHER)
    assert held(memory) == {"a", "b", "other"}
    assert source.closed == ["voice"]
    assert memory.snapshot().host_bytes == 50
    with pytest.raises(
        CapacityError, match=r"Large needs 0\.00 GB and 0\.00 GB of host memory are for"
    ):
        use(memory, card("large", Task.TTS, size=200, device="cpu"))


def test_what_is_on_the_cpu_is_unloaded_and_closed_with_the_rest() -> None:
    source = FakeSource()
    memory = on_a_card(source)
    use(memory, A, VOICE, B)
    assert memory.unload("voice")
    assert not memory.unload("voice")
    use(memory, OTHER)
    memory.close()
    assert held(memory) == set()
    assert sorted(source.closed) == ["a", "b", "other", "voice"]


def test_a_turn_on_the_cpu_has_no_rung_on_the_card() -> None:
    source = FakeSource()
    memory = on_a_card(source)
    use(memory, A)
    with leased(memory, VOICE) as lease:
        assert memory.recover_from_oom(lease) == "The device was full; its cache was emptied."
        assert memory.recover_from_oom(lease) is None
        assert memory.cpu_fallback(lease) is None
    assert held(memory) == {"a", "voice"}


def test_the_gauge_shows_it_beside_the_card() -> None:
    memory = on_a_card()
    use(memory, A, VOICE)
    html = gauge(memory.snapshot(), str)
    assert html.count('<i class="ready"') == 1
    assert "0.00 GB of host memory" in html
    assert 'aria-valuenow="60"' in html


@pytest.mark.parametrize(("memory", "most"), [(2, LEAST_HOST_BYTES), (16, 6_400_000_000)])
def test_two_fifths_of_host_memory_are_for_it(memory: int, most: int) -> None:
    assert host_bytes(memory * 10**9) == most


@pytest.mark.parametrize("name", PROFILES)
def test_voices_of_a_card_profile_fit_beside_the_card(catalog: Catalog, name: str) -> None:
    profile = catalog.profile(name)
    voices = [catalog.card(voice) for voice in profile.models[Task.TTS]]
    assert is_on_gpu(profile)
    for voice in voices:
        assert runs_on_cpu(voice)
        assert footprint(voice).total <= LEAST_HOST_BYTES


@pytest.mark.parametrize("name", PROFILES)
def test_fit_says_that_voices_take_nothing_of_the_card(name: str) -> None:
    with_voice = answer(read_settings(profile=name))
    without = answer(read_settings(profile=name), models=_silent(name))
    assert [member.card for member in with_voice.plan.beside] == ["piper-joe-en-us"]
    assert with_voice.plan.fit_report == without.plan.fit_report
    on_cpu = answer(read_settings(profile=name, device="cpu"))
    assert on_cpu.plan.beside == ()
    assert "piper-joe-en-us" in {line.member.card for line in on_cpu.plan.fit_report.lines}


def _silent(name: str) -> tuple[str, ...]:
    profile = read_catalog(read_settings()).profile(name)
    return tuple(card for card in profile.defaults if card != profile.default_name(Task.TTS))


@pytest.mark.parametrize("name", PROFILES)
def test_there_is_room_to_talk_hands_free(name: str, tmp_path: Path) -> None:
    """With the models that a profile begins with."""
    device = f"sim:{name.removeprefix('gpu-')}"
    with closing(build(read_settings(profile=name, device=device, data=tmp_path))) as made:
        default = made.profile.default_name
        names = (default(Task.SPEECH), default(Task.TEXT), default(Task.TTS))
        check_room(made.memory, [made.catalog.card(card) for card in names if card is not None])
        assert None not in names


def test_a_voice_beside_a_card_takes_no_room_of_a_conversation() -> None:
    check_room(on_a_card(), [A, VOICE])
    without = manager()
    with pytest.raises(CapacityError, match="must be in memory at once"):
        check_room(without, [A, VOICE])


@pytest.mark.parametrize("name", PROFILES)
def test_an_answer_is_read_aloud_beside_a_simulated_card(
    name: str, tmp_path: Path, weights_of: Callable[[str], Path]
) -> None:
    """Piper speaks for real, and nothing is charged to the card."""
    weights_of("piper-joe-en-us")
    device = f"sim:{name.removeprefix('gpu-')}"
    settings = read_settings(profile=name, device=device, data=tmp_path, weights=WEIGHTS)
    with closing(build(settings)) as made:
        chat = made.store.create("ann", Controls())
        said = Message("assistant", (TextPart("The capital of Australia is Canberra."),))
        made.store.put_message("ann", chat, said)
        reader = AnswerReader(made)
        address = reader.prepare("ann", chat, said.id)["address"]
        with TestClient(Starlette(routes=reader.routes())) as client:
            reply = client.get(f"/{address}")
        assert (reply.status_code, reply.headers["content-type"]) == (200, "audio/mpeg")
        snapshot = made.memory.snapshot()
        assert snapshot.used_bytes == 0
        assert made.memory.device.free_bytes() == made.memory.budget_bytes
        (voice,) = snapshot.held
        assert (voice.card, voice.place) == ("piper-joe-en-us", "host")
        assert snapshot.host_bytes == footprint(made.catalog.card(voice.card)).total
    assert made.memory.snapshot().host_bytes == 0
