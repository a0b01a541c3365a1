"""How a turn flows, and what is kept of it, with engines that do as they are told."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import wait_until
from fakes import FakeBackend, FakeSource
from PIL import Image
from text_requests import turns_of

from multimodal.backends.describing import describe
from multimodal.catalog.cards import Catalog
from multimodal.chats.service import Chats
from multimodal.chats.store import Store
from multimodal.errors import (
    BackendError,
    ContextLengthError,
    MediaError,
    PromptError,
    RequestError,
)
from multimodal.events import Done, RouteChosen, SpeechTranscribed, TextDelta, TurnEvent
from multimodal.limits import Limits
from multimodal.media.ingestion import MediaFolder
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.manager import MemoryManager
from multimodal.messages import (
    Controls,
    Conversation,
    ImagePart,
    Message,
    Sampling,
    Step,
    Task,
    TextPart,
)
from multimodal.requests import ImageDescriptionRequest, ImageGenerationRequest, TextRequest
from multimodal.turn.assistant import Assistant
from multimodal.turn.request_builder import MOST_SEEN, RequestBuilder, Turn, turns

ANN = "ann"


@dataclass
class World:
    source: FakeSource
    memory: MemoryManager[FakeBackend]
    assistant: Assistant
    media: MediaFolder
    store: Store
    chats: Chats
    talk: str
    stop: threading.Event

    def say(self, text: str, *files: tuple[Path, str]) -> Message:
        return self.chats.open(ANN, self.talk).say(text, files)

    def answer(self) -> str:
        for draft in self.chats.open(ANN, self.talk).answer(self.stop):
            last = draft
        assert last.done
        return last.reply.text

    def kept(self) -> tuple[Message, ...]:
        return self.store.load(ANN, self.talk).messages


@pytest.fixture
def world(tmp_path: Path, catalog: Catalog) -> World:
    source = FakeSource()
    memory: MemoryManager[FakeBackend] = MemoryManager(Simulated(10**10), 2 * 10**9, source)
    media = MediaFolder(tmp_path / "media")
    profile = catalog.profile("embedded")
    assistant = Assistant(catalog, profile, memory, media)  # type: ignore[arg-type]
    store = Store(f"sqlite:///{tmp_path / 'chats.sqlite3'}")
    chats = Chats(store, media, assistant)
    return World(
        source, memory, assistant, media, store, chats, store.create(ANN), threading.Event()
    )


@pytest.fixture
def square(tmp_path: Path) -> tuple[Path, str]:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "square.png")
    return tmp_path / "square.png", "square.png"


def test_events_come_in_order_and_end_with_done(world: World) -> None:
    conversation = Conversation((Message("user", (TextPart("one two"),)),))
    events = list(world.assistant.reply(conversation, world.stop))
    assert isinstance(events[0], RouteChosen)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["one ", "two "]
    assert isinstance(events[-1], Done)
    outcome = events[-1].outcome
    assert outcome.finish == "stop"
    assert outcome.usage.prompt_tokens == 10
    assert outcome.timings[0].card == "smollm2-135m-instruct"
    assert outcome.first_token_s is not None


def test_a_voice_turn_is_heard_and_then_answered(world: World, examples: Path) -> None:
    world.say("", (examples / "question-en.wav", "q.wav"))
    assert world.answer() == "hello there "
    assert world.kept()[0].recordings[0].transcript == "hello there"
    routes = world.kept()[1].outcome
    assert routes is not None
    assert [route.rule for route in routes.routes] == ["voice", "text"]


def test_a_picture_is_looked_at_and_its_description_reaches_the_text_model(
    world: World, square: tuple[Path, str]
) -> None:
    world.say("Is it dangerous?", square)
    world.answer()
    assert "[Picture: a red square]" in world.source.requests[-1].messages[-1].text
    assert world.kept()[0].images[0].description == "a red square"


def test_what_findings_can_answer_never_reaches_the_text_model(
    world: World, square: tuple[Path, str]
) -> None:
    world.say("What is this?", square)
    assert world.answer() == "A red square."
    assert len(world.source.requests) == 1


def test_the_next_turn_sends_the_same_words_so_the_cache_stays_valid(
    world: World, square: tuple[Path, str]
) -> None:
    world.say("Is it dangerous?", square)
    world.answer()
    first = turns_of(world.source.requests[-1])
    world.say("Tell me a joke.")
    world.answer()
    assert turns_of(world.source.requests[-1])[: len(first)] == first


def test_abandoned_stream_returns_its_lease_and_keeps_what_was_written(world: World) -> None:
    world.say("one two three")
    drafts = world.chats.open(ANN, world.talk).answer(world.stop)
    while not next(drafts).reply.text:
        pass
    drafts.close()
    assert [entry.leases for entry in world.memory.snapshot().held] == [0]
    assert world.source.active == 0
    reply = world.kept()[-1]
    assert reply.text == "one "
    assert reply.outcome is not None
    assert reply.outcome.finish == "stopped"
    assert not world.chats.is_busy(world.talk)


def test_stop_ends_the_reply_and_keeps_it(world: World) -> None:
    world.say("one two three")
    for draft in world.chats.open(ANN, world.talk).answer(world.stop):
        if draft.reply.text:
            world.stop.set()
    assert draft.reply.outcome is not None
    assert draft.reply.outcome.finish == "stopped"
    assert world.kept()[-1].text == "one "


def test_an_engine_that_fails_leaves_a_sentence_and_loses_nothing(world: World) -> None:
    world.source.script = lambda request: ["one ", BackendError("The engine broke.")]
    world.say("Hello")
    world.answer()
    asked, reply = world.kept()
    assert asked.text == "Hello"
    assert reply.text == "one "
    assert reply.outcome is not None
    assert (reply.outcome.finish, reply.outcome.error) == ("failed", "The engine broke.")
    world.source.script = lambda request: ["fine"]
    world.chats.open(ANN, world.talk).forget_reply(reply.id)
    assert world.answer() == "fine"


def test_a_reply_is_kept_from_its_first_moment(world: World) -> None:
    world.say("one two")
    world.source.script = lambda request: (time.sleep(0.2) or f"{i} " for i in range(5))
    for draft in world.chats.open(ANN, world.talk).answer(world.stop):
        kept = world.kept()
        assert [message.role for message in kept] == ["user", "assistant"]
        unfinished = kept[1].outcome is None or kept[1].outcome.finish == "unfinished"
        assert unfinished, "an unfinished reply is told from a finished one"
        assert len(draft.reply.text) - len(kept[1].text) <= len("0 1 ") or draft.done


def test_a_conversation_is_answered_once_at_a_time(world: World) -> None:
    world.say("one two")
    drafts = world.chats.open(ANN, world.talk).answer(world.stop)
    next(drafts)
    with pytest.raises(RequestError, match="still being answered"):
        world.say("And?")
    with pytest.raises(RequestError, match="still being answered"):
        world.chats.open(ANN, world.talk).take_back()
    drafts.close()
    world.say("And?")


def test_editing_replaces_the_words_keeps_the_picture_and_forgets_the_rest(
    world: World, square: tuple[Path, str]
) -> None:
    first = world.say("What is this?", square)
    world.answer()
    world.say("Thanks")
    world.answer()
    world.chats.open(ANN, world.talk).edit(first.id, "Which colour?")
    (kept,) = world.kept()
    assert kept.text == "Which colour?"
    assert [part.name for part in kept.images] == ["square.png"]


def test_taking_back_returns_the_message(world: World) -> None:
    world.say("one")
    world.answer()
    taken = world.chats.open(ANN, world.talk).take_back()
    assert taken is not None
    assert taken.text == "one"
    assert world.kept() == ()
    assert world.chats.open(ANN, world.talk).take_back() is None


def test_a_bad_file_among_good_ones_stores_nothing(
    world: World, square: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"MZ")
    with pytest.raises(MediaError):
        world.say("Hi", square, (tmp_path / "bad.jpg", "bad.jpg"))
    assert world.kept() == ()


@pytest.mark.parametrize(
    ("text", "sentence"), [("  ", "is empty"), ("x" * 400_001, "400,001 characters long")]
)
def test_messages_out_of_bounds_are_refused(world: World, text: str, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        world.say(text)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_deleting_while_a_reply_streams_ends_it_and_tells_nothing(world: World, after: int) -> None:
    """Whoever deletes it, here or in another tab: nothing is raised, nothing comes back."""
    world.source.script = lambda request: (time.sleep(0.15) or f"{i} " for i in range(100))
    world.say("one two three")
    written = 0
    for draft in world.chats.open(ANN, world.talk).answer(world.stop):
        if len(draft.reply.text.split()) == after and not written:
            world.store.delete(ANN, world.talk)
            written = 1
    assert len(draft.reply.text.split()) < 50, "the engine went on for nobody"
    assert world.source.active == 0
    assert [entry.leases for entry in world.memory.snapshot().held] == [0]
    assert not world.chats.is_busy(world.talk)
    assert world.store.headings(ANN) == []


@pytest.mark.parametrize("seed", [2**31, 2**63, 10**30, -1])
def test_a_seed_that_no_engine_takes_is_told_and_the_message_stays(world: World, seed: int) -> None:
    world.store.set_controls(ANN, world.talk, Controls(sampling=Sampling(seed=seed)))
    world.say("Hello")
    world.answer()
    asked, reply = world.kept()
    assert asked.text == "Hello"
    assert reply.outcome is not None
    assert f"The seed {seed} cannot be used. Give a whole number from 0" in str(reply.outcome.error)
    assert world.source.requests == []
    world.store.set_controls(ANN, world.talk, Controls(sampling=Sampling(seed=2**31 - 1)))
    world.chats.open(ANN, world.talk).forget_reply(reply.id)
    assert world.answer() == "Hello "


def test_a_damaged_message_is_left_out_of_what_a_model_reads_and_stays_as_it_is(
    world: World, tmp_path: Path
) -> None:
    for text in ("apple", "pear"):
        world.say(text)
        world.answer()
    hurt = world.kept()[0]
    with closing(sqlite3.connect(tmp_path / "chats.sqlite3")) as connection:
        connection.execute("UPDATE messages SET parts = '[{' WHERE id = ?", (hurt.id,))
        connection.commit()
    world.say("plum")
    assert world.answer() == "plum "
    assert "apple" not in [
        text for role, text in turns_of(world.source.requests[-1]) if role == "user"
    ]
    with closing(sqlite3.connect(tmp_path / "chats.sqlite3")) as connection:
        (kept,) = connection.execute(
            "SELECT parts FROM messages WHERE id = ?", (hurt.id,)
        ).fetchone()
    assert kept == "[{", "somebody may still repair it"


def test_controls_reach_the_engine(world: World) -> None:
    world.store.set_controls(ANN, world.talk, Controls(system_prompt="Be a pirate."))
    world.say("Hello")
    world.answer()
    assert world.source.requests[-1].system_prompt == "Be a pirate."


def test_transcribing_alone_yields_a_transcript(world: World, examples: Path) -> None:
    part = world.media.add_audio(examples / "question-en.wav", "q.wav")
    events = list(world.assistant.transcribe(part, "whisper-base", world.stop))
    assert any(isinstance(event, SpeechTranscribed) for event in events)


def test_turns_alternate_whatever_the_history_holds() -> None:
    messages = (
        Message("assistant", (TextPart("Welcome"),)),
        Message("user", (TextPart("one"),)),
        Message("assistant", ()),
        Message("user", (TextPart("two"),)),
        Message("assistant", (TextPart("three"),)),
        Message("user", (TextPart("four"),)),
    )
    assert turns(Conversation(messages)) == (
        Turn("user", "Hello."),
        Turn("assistant", "Welcome"),
        Turn("user", "one\n\ntwo"),
        Turn("assistant", "three"),
        Turn("user", "four"),
    )


def test_a_question_that_failed_without_words_makes_no_later_one_fail(world: World) -> None:
    def refuse_long(request: TextRequest) -> Iterator[str]:
        if any(len(words) > 1000 for _, words in turns_of(request)):
            raise ContextLengthError("That is longer than the model reads.")
        yield "fine"

    world.source.script = refuse_long
    world.say("word " * 500)
    assert world.answer() == ""
    world.say("Hello")
    assert world.answer() == "fine"
    assert turns_of(world.source.requests[-1]) == (("user", "Hello"),)


def test_an_error_that_nobody_expected_is_a_failure_with_a_sentence(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(request: TextRequest) -> Iterator[str]:
        yield "one "
        raise ZeroDivisionError("of all things")

    world.source.script = break_down
    world.say("Hello")
    assert world.answer() == "one "
    outcome = world.kept()[-1].outcome
    assert outcome is not None
    assert outcome.finish == "failed"
    assert "did not expect" in (outcome.error or "")
    assert "of all things" in caplog.text
    assert not world.chats.is_busy(world.talk)


def test_a_chat_that_is_full_sends_to_a_new_one(
    world: World, square: tuple[Path, str], tmp_path: Path
) -> None:
    small = MediaFolder(tmp_path / "media", Limits(chat_characters=20, chat_files=1))
    chats = Chats(world.store, small, world.assistant)
    first = chats.open(ANN, world.talk).say("What is this?", [square])
    for text, files in (("x" * 20, []), ("and this?", [square])):
        with pytest.raises(PromptError, match="Begin a new chat"):
            chats.open(ANN, world.talk).say(text, files)
    with pytest.raises(PromptError, match="Begin a new chat"):
        chats.open(ANN, world.talk).edit(first.id, "x" * 21)
    chats.open(ANN, world.talk).edit(first.id, "x" * 20)
    assert [message.text for message in world.kept()] == ["x" * 20]


def test_of_many_pictures_the_newest_are_seen_at_once_and_that_is_told() -> None:
    pictures = tuple(ImagePart(f"{n:064x}", "image/png", 8, 8) for n in range(MOST_SEEN + 4))
    step = Step(Task.IMAGE, "seer", "look", pictures=tuple(p.sha256 for p in pictures))
    talk = Conversation((Message("user", (*pictures, TextPart("Compare them all"))),))
    opened: list[str] = []

    class Shelf(MediaFolder):
        def image(self, part: ImagePart) -> Image.Image:
            opened.append(part.sha256)
            return Image.new("RGB", (8, 8))

    asking = RequestBuilder(Shelf(Path("/nowhere")), tuple)
    request = asking.request(step, talk)
    assert isinstance(request, TextRequest)
    assert len(request.images) == MOST_SEEN
    assert opened == list(step.pictures[-MOST_SEEN:])
    (told,) = asking.notices(request, step, talk, "Seer")
    assert f"the newest {MOST_SEEN}" in told


def test_a_picture_that_was_made_is_shown_in_the_persons_next_turn() -> None:
    made = ImagePart("a" * 64, "image/png", 8, 8, description="a cat")
    messages = (
        Message("user", (TextPart("Draw a cat"),)),
        Message("assistant", (made,)),
        Message("user", (TextPart("What is in the picture?"),)),
    )
    assert turns(Conversation(messages), {made.sha256}) == (
        Turn("user", "Draw a cat\n\nWhat is in the picture?", (made,)),
    )


def test_twenty_people_at_once_all_get_their_answers(world: World) -> None:
    texts: dict[int, str] = {}

    def person(number: int) -> None:
        talk = world.store.create(f"person {number}")
        world.chats.open(f"person {number}", talk).say(f"I am {number}")
        for draft in world.chats.open(f"person {number}", talk).answer(threading.Event()):
            texts[number] = draft.reply.text

    threads = [threading.Thread(target=person, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == {n: f"I am {n} " for n in range(20)}
    wait_until(lambda: world.memory.snapshot().waiting == 0, 5)


def test_a_long_page_is_read_whole_and_shown_smaller_to_a_model_that_sees(
    world: World, tmp_path: Path
) -> None:
    Image.new("RGB", (1080, 8000), "white").save(tmp_path / "page.png")
    page = world.media.add_image(tmp_path / "page.png", "page.png")
    conversation = Conversation((Message("user", (page, TextPart("What does it say?"))),))
    asking = RequestBuilder(world.media, tuple)
    look = Step(Task.IMAGE, "any", "look", page.sha256)
    read = asking.request(look, conversation)
    assert isinstance(read, ImageDescriptionRequest)
    assert read.image.size == (1080, 8000)
    seen = asking.request(replace(look, pictures=(page.sha256,)), conversation)
    assert isinstance(seen, TextRequest)
    asked: list[TextRequest] = [seen]

    def answer(request: TextRequest) -> Generator[TurnEvent, None, None]:
        asked.append(request)
        yield TextDelta("a page")

    list(describe(read, answer))
    drawn = asking.request(Step(Task.DRAW, "any", "draw", page.sha256), conversation)
    assert isinstance(drawn, ImageGenerationRequest)
    assert drawn.source is not None
    assert [request.images[0].size for request in asked] == [(276, 2048)] * 2
    assert drawn.source.size == (276, 2048)
