"""How recordings are heard and answers spoken, as a person set it: from the route to the file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from fakes import FakeSource, program

from multimodal.build import Program
from multimodal.catalog.cards import Catalog
from multimodal.chats.service import Chats
from multimodal.errors import BackendError
from multimodal.events import Progress
from multimodal.messages import (
    AudioPart,
    Controls,
    Conversation,
    Drawing,
    ImagePart,
    Message,
    Part,
    Step,
    Task,
    TextPart,
    TranscriptionSettings,
)
from multimodal.requests import TranscriptionRequest, TTSRequest
from multimodal.turn.draft import Draft
from multimodal.turn.router import Router

ANN = "ann"
FRENCH = TranscriptionSettings("en", "fr")
SPOKEN = AudioPart(
    "c" * 64, "audio/flac", 3.0, transcript="Hello", language="en", translation="Salut"
)
HEARD = replace(SPOKEN, asked=FRENCH, heard_by="whisper-small")
CAT = ImagePart("a" * 64, "image/webp", 400, 300, "cat.jpg")
QUESTION = ROOT / "examples" / "question-en.wav"
SEAMLESS = "seamless-m4t-v2-large"


@pytest.fixture
def made(source: FakeSource, tmp_path: Path) -> Iterator[Program]:
    """A program whose profile has models that hear, one of which speaks too."""
    made = program(tmp_path, source, profile="gpu-12gb")
    yield made
    made.close()


@pytest.fixture
def chats(made: Program) -> Chats:
    return Chats(made.store, made.media, made.assistant)


@pytest.fixture(scope="module")
def router(catalog: Catalog) -> Router:
    return Router(catalog, catalog.profile("gpu-12gb"))


def said(*parts: Part, **controls: object) -> Conversation:
    return Conversation((Message("user", parts),), Controls(**controls))  # type: ignore[arg-type]


def turn(chats: Chats, talk: str, controls: Controls) -> Draft:
    *_, last = chats.open(ANN, talk).answer(threading.Event(), controls)
    assert last.done
    return last


def notices(draft: Draft) -> tuple[str, ...]:
    assert draft.reply.outcome is not None
    return draft.reply.outcome.notices


# ------------------------------------------------------------ which way


def test_a_recording_heard_in_another_way_is_heard_again(router: Router) -> None:
    assert router.decide(said(HEARD, hearing=FRENCH)).rule == "translate"
    for changed in (
        TranscriptionSettings(),
        TranscriptionSettings("fr", "fr"),
        TranscriptionSettings("en", "de"),
    ):
        route = router.decide(said(HEARD, hearing=changed))
        assert (route.rule, route.again) == ("voice", True)


def test_a_recording_is_heard_again_by_the_model_that_is_chosen_for_it(router: Router) -> None:
    route = router.decide(said(HEARD, hearing=FRENCH, model=SEAMLESS))
    assert [step.card for step in route.steps] == [SEAMLESS]
    again = router.decide(said(replace(HEARD, heard_by=SEAMLESS), hearing=FRENCH, model=SEAMLESS))
    assert (again.rule, again.answer) == ("write-down", "Salut")


def test_a_recording_alone_is_answered_with_its_translation(router: Router) -> None:
    assert router.decide(said(HEARD, hearing=FRENCH)).answer == "Salut"
    same = replace(HEARD, translation=None)
    assert router.decide(said(same, hearing=FRENCH)).answer == "Hello", "it was French already"
    silent = replace(HEARD, transcript="", translation=None)
    assert router.decide(said(silent, hearing=FRENCH)).rule == "no-speech"


def test_with_words_or_a_picture_beside_it_the_question_is_answered(router: Router) -> None:
    typed = router.decide(said(HEARD, TextPart("Sum this up"), hearing=FRENCH))
    assert typed.rule == "text"
    assert router.decide(said(HEARD, CAT, hearing=FRENCH)).rule == "picture"


@pytest.mark.parametrize("model", ["auto", SEAMLESS])
def test_an_answer_is_spoken_by_the_model_that_speaks(router: Router, model: str) -> None:
    german = TranscriptionSettings("en", "de")
    heard = replace(HEARD, heard_by=None, asked=german)
    route = router.decide(said(heard, model=model, hearing=german, speak_in="de"))
    assert route.aloud is not None
    assert (route.aloud.card, route.aloud.task) == (SEAMLESS, Task.SPEECH)


def test_a_voice_recorded_in_the_language_speaks_before_one_of_many_languages(
    router: Router,
) -> None:
    pytest.importorskip("espeakng_loader")
    heard = replace(HEARD, heard_by=None)
    route = router.decide(said(heard, hearing=FRENCH, speak_in="fr"))
    assert route.aloud is not None
    assert (route.aloud.card, route.aloud.task) == ("kokoro-82m-more-voices", Task.TTS)


def test_nothing_is_spoken_where_it_is_not_wanted_or_cannot_be(
    router: Router, catalog: Catalog
) -> None:
    assert router.decide(said(TextPart("Hello"))).aloud is None
    assert router.decide(said(TextPart("Draw a cat"), speak_in="en")).aloud is None
    first = router.decide(said(replace(HEARD, transcript=None), hearing=FRENCH, speak_in="en"))
    assert first.again
    assert first.aloud is None, "the words are not known yet"
    embedded = Router(catalog, catalog.profile("embedded"))
    assert embedded.decide(said(TextPart("Hello"), speak_in="sw")).aloud is None


def test_the_model_for_the_language_of_the_answer_speaks(catalog: Catalog) -> None:
    embedded = Router(catalog, catalog.profile("embedded"))
    english = embedded.decide(said(TextPart("Hello"), speak_in="en")).aloud
    assert english == Step(Task.TTS, "piper-joe-en-us", "speak the answer")
    named = embedded.decide(said(TextPart("Hello"), speak_in="en", voice="jf_alpha")).aloud
    assert named is not None
    assert named.card == "kokoro-82m"


# ------------------------------------------------------------ the whole turn


def test_a_recording_is_heard_as_asked_and_its_translation_spoken(
    made: Program, chats: Chats, source: FakeSource
) -> None:
    controls = Controls(hearing=FRENCH, speak_in="de")
    talk = made.store.create(ANN, controls)
    chats.open(ANN, talk).say("", [(QUESTION, "question.wav")])
    last = turn(chats, talk, controls)
    hears, speaks = source.requests
    assert isinstance(hears, TranscriptionRequest)
    assert (hears.language, hears.translate_to) == ("en", "fr")
    assert hears.translate_to_english_unless == (), "the translation is all that is wanted"
    assert speaks == TTSRequest("hello there in fr.", "de", "fr")
    assert last.reply.text == "hello there in fr"
    assert source.loaded == ["whisper-small", SEAMLESS]
    kept = made.store.load(ANN, talk)
    assert kept.controls == controls
    assert kept.messages[0].recordings[0].asked == FRENCH
    (voice,) = kept.messages[-1].recordings
    assert made.media.path(voice).is_file()
    assert voice.seconds == pytest.approx(0.5)
    assert voice.sha256 in made.store.media_in_use()


def test_hearing_and_speaking_stay_as_they_were_where_nothing_is_set(
    made: Program, chats: Chats, source: FakeSource
) -> None:
    talk = made.store.create(ANN)
    chats.open(ANN, talk).say("", [(QUESTION, "question.wav")])
    last = turn(chats, talk, Controls())
    hears, _ = source.requests
    assert (hears.language, hears.translate_to) == (None, None)
    assert last.reply.text == "hello there "
    assert last.reply.recordings == ()


def test_a_recording_is_not_heard_twice_in_the_same_way(
    made: Program, chats: Chats, source: FakeSource
) -> None:
    talk = made.store.create(ANN)
    asked = chats.open(ANN, talk).say("", [(QUESTION, "question.wav")])
    for hearing, heard in ((FRENCH, 1), (FRENCH, 1), (TranscriptionSettings("fr"), 2)):
        turn(chats, talk, Controls(hearing=hearing))
        assert sum(isinstance(r, TranscriptionRequest) for r in source.requests) == heard
        chats.open(ANN, talk).forget_reply(asked.id)


def test_signs_of_markdown_are_not_spoken(made: Program, chats: Chats, source: FakeSource) -> None:
    source.script = lambda _: ["## A **bold** ", "`word`"]
    talk = made.store.create(ANN)
    chats.open(ANN, talk).say("Hello")
    turn(chats, talk, Controls(speak_in="en"))
    assert source.requests[-1] == TTSRequest("A bold word.", "en")


def test_an_answer_that_cannot_be_spoken_stands_and_says_why(
    made: Program, chats: Chats, source: FakeSource
) -> None:
    source.mute = True
    talk = made.store.create(ANN)
    chats.open(ANN, talk).say("Hello")
    last = turn(chats, talk, Controls(speak_in="en"))
    assert last.reply.text == "Hello "
    assert last.reply.recordings == ()
    assert last.reply.outcome is not None
    assert last.reply.outcome.finish == "stop"
    assert "The answer was not spoken. The voice is hoarse." in notices(last)
    assert not source.active


def test_a_language_without_a_voice_is_told(tmp_path: Path, source: FakeSource) -> None:
    made = program(tmp_path, source)
    chats = Chats(made.store, made.media, made.assistant)
    talk = made.store.create(ANN)
    chats.open(ANN, talk).say("Hello")
    last = turn(chats, talk, Controls(speak_in="sw"))
    assert last.reply.text == "Hello "
    (told,) = notices(last)
    assert told.startswith(
        "The answer was not spoken. No voice here speaks Swahili. There are voices for English"
    )
    assert not any(isinstance(request, TTSRequest) for request in source.requests)
    made.close()


def test_an_answer_without_words_is_not_spoken(
    made: Program, chats: Chats, source: FakeSource
) -> None:
    source.script = lambda _: ["***"]
    talk = made.store.create(ANN)
    chats.open(ANN, talk).say("Hello")
    turn(chats, talk, Controls(speak_in="en"))
    assert not any(isinstance(request, TTSRequest) for request in source.requests)


def test_stop_before_the_voice_leaves_the_words(
    made: Program, chats: Chats, source: FakeSource
) -> None:
    talk, stop = made.store.create(ANN), threading.Event()
    chats.open(ANN, talk).say("one two three")
    for draft in chats.open(ANN, talk).answer(stop, Controls(speak_in="en")):
        if draft.reply.text:
            stop.set()
    assert draft.reply.text == "one "
    assert not any(isinstance(request, TTSRequest) for request in source.requests)


def test_a_stream_closed_while_it_speaks_returns_the_lease(
    made: Program, chats: Chats, source: FakeSource
) -> None:
    talk = made.store.create(ANN)
    chats.open(ANN, talk).say("Hello")
    drafts = chats.open(ANN, talk).answer(threading.Event(), Controls(speak_in="en"))
    for draft in drafts:
        if draft.progress == Progress("Speaking", 1.0):  # the engine's own; the turn's has no share
            break
    assert source.active == 1
    drafts.close()
    assert source.active == 0
    assert not any(held.leases for held in made.memory.snapshot().held)


def test_a_failed_answer_is_not_spoken(made: Program, chats: Chats, source: FakeSource) -> None:
    source.script = lambda _: ["Well ", BackendError("the engine failed")]
    talk = made.store.create(ANN)
    chats.open(ANN, talk).say("Hello")
    last = turn(chats, talk, Controls(speak_in="en"))
    assert last.reply.outcome is not None
    assert last.reply.outcome.error == "the engine failed"
    assert not any(isinstance(request, TTSRequest) for request in source.requests)


def test_what_is_set_for_voices_is_kept_with_the_conversation(made: Program) -> None:
    controls = Controls(drawing=Drawing("dogs"), hearing=FRENCH, speak_in="sw")
    talk = made.store.create(ANN, controls)
    assert made.store.load(ANN, talk).controls == controls
