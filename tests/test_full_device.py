"""What is done, and told, when the device is full whatever the budget says."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend, FakeSource, card
from PIL import Image
from small_memory import use
from text_requests import text_request

from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.errors import BackendError, DeviceFullError
from multimodal.events import Done, Notice, SpeechTranscribed
from multimodal.media.ingestion import MediaFolder
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.estimate.footprint import cpu_footprint, footprint
from multimodal.memory.manager import MemoryManager
from multimodal.memory.peaks import Peaks
from multimodal.messages import Conversation, Message, Outcome, Part, Task, TextPart
from multimodal.oom_fallbacks import smaller
from multimodal.requests import (
    ImageDescriptionRequest,
    ImageGenerationRequest,
    TextRequest,
    TranscriptionRequest,
)
from multimodal.turn.assistant import Assistant

TEXT = "smollm2-135m-instruct"
FULL = DeviceFullError("full")


@dataclass
class World:
    source: FakeSource
    device: Simulated
    memory: MemoryManager[FakeBackend]
    media: MediaFolder
    assistant: Assistant

    def say(self, *parts: Part) -> tuple[str, Outcome]:
        talk = Conversation((Message("user", parts or (TextPart("Hello"),)),))
        events = list(self.assistant.reply(talk, threading.Event()))
        assert isinstance(events[-1], Done)
        words = "".join(getattr(event, "text", "") for event in events[:-1])
        return words, events[-1].outcome


@pytest.fixture
def host_bytes() -> int:
    """Of memory beside the device, for what cannot run there."""
    return 4 * 10**9


@pytest.fixture
def world(tmp_path: Path, catalog: Catalog, source: FakeSource, host_bytes: int) -> World:
    device = Simulated(10**10, host_bytes=host_bytes)
    memory: MemoryManager[FakeBackend] = MemoryManager(device, 2 * 10**9, source)
    media = MediaFolder(tmp_path)
    profile = catalog.profile("embedded")
    assistant = Assistant(catalog, profile, memory, media)  # type: ignore[arg-type]
    return World(source, device, memory, media, assistant)


def full_times(count: int) -> Any:
    """A script that finds the device full so often, then answers."""
    tries = iter([[FULL]] * count)
    return lambda request: next(tries, ["fine"])


def test_a_turn_gives_up_one_thing_after_another_and_tells_each(world: World) -> None:
    world.source.script = full_times(3)
    use(world.memory, card("idle", size=5))  # type: ignore[arg-type]
    words, outcome = world.say()
    assert words.endswith("fine")
    assert outcome.notices == (
        "The device was full; one idle model left.",
        "The device was full; at most 2,048 tokens are read.",
        "The device was full; SmolLM2 135M runs on the CPU this time, which is slow.",
    )
    context = [request.context_tokens for request in world.source.requests]
    assert context == [None, None, 2048, None], "on the CPU nothing needs to be given up"


def test_the_copy_on_the_cpu_is_for_one_turn_only(world: World) -> None:
    world.source.script = full_times(3)
    world.say()
    assert world.source.loaded == [TEXT, TEXT]
    assert world.source.closed == [TEXT], "the copy is gone, the model on the device stays"
    words, outcome = world.say()
    assert words.endswith("fine")
    assert not outcome.notices
    assert world.source.loaded == [TEXT, TEXT], "the next turn tries the device again"


def test_a_turn_that_no_idle_model_can_help_is_tried_once_more(world: World) -> None:
    world.source.script = full_times(1)
    words, outcome = world.say()
    assert words.endswith("fine")
    assert outcome.notices == ("The device was full; its cache was emptied.",)


@pytest.mark.parametrize("host_bytes", [0])
def test_without_host_memory_the_error_is_told(world: World) -> None:
    world.source.script = full_times(9)
    with pytest.raises(DeviceFullError):
        world.say()
    assert len(world.source.requests) == 3, "as it was, after collecting, with less context"
    assert world.source.loaded == [TEXT]


def test_a_reply_that_has_begun_is_never_begun_again(world: World) -> None:
    world.source.script = lambda request: ["Once ", FULL]
    with pytest.raises(DeviceFullError):
        world.say()
    assert len(world.source.requests) == 1


def test_a_model_that_cannot_be_loaded_on_the_device_runs_on_the_cpu(world: World) -> None:
    world.device.fail_next = 9
    words, outcome = world.say()
    assert words.endswith("Hello ")
    assert "runs on the CPU this time" in outcome.notices[-1]
    assert world.memory.snapshot().held == ()
    assert world.memory.snapshot().waiting == 0
    world.device.fail_next = 0
    _, outcome = world.say()
    assert not outcome.notices
    assert [held.card for held in world.memory.snapshot().held] == [TEXT]


def test_a_device_that_other_programs_fill_is_no_end(world: World) -> None:
    world.device.others_bytes = 10**10 - 10**6
    words, outcome = world.say()
    assert words.endswith("Hello ")
    assert "runs on the CPU this time" in outcome.notices[0]


class _BrokenCopy(FakeSource):
    """The first load succeeds, the next one does not."""

    def load(self, card: ModelCard, files: Path, engine: str) -> FakeBackend:
        if self.loaded:
            raise BackendError("The copy is broken.")
        return super().load(card, files, engine)


@pytest.mark.parametrize("source", [_BrokenCopy(script=lambda request: [FULL])])
def test_a_copy_that_cannot_be_loaded_leaves_a_sentence_and_no_lease(world: World) -> None:
    with pytest.raises(BackendError, match=r"The copy is broken\."):
        world.say()
    assert world.memory.snapshot().held[0].leases == 0


def test_a_recording_is_heard_with_one_guess_at_a_time(world: World, examples: Path) -> None:
    part = world.media.add_audio(examples / "question-en.wav", "q.wav")
    request = TranscriptionRequest(world.media.waveform(part))
    found = list(smaller(request, world.assistant.catalog.card("whisper-base")))
    assert [told for told, _ in found] == ["The device was full; one guess at a time was followed."]
    assert found[0][1].beams == 1  # type: ignore[union-attr]


def test_a_picture_is_made_smaller_but_not_smaller_than_models_look(world: World) -> None:
    describer = world.assistant.catalog.card("picture-describer")

    def halved(width: int, height: int) -> tuple[int, int] | None:
        request = ImageDescriptionRequest(Image.new("RGB", (width, height)))
        found = [asked for _, asked in smaller(request, describer)]
        assert all(isinstance(asked, ImageDescriptionRequest) for asked in found)
        return found[0].image.size if found else None  # type: ignore[union-attr]

    assert halved(1000, 600) == (500, 300)
    assert halved(300, 30) == (224, 22)
    assert halved(224, 100) is None


def test_a_conversation_about_pictures_gives_up_pixels_before_words() -> None:
    request = text_request((("user", "What?"),), pictures=((0, Image.new("RGB", (800, 800))),))
    model = card("seer", task=Task.IMAGE, context_tokens=4096)
    first, second = (asked for _, asked in smaller(request, model))
    assert isinstance(first, TextRequest)
    assert isinstance(second, TextRequest)
    assert (first.images[0].size, first.context_tokens) == ((400, 400), None)
    assert (second.images[0].size, second.context_tokens) == ((400, 400), 2048)


def test_a_drawing_is_made_smaller(catalog: Catalog) -> None:
    artist = catalog.card("stable-diffusion-1.5")
    ((told, less),) = smaller(ImageGenerationRequest("a cat"), artist)
    assert told == "The device was full; 256 x 256 pixels are drawn."
    assert isinstance(less, ImageGenerationRequest)
    assert (less.prompt, less.width, less.height) == ("a cat", 256, 256)
    ((_, wide),) = smaller(ImageGenerationRequest("a cat", width=768, height=512), artist)
    assert isinstance(wide, ImageGenerationRequest)
    assert (wide.width, wide.height) == (384, 256)
    assert not list(smaller(less, artist))


def test_what_programs_ask_for_alone_climbs_the_same_ladder(world: World, examples: Path) -> None:
    part = world.media.add_audio(examples / "question-en.wav", "q.wav")
    world.source.full = 2
    events = list(world.assistant.transcribe(part, "whisper-base", threading.Event()))
    told = [event.text for event in events if isinstance(event, Notice)]
    assert told == [
        "The device was full; its cache was emptied.",
        "The device was full; one guess at a time was followed.",
    ]
    assert isinstance(events[-1], SpeechTranscribed)


def test_a_small_context_is_not_said_to_be_cut() -> None:
    model = card("small", context_tokens=512)
    assert not list(smaller(text_request((("user", "Hello"),)), model))


def test_a_turn_that_took_too_much_once_does_not_keep_its_model_out(tmp_path: Path) -> None:
    peaks = Peaks(tmp_path / "peaks.json")
    peaks.learn("large", 95)
    memory: MemoryManager[FakeBackend] = MemoryManager(Simulated(1000), 100, FakeSource(), peaks)
    with memory.lease(card("large", size=60), threading.Event()) as lease:
        for _ in lease.wait():
            pass
        assert lease.size_bytes == 40, "what there is room for, though 104 were seen"


@pytest.mark.parametrize(
    ("name", "times"),
    [("whisper-small", 2), ("seamless-m4t-v2-large", 1), ("mistral-7b-instruct", 1)],
)
def test_a_model_is_counted_on_the_cpu_as_its_engine_keeps_it_there(
    catalog: Catalog, name: str, times: int
) -> None:
    """Whisper computes in 32 bits there; transformers keep to 16, and to what is packed."""
    model = catalog.card(name)
    assert cpu_footprint(model).weights == pytest.approx(times * footprint(model).weights, rel=0.01)


def cpu_fallback(model: ModelCard, cpu_free_bytes: int) -> str | None:
    """What is told where a model must run on the CPU, and so much host memory is free."""
    device = Simulated(10**11, host_bytes=cpu_free_bytes)
    memory: MemoryManager[FakeBackend] = MemoryManager(device, 10**11, FakeSource())
    with memory.lease(model, threading.Event()) as lease:
        return memory.cpu_fallback(lease)


def test_no_model_runs_on_the_cpu_that_has_room_there_only_in_the_cards_format(
    catalog: Catalog,
) -> None:
    model = catalog.card("whisper-small")
    on_card, on_cpu = footprint(model).total, cpu_footprint(model).total
    assert on_card < on_cpu
    assert cpu_fallback(model, on_card) is None
    assert cpu_fallback(model, on_cpu - 1) is None
    assert cpu_fallback(model, on_cpu) is not None


def test_nothing_is_drawn_on_the_cpu_in_place_of_a_full_card(catalog: Catalog) -> None:
    assert cpu_fallback(catalog.card("stable-diffusion-1.5"), 10**12) is None
