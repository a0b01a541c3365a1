"""How recordings are heard and answers spoken, as a person set it: from the route to the file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT
from fakes import Talk

from multimodal.catalog.cards import Catalog
from multimodal.errors import BackendError
from multimodal.events import Progress
from multimodal.messages import (
    AudioPart,
    Controls,
    Conversation,
    ImagePart,
    Message,
    Part,
    Step,
    Task,
    TextPart,
    TranscriptionSettings,
)
from multimodal.requests import TranscriptionRequest, TTSRequest
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
def profile() -> str:
    """With models that hear, one of which speaks too."""
    return "gpu-12gb"


@pytest.fixture(scope="module")
def router(catalog: Catalog) -> Router:
    return Router(catalog, catalog.profile("gpu-12gb"))


def said(*parts: Part, **controls: object) -> Conversation:
    return Conversation((Message("user", parts),), Controls(**controls))  # type: ignore[arg-type]


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


def speaks(talk: Talk) -> bool:
    """Whether a model was asked to say something."""
    return any(isinstance(request, TTSRequest) for request in talk.source.requests)


def test_a_recording_is_heard_as_asked_and_its_translation_spoken(
    talk: Talk,
) -> None:
    controls = Controls(hearing=FRENCH, speak_in="de")
    talk.chat.set_controls(controls)
    last = talk.ask("", QUESTION)
    hears, speaks = talk.source.requests
    assert isinstance(hears, TranscriptionRequest)
    assert (hears.language, hears.translate_to) == ("en", "fr")
    assert hears.translate_to_english_unless == (), "the translation is all that is wanted"
    assert speaks == TTSRequest("hello there in fr.", "de", "fr")
    assert last.reply.text == "hello there in fr"
    assert talk.source.loaded == ["whisper-small", SEAMLESS]
    kept = talk.chat.load()
    assert kept.controls == controls
    assert kept.messages[0].recordings[0].asked == FRENCH
    (voice,) = kept.messages[-1].recordings
    assert talk.made.media.path(voice).is_file()
    assert voice.seconds == pytest.approx(0.5)
    assert voice.sha256 in talk.made.store.media_in_use()


def test_hearing_and_speaking_stay_as_they_were_where_nothing_is_set(
    talk: Talk,
) -> None:
    last = talk.ask("", QUESTION)
    hears, _ = talk.source.requests
    assert (hears.language, hears.translate_to) == (None, None)
    assert last.reply.text == "hello there "
    assert last.reply.recordings == ()


def test_a_recording_is_not_heard_twice_in_the_same_way(
    talk: Talk,
) -> None:
    asked = talk.say("", QUESTION)
    for hearing, heard in ((FRENCH, 1), (FRENCH, 1), (TranscriptionSettings("fr"), 2)):
        talk.answer(hearing=hearing)
        assert sum(isinstance(r, TranscriptionRequest) for r in talk.source.requests) == heard
        talk.chat.archive_reply(asked.id)


def test_signs_of_markdown_are_not_spoken(talk: Talk) -> None:
    talk.source.script = lambda _: ["## A **bold** ", "`word`"]
    talk.ask("Hello", speak_in="en")
    assert talk.source.requests[-1] == TTSRequest("A bold word.", "en")


def test_an_answer_that_cannot_be_spoken_stands_and_says_why(
    talk: Talk,
) -> None:
    talk.source.mute = True
    last = talk.ask("Hello", speak_in="en")
    assert last.reply.text == "Hello "
    assert last.reply.recordings == ()
    assert last.outcome.finish == "stop"
    assert "The answer was not spoken. The voice is hoarse." in last.outcome.notices
    assert not talk.source.active


@pytest.mark.parametrize("profile", ["embedded"])
def test_a_language_without_a_voice_is_told(talk: Talk) -> None:
    last = talk.ask("Hello", speak_in="sw")
    assert last.reply.text == "Hello "
    (told,) = last.outcome.notices
    assert told.startswith(
        "The answer was not spoken. No voice here speaks Swahili. There are voices for English"
    )
    assert not speaks(talk)


def test_an_answer_without_words_is_not_spoken(
    talk: Talk,
) -> None:
    talk.source.script = lambda _: ["***"]
    talk.ask("Hello", speak_in="en")
    assert not speaks(talk)


def test_stop_before_the_voice_leaves_the_words(
    talk: Talk,
) -> None:
    talk.say("one two three")
    for draft in talk.drafts(speak_in="en"):
        if draft.reply.text:
            talk.stop.set()
    assert draft.reply.text == "one "
    assert not speaks(talk)


def test_a_stream_closed_while_it_speaks_returns_the_lease(
    talk: Talk,
) -> None:
    talk.say("Hello")
    drafts = talk.drafts(speak_in="en")
    for draft in drafts:
        if draft.progress == Progress("Speaking", 1.0):  # the engine's own; the turn's has no share
            break
    assert talk.source.active == 1
    drafts.close()
    assert talk.under_way() == (0, 0, False)


def test_a_failed_answer_is_not_spoken(talk: Talk) -> None:
    talk.source.script = lambda _: ["Well ", BackendError("the engine failed")]
    last = talk.ask("Hello", speak_in="en")
    assert last.outcome.error == "the engine failed"
    assert not speaks(talk)
