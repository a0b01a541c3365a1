"""How a turn flows, and what is kept of it, with engines that do as they are told."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ANN, Talk
from PIL import Image
from text_requests import turns_of

from multimodal.backends.describing import describe
from multimodal.chats import service
from multimodal.chats.service import Chats
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
from multimodal.turn.request_builder import MOST_SEEN, RequestBuilder, Turn, turns


def test_events_come_in_order_and_end_with_done(talk: Talk) -> None:
    conversation = Conversation((Message("user", (TextPart("one two"),)),))
    events = list(talk.made.assistant.reply(conversation, talk.stop))
    assert isinstance(events[0], RouteChosen)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["one ", "two "]
    assert isinstance(events[-1], Done)
    outcome = events[-1].outcome
    assert outcome.finish == "stop"
    assert outcome.usage.prompt_tokens == 10
    assert outcome.timings[0].card == "smollm2-135m-instruct"
    assert outcome.first_token_s is not None


def test_a_voice_turn_is_heard_and_then_answered(talk: Talk, examples: Path) -> None:
    heard = talk.ask("", examples / "question-en.wav")
    assert heard.reply.text == "hello there "
    assert talk.kept()[0].recordings[0].transcript == "hello there"
    assert [route.rule for route in heard.outcome.routes] == ["voice", "text"]


def test_a_picture_is_looked_at_and_its_description_reaches_the_text_model(
    talk: Talk, square: Path
) -> None:
    talk.ask("Is it dangerous?", square)
    assert "[Picture: a red square]" in talk.source.requests[-1].messages[-1].text
    assert talk.kept()[0].images[0].description == "a red square"


def test_what_findings_can_answer_never_reaches_the_text_model(talk: Talk, square: Path) -> None:
    assert talk.ask("What is this?", square).reply.text == "A red square."
    assert len(talk.source.requests) == 1


def test_the_next_turn_sends_the_same_words_so_the_cache_stays_valid(
    talk: Talk, square: Path
) -> None:
    talk.ask("Is it dangerous?", square)
    first = turns_of(talk.source.requests[-1])
    talk.ask("Tell me a joke.")
    assert turns_of(talk.source.requests[-1])[: len(first)] == first


def test_abandoned_stream_returns_its_lease_and_keeps_what_was_written(talk: Talk) -> None:
    talk.say("one two three")
    drafts = talk.drafts()
    while not next(drafts).reply.text:
        pass
    drafts.close()
    assert talk.under_way() == (0, 0, False)
    reply = talk.kept()[-1]
    assert reply.text == "one "
    assert reply.outcome is not None
    assert reply.outcome.finish == "stopped"


def test_stop_ends_the_reply_and_keeps_it(talk: Talk) -> None:
    talk.say("one two three")
    for draft in talk.drafts():
        if draft.reply.text:
            talk.stop.set()
    assert draft.outcome.finish == "stopped"
    assert talk.kept()[-1].text == "one "


def test_an_engine_that_fails_leaves_a_sentence_and_loses_nothing(talk: Talk) -> None:
    talk.source.script = lambda request: ["one ", BackendError("The engine broke.")]
    talk.ask("Hello")
    asked, reply = talk.kept()
    assert asked.text == "Hello"
    assert reply.text == "one "
    assert reply.outcome is not None
    assert (reply.outcome.finish, reply.outcome.error) == ("failed", "The engine broke.")
    talk.source.script = lambda request: ["fine"]
    talk.chat.archive_reply(reply.id)
    assert talk.answer().reply.text == "fine"


@pytest.mark.parametrize("save_every_s", [0.0, math.inf], ids=["while it grows", "at first"])
def test_a_reply_is_kept_from_its_first_moment(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, save_every_s: float
) -> None:
    monkeypatch.setattr(service, "SAVE_EVERY_S", save_every_s)
    talk.say("one two")
    for draft in talk.drafts():
        kept = talk.kept()
        assert [message.role for message in kept] == ["user", "assistant"]
        unfinished = kept[1].outcome is None or kept[1].outcome.finish == "unfinished"
        assert unfinished, "an unfinished reply is told from a finished one"
        assert kept[1].text == ("" if save_every_s else draft.reply.text)


def test_a_conversation_is_answered_once_at_a_time(talk: Talk) -> None:
    talk.say("one two")
    drafts = talk.drafts()
    next(drafts)
    with pytest.raises(RequestError, match="still being answered"):
        talk.say("And?")
    with pytest.raises(RequestError, match="still being answered"):
        talk.chat.take_back()
    drafts.close()
    talk.say("And?")


def test_editing_replaces_the_words_keeps_the_picture_and_forgets_the_rest(
    talk: Talk, square: Path
) -> None:
    first = talk.say("What is this?", square)
    talk.answer()
    talk.ask("Thanks")
    talk.chat.edit(first.id, "Which colour?")
    (kept,) = talk.kept()
    assert kept.text == "Which colour?"
    assert [part.name for part in kept.images] == ["square.png"]


def test_taking_back_returns_the_message(talk: Talk) -> None:
    talk.ask("one")
    taken = talk.chat.take_back()
    assert taken is not None
    assert taken.text == "one"
    assert talk.kept() == ()
    assert talk.chat.take_back() is None


def test_a_bad_file_among_good_ones_stores_nothing(
    talk: Talk, square: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"MZ")
    with pytest.raises(MediaError):
        talk.say("Hi", square, tmp_path / "bad.jpg")
    assert talk.kept() == ()


@pytest.mark.parametrize(
    ("text", "sentence"), [("  ", "is empty"), ("x" * 400_001, "400,001 characters long")]
)
def test_messages_out_of_bounds_are_refused(talk: Talk, text: str, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        talk.say(text)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_deleting_while_a_reply_streams_ends_it_and_tells_nothing(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whoever deletes it, here or in another tab: nothing is raised, nothing comes back."""
    monkeypatch.setattr(service, "SAVE_EVERY_S", 0.0)
    talk.source.script = lambda request: (f"{i} " for i in range(100))
    talk.say("one two three")
    for draft in talk.drafts():
        if len(draft.reply.text.split()) == after and talk.made.store.headings(ANN):
            talk.made.store.delete(ANN, talk.id)
    assert len(draft.reply.text.split()) <= after + 1, "the engine went on for nobody"
    assert talk.under_way() == (0, 0, False)
    assert talk.made.store.headings(ANN) == []


