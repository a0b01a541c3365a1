"""What is said decides who answers: tables of sentences as people write them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multimodal.catalog.cards import Catalog
from multimodal.errors import PromptError, RequestError, UnknownModelError
from multimodal.messages import (
    AudioPart,
    Controls,
    Conversation,
    ImagePart,
    Message,
    Outcome,
    Part,
    Route,
    Task,
    TextPart,
)
from multimodal.turn.router import Router

CAT = ImagePart("a" * 64, "image/webp", 400, 300, "cat.jpg")
CUP = ImagePart("b" * 64, "image/webp", 400, 300, "cup.jpg")
VOICE = AudioPart("c" * 64, "audio/flac", 3.0, "voice.wav")

ABOUT_PICTURES = [
    ("general", "What is this?"),
    ("general", "Décris cette image"),
    ("general", ""),
    ("text", "What does it say?"),
    ("text", "Lis le texte"),
    ("colours", "What color is it?"),
    ("colours", "De quelle couleur est-il ?"),
    ("objects", "How many people are there?"),
    ("objects", "Combien de personnes ?"),
    (None, "Is it dangerous?"),
    (None, "Write a poem about it"),
    (None, "Translate the text"),
    (None, "I read a book"),
]
DRAWING = ["Draw a cat", "please draw me a house", "Dessine un mouton", "Draw it. Quickly!"]
NOT_DRAWING = ["How do I draw a cat?", "The game was a draw.", "Draw a conclusion from this text"]
TEXT = [
    "Hello",
    "What is photosynthesis?",
    "I read a book",
    "what colour is the sky?",
    "What is this?",
    "How many people live in Tokyo?",
    "Describe the French revolution",
    "What does the Bible say about love?",
    "Transcribe is a verb",
    "Quelle est la capitale de la France ?",
]


def said(*parts: Part, model: str = "auto", before: tuple[Message, ...] = ()) -> Conversation:
    return Conversation((*before, Message("user", parts)), Controls(model))


@pytest.fixture(scope="module")
def router(catalog: Catalog) -> Router:
    return Router(catalog, catalog.profile("embedded"))


def tasks(route: Route) -> list[Task]:
    return [step.task for step in route.steps]


def looked_at(route: Route) -> list[tuple[str | None, str]]:
    return [(step.sha256, step.focus) for step in route.steps if step.task is Task.IMAGE]


def pictures_of(route: Route) -> list[str | None]:
    return [sha256 for sha256, _ in looked_at(route)]


@pytest.mark.parametrize("words", [*TEXT, *NOT_DRAWING])
def test_words_without_a_picture_go_to_the_text_model(router: Router, words: str) -> None:
    route = router.decide(said(TextPart(words)))
    assert (route.rule, tasks(route)) == ("text", [Task.TEXT])


@pytest.mark.parametrize(("focus", "words"), ABOUT_PICTURES)
def test_questions_about_a_picture_ask_for_the_right_findings(
    router: Router, focus: str | None, words: str
) -> None:
    route = router.decide(said(CAT, *([TextPart(words)] if words else [])))
    assert route.rule == "picture"
    assert tasks(route) == ([Task.IMAGE] if focus else [Task.IMAGE, Task.TEXT])
    assert (route.steps[0].sha256, route.steps[0].focus) == (CAT.sha256, focus or "general")


@pytest.mark.parametrize("words", DRAWING)
def test_a_wish_for_a_drawing_is_answered_with_what_it_needs(router: Router, words: str) -> None:
    route = router.decide(said(TextPart(words)))
    assert route.rule == "no-text-to-image"
    assert route.answer is not None
    assert "Stable Diffusion" in route.answer


def test_a_recording_is_heard_first_and_then_decided_again(router: Router) -> None:
    route = router.decide(said(VOICE))
    assert tasks(route) == [Task.SPEECH]
    assert route.again
    heard = replace(VOICE, transcript="What is photosynthesis?", language="en")
    route = router.decide(said(heard))
    assert tasks(route) == [Task.TEXT]
    assert not route.again
    drawing = replace(VOICE, transcript="Draw a cat.", language="en")
    assert router.decide(said(drawing)).rule == "no-text-to-image"


def test_a_spoken_question_about_a_picture_looks_at_it(router: Router) -> None:
    heard = replace(VOICE, transcript="What is this?", language="en")
    assert tasks(router.decide(said(CAT, heard))) == [Task.IMAGE]


def test_the_translation_decides_where_there_is_one(router: Router) -> None:
    heard = replace(VOICE, transcript="Was ist das?", language="de", english="What is this?")
    assert tasks(router.decide(said(CAT, heard))) == [Task.IMAGE]


def test_a_recording_without_speech_is_told(router: Router) -> None:
    route = router.decide(said(replace(VOICE, transcript="")))
    assert route.rule == "no-speech"
    assert route.answer is not None
    assert "voice.wav" in route.answer


@pytest.mark.parametrize("words", ["Transcribe this", "write it down please", "What did he say?"])
def test_a_transcript_is_given_when_asked_for(router: Router, words: str) -> None:
    heard = replace(VOICE, transcript="Buy milk.", language="en")
    route = router.decide(said(heard, TextPart(words)))
    assert (route.rule, route.answer) == ("write-down", "Buy milk.")


def test_a_long_recording_without_a_word_is_written_down(router: Router) -> None:
    heard = replace(VOICE, seconds=600.0, transcript="Long talk.", language="en")
    assert router.decide(said(heard)).answer == "Long talk."


def about_picture(router: Router, *pictures: ImagePart) -> tuple[Message, ...]:
    asked = said(*pictures, TextPart("What is this?"))
    outcome = Outcome(routes=(router.decide(asked),))
    reply = Message("assistant", (TextPart("A cat."),), outcome=outcome)
    return (*asked.messages, reply)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("What colour is it?", "earlier-picture"),
        ("Is it a tabby?", "earlier-picture"),
        ("What else do you see?", "earlier-picture"),
        ("Is he sleeping?", "earlier-picture"),
        ("What is photosynthesis?", "text"),
        ("Thanks!", "text"),
        ("Tell me a joke.", "text"),
    ],
)
def test_a_follow_up_goes_back_to_the_picture_and_another_subject_does_not(
    router: Router, words: str, rule: str
) -> None:
    route = router.decide(said(TextPart(words), before=about_picture(router, CAT)))
    assert route.rule == rule
    assert route.steps[0].sha256 == (None if rule == "text" else CAT.sha256)


TALK: tuple[Message, ...] = (
    Message("user", (TextPart("Tell me a joke."),)),
    Message("assistant", (TextPart("Ha."),)),
)


def test_a_picture_is_found_again_by_name_but_not_by_a_mere_it(router: Router) -> None:
    talk = (*about_picture(router, CAT), *TALK)
    for words in ("I don't get it.", "What colour is it?", "Describe it.", "Is he sleeping?"):
        assert router.decide(said(TextPart(words), before=talk)).rule == "text"
    for words in ("What colour was the cat in the picture?", "What is in cat.jpg?"):
        route = router.decide(said(TextPart(words), before=talk))
        assert (route.rule, route.steps[0].sha256) == ("earlier-picture", CAT.sha256)


def test_follow_ups_may_go_on_for_several_turns(router: Router) -> None:
    talk = about_picture(router, CAT)
    for words in ("What colour is it?", "Is he asleep?", "How old is he?"):
        route = router.decide(said(TextPart(words), before=talk))
        assert route.rule == "earlier-picture"
        answered = Message("assistant", (TextPart("Yes."),), outcome=Outcome(routes=(route,)))
        talk = (*talk, Message("user", (TextPart(words),)), answered)


def test_a_history_from_another_program_is_understood_without_outcomes(router: Router) -> None:
    talk = (
        Message("user", (CAT, TextPart("What is this?"))),
        Message("assistant", (TextPart("A cat."),)),
    )
    question = TextPart("What colour is it?")
    assert router.decide(said(question, before=talk)).rule == "earlier-picture"
    assert router.decide(said(question, before=(*talk, *TALK))).rule == "text"


def test_a_reply_that_failed_leaves_the_picture_the_subject(router: Router) -> None:
    failed = Message("assistant", (), outcome=Outcome(finish="failed", error="Broken."))
    talk = (Message("user", (CAT, TextPart("What is this?"))), failed)
    assert router.decide(said(TextPart("What is it?"), before=talk)).rule == "earlier-picture"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("What does the first picture say?", [CAT]),
        ("And the first one?", [CAT]),
        ("What does picture 1 say?", [CAT]),
        ("What colours are in the second picture?", [CUP]),
        ("What does the picture say?", [CUP]),
        ("What colour is it?", [CUP]),
        ("Describe the last picture", [CUP]),
        ("What is in the previous picture?", [CAT]),
        ("What colours has cat.jpg?", [CAT]),
        ("Describe both pictures", [CAT, CUP]),
        ("What is the first thing you see in the picture?", [CUP]),
        ("Que dit la première image ?", [CAT]),
        ("Décris les deux images", [CAT, CUP]),
    ],
)
def test_the_words_say_which_picture_is_meant(
    router: Router, words: str, meant: list[ImagePart]
) -> None:
    talk = (*about_picture(router, CAT), *about_picture(router, CUP))
    route = router.decide(said(TextPart(words), before=talk))
    assert pictures_of(route) == [picture.sha256 for picture in meant]


def test_a_picture_that_is_not_there_is_asked_about_and_not_guessed(router: Router) -> None:
    talk = (*about_picture(router, CAT), *about_picture(router, CUP))
    route = router.decide(said(TextPart("Describe the third picture"), before=talk))
    assert (route.rule, route.steps) == ("no-such-picture", ())
    assert route.answer == "This conversation has 2 pictures so far. Which one do you mean?"


def test_a_recording_of_silence_beside_a_picture_still_looks_at_it(router: Router) -> None:
    route = router.decide(said(CAT, replace(VOICE, transcript="")))
    assert (route.rule, tasks(route)) == ("picture", [Task.IMAGE])


def test_a_transcript_that_is_to_be_worked_on_goes_to_the_text_model(router: Router) -> None:
    heard = replace(VOICE, transcript="Buy milk.", language="en")
    route = router.decide(said(heard, TextPart("Transcribe and translate it")))
    assert (route.rule, tasks(route)) == ("text", [Task.TEXT])


def test_every_picture_of_a_message_is_looked_at(router: Router) -> None:
    route = router.decide(said(CAT, CUP, TextPart("What are these?")))
    assert pictures_of(route) == [CAT.sha256, CUP.sha256]


def test_a_chosen_model_overrides_the_rules(router: Router) -> None:
    route = router.decide(said(CAT, TextPart("What is this?"), model="smollm2-135m-instruct"))
    assert tasks(route) == [Task.IMAGE, Task.TEXT]
    dangerous = (CAT, TextPart("Is it dangerous?"))
    assert tasks(router.decide(said(*dangerous, model="picture-describer"))) == [Task.IMAGE]
    heard = replace(VOICE, transcript="What is this?", language="en")
    assert router.decide(said(heard, model="whisper-base")).answer == "What is this?"


def test_a_chosen_model_that_cannot_help_says_so(router: Router) -> None:
    hello = TextPart("Hello")
    with pytest.raises(RequestError, match="answers about pictures"):
        router.decide(said(hello, model="picture-describer"))
    with pytest.raises(RequestError, match="writes down recordings"):
        router.decide(said(hello, model="whisper-base"))
    with pytest.raises(UnknownModelError, match="no model 'gpt-5'"):
        router.decide(said(hello, model="gpt-5"))


@pytest.mark.parametrize("parts", [(), (TextPart("  \n "),)])
def test_an_empty_message_is_refused(router: Router, parts: tuple[Part, ...]) -> None:
    with pytest.raises(PromptError, match="The message is empty"):
        router.decide(said(*parts))


def test_the_same_conversation_always_gets_the_same_route(router: Router) -> None:
    conversation = said(TextPart("What colour is it?"), before=about_picture(router, CAT))
    assert router.decide(conversation) == router.decide(conversation)


def test_every_route_gives_its_reason_as_a_sentence(router: Router) -> None:
    for parts in [(CAT,), (VOICE,), (TextPart("Hi"),), (TextPart("Draw a cat"),)]:
        assert router.decide(said(*parts)).reason.endswith(".")


# ---------------------------------------------------------------- elliptic questions

SIGN = ImagePart("d" * 64, "image/webp", 400, 300, "sign.jpg")
VAN = ImagePart("e" * 64, "image/webp", 400, 300, "van.jpg")


@pytest.mark.parametrize(
    "words",
    [
        "And this?",
        "And this one?",
        "What about this one?",
        "Same question",
        "Et ça ?",
        "Et celle-ci ?",
        "Et cette image ?",
        "And the second?",
        "Et la deuxième ?",
        "Explain this image",
        "Explique cette image",
    ],
)
def test_a_new_picture_is_what_an_elliptic_question_is_about(router: Router, words: str) -> None:
    """Its findings alone answer: a text model that also read of the cat would mix the two."""
    talk = about_picture(router, CAT)
    route = router.decide(said(CUP, TextPart(words), before=talk))
    assert looked_at(route) == [(CUP.sha256, "general")]
    assert tasks(route) == [Task.IMAGE]


@pytest.mark.parametrize(
    ("asked", "focus"),
    [
        ("How many people are there?", "objects"),
        ("What does it say?", "text"),
        ("Which colours does it have?", "colours"),
        ("De quelle couleur est-il ?", "colours"),
        ("Is it dangerous?", "general"),
        ("", "general"),
    ],
)
def test_an_elliptic_question_asks_what_was_asked_before(
    router: Router, asked: str, focus: str
) -> None:
    talk = (
        Message("user", (CAT, *([TextPart(asked)] if asked else []))),
        Message("assistant", (TextPart("Well."),)),
    )
    for picture in (CUP, SIGN):  # and so does the one after it
        route = router.decide(said(picture, TextPart("And this one?"), before=talk))
        assert looked_at(route) == [(picture.sha256, focus)]
        answered = Message("assistant", (TextPart("Well."),))
        talk = (*talk, Message("user", (picture, TextPart("And this one?"))), answered)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("What does the second picture say?", [CUP]),
        ("What is in the first one?", [CAT]),
        ("And the second?", [CUP]),
        ("And the last?", [SIGN]),
        ("Que dit la deuxième image ?", [CUP]),
        ("Et la troisième ?", [SIGN]),
        ("What is in cup.jpg?", [CUP]),
        ("What are these?", [CAT, CUP, SIGN]),
        ("And these?", [CAT, CUP, SIGN]),
        ("And the ninth?", [CAT, CUP, SIGN]),
        ("Describe all the pictures", [CAT, CUP, SIGN]),
        ("Is the first picture older than the second one?", [CAT, CUP, SIGN]),
        ("What is different in the second picture?", [CAT, CUP, SIGN]),
        ("Compare cat.jpg with the others", [CAT, CUP, SIGN]),
        ("En quoi la deuxième image est-elle différente ?", [CAT, CUP, SIGN]),
    ],
)
def test_of_several_pictures_of_a_message_those_are_looked_at_that_are_meant(
    router: Router, words: str, meant: list[ImagePart]
) -> None:
    before = about_picture(router, VAN)
    route = router.decide(said(CAT, CUP, SIGN, TextPart(words), before=before))
    assert pictures_of(route) == [part.sha256 for part in meant]


def test_the_second_is_counted_where_several_were_shown_last(router: Router) -> None:
    before = about_picture(router, VAN)
    asked = said(CAT, CUP, TextPart("What does the first one say?"), before=before)
    talk = (*asked.messages, Message("assistant", (TextPart("Nothing."),)))
    route = router.decide(said(TextPart("And the second?"), before=talk))
    assert (route.rule, looked_at(route)) == ("earlier-picture", [(CUP.sha256, "text")])
    answered = Message("assistant", (TextPart("Tea."),))
    talk = (*talk, Message("user", (TextPart("And the second?"),)), answered)
    route = router.decide(said(TextPart("Et la première ?"), before=talk))
    assert looked_at(route) == [(CAT.sha256, "text")]
    alone = (*about_picture(router, CAT), *about_picture(router, CUP))
    route = router.decide(said(TextPart("And the first?"), before=alone))
    assert looked_at(route) == [(CAT.sha256, "general")]


def test_an_elliptic_question_about_no_picture_goes_to_the_text_model(router: Router) -> None:
    for words in ("And this?", "And the second?", "Et la deuxième ?"):
        assert router.decide(said(TextPart(words), before=TALK)).rule == "text"


@pytest.mark.parametrize(
    "words", ["Transcribe the text", "Transcris le texte", "Transcribe the words in the picture"]
)
def test_the_text_of_a_picture_is_read_and_not_what_was_said(router: Router, words: str) -> None:
    assert looked_at(router.decide(said(SIGN, TextPart(words)))) == [(SIGN.sha256, "text")]
    heard = replace(VOICE, transcript="Buy milk.", language="en")
    route = router.decide(said(SIGN, heard, TextPart(words)))
    assert route.rule == "picture"
    assert looked_at(route) == [(SIGN.sha256, "text")]
    assert router.decide(said(heard, TextPart(words))).answer == "Buy milk."
    assert router.decide(said(SIGN, heard, TextPart("Transcribe this"))).answer == "Buy milk."