@pytest.mark.parametrize("seed", [2**31, 2**63, 10**30, -1])
def test_a_seed_that_no_engine_takes_is_told_and_the_message_stays(talk: Talk, seed: int) -> None:
    talk.chat.set_controls(Controls(sampling=Sampling(seed=seed)))
    talk.ask("Hello")
    asked, reply = talk.kept()
    assert asked.text == "Hello"
    assert reply.outcome is not None
    assert f"The seed {seed} cannot be used. Give a whole number from 0" in str(reply.outcome.error)
    assert talk.source.requests == []
    talk.chat.set_controls(Controls(sampling=Sampling(seed=2**31 - 1)))
    talk.chat.archive_reply(reply.id)
    assert talk.answer().reply.text == "Hello "


def test_a_damaged_message_is_left_out_of_what_a_model_reads_and_stays_as_it_is(
    talk: Talk,
) -> None:
    for text in ("apple", "pear"):
        talk.ask(text)
    hurt, database = talk.kept()[0], talk.made.settings.data / "conversations.sqlite3"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE messages SET parts = '[{' WHERE id = ?", (hurt.id,))
        connection.commit()
    assert talk.ask("plum").reply.text == "plum "
    assert "apple" not in [
        text for role, text in turns_of(talk.source.requests[-1]) if role == "user"
    ]
    with closing(sqlite3.connect(database)) as connection:
        (kept,) = connection.execute(
            "SELECT parts FROM messages WHERE id = ?", (hurt.id,)
        ).fetchone()
    assert kept == "[{", "somebody may still repair it"


def test_controls_reach_the_engine(talk: Talk) -> None:
    talk.chat.set_controls(Controls(system_prompt="Be a pirate."))
    talk.ask("Hello")
    assert talk.source.requests[-1].system_prompt == "Be a pirate."


def test_transcribing_alone_yields_a_transcript(talk: Talk, examples: Path) -> None:
    part = talk.made.media.add_audio(examples / "question-en.wav", "q.wav")
    events = list(talk.made.assistant.transcribe(part, "whisper-base", talk.stop))
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


def test_a_question_that_failed_without_words_makes_no_later_one_fail(talk: Talk) -> None:
    def refuse_long(request: TextRequest) -> Iterator[str]:
        if any(len(words) > 1000 for _, words in turns_of(request)):
            raise ContextLengthError("That is longer than the model reads.")
        yield "fine"

    talk.source.script = refuse_long
    assert talk.ask("word " * 500).reply.text == ""
    assert talk.ask("Hello").reply.text == "fine"
    assert turns_of(talk.source.requests[-1]) == (("user", "Hello"),)


def test_an_error_that_nobody_expected_is_a_failure_with_a_sentence(
    talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(request: TextRequest) -> Iterator[str]:
        yield "one "
        raise ZeroDivisionError("of all things")

    talk.source.script = break_down
    assert talk.ask("Hello").reply.text == "one "
    outcome = talk.kept()[-1].outcome
    assert outcome is not None
    assert outcome.finish == "failed"
    assert "did not expect" in (outcome.error or "")
    assert "of all things" in caplog.text
    assert talk.under_way() == (0, 0, False)


def test_a_chat_that_is_full_sends_to_a_new_one(talk: Talk, square: Path, tmp_path: Path) -> None:
    small = MediaFolder(tmp_path / "media", Limits(chat_characters=20, chat_files=1))
    talk.chats = Chats(talk.made.store, small, talk.made.assistant)
    first = talk.say("What is this?", square)
    for text, files in (("x" * 20, []), ("and this?", [square])):
        with pytest.raises(PromptError, match="Begin a new chat"):
            talk.say(text, *files)
    with pytest.raises(PromptError, match="Begin a new chat"):
        talk.chat.edit(first.id, "x" * 21)
    talk.chat.edit(first.id, "x" * 20)
    assert [message.text for message in talk.kept()] == ["x" * 20]


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


def test_twenty_people_at_once_all_get_their_answers(talk: Talk) -> None:
    def ask(number: int) -> str:
        chat = talk.chats.open(f"person {number}", talk.made.store.create(f"person {number}"))
        chat.say(f"I am {number}")
        *_, last = chat.answer(threading.Event())
        return last.reply.text

    with ThreadPoolExecutor(20) as people:
        assert list(people.map(ask, range(20))) == [f"I am {n} " for n in range(20)]
    assert talk.made.memory.snapshot().waiting == 0


def test_a_long_page_is_read_whole_and_shown_smaller_to_a_model_that_sees(
    talk: Talk, tmp_path: Path
) -> None:
    Image.new("RGB", (1080, 8000), "white").save(tmp_path / "page.png")
    page = talk.made.media.add_image(tmp_path / "page.png", "page.png")
    conversation = Conversation((Message("user", (page, TextPart("What does it say?"))),))
    asking = RequestBuilder(talk.made.media, tuple)
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
