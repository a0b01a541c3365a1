"""An answer that is asked for again: what stays of the one before, and what is read later."""

from __future__ import annotations

import pytest
from fakes import Talk
from text_requests import turns_of

from multimodal.errors import BackendError, RequestError, StoreError
from multimodal.messages import Message


def script(talk: Talk, *words: object) -> None:
    """From now on answers are these words."""
    talk.source.script = lambda request: words


def redo(talk: Talk, *words: object) -> Message:
    script(talk, *words)
    talk.chat.archive_reply(talk.kept()[-1].id)
    talk.answer()
    return talk.kept()[-1]


@pytest.fixture
def apple(talk: Talk) -> Message:
    """The first answer."""
    script(talk, "apple")
    return talk.ask("Name a fruit.").reply


def test_a_redo_keeps_both_answers_and_later_turns_read_the_chosen_one(
    talk: Talk, apple: Message
) -> None:
    pear = redo(talk, "pear")
    assert pear.versions == (apple.id, pear.id)
    assert turns_of(talk.source.requests[-1]) == (("user", "Name a fruit."),)
    for version, words in ((apple.id, "apple"), (pear.id, "pear")):
        talk.chat.choose_version(version)
        talk.ask("And why?")
        read = turns_of(talk.source.requests[-1])
        assert read == (("user", "Name a fruit."), ("assistant", words), ("user", "And why?"))
        talk.chat.take_back()
    assert talk.kept()[-1].versions == (apple.id, pear.id)


def test_a_version_has_its_own_outcome(talk: Talk, apple: Message) -> None:
    redo(talk, "pear", BackendError("The engine broke."))
    talk.chat.choose_version(apple.id)
    assert talk.kept()[-1].outcome == apple.outcome
    assert apple.outcome is not None
    assert apple.outcome.routes


def test_a_redo_that_is_stopped_before_any_word_leaves_the_answer_as_it_was(
    talk: Talk, apple: Message
) -> None:
    talk.stop.set()
    redo(talk, "pear")
    assert talk.kept()[-1] == apple


def test_a_redo_that_nobody_waits_for_leaves_the_answer_as_it_was(
    talk: Talk, apple: Message
) -> None:
    talk.chat.archive_reply(apple.id)
    drafts = talk.drafts()
    next(drafts)
    assert talk.kept()[-1].id != apple.id
    drafts.close()
    assert talk.kept()[-1] == apple


def test_a_redo_that_is_stopped_in_its_words_is_a_version(talk: Talk, apple: Message) -> None:
    talk.chat.archive_reply(apple.id)
    script(talk, "pear ", "and ", "plum")
    for draft in talk.drafts():
        if draft.reply.text:
            talk.stop.set()
    assert [message.text for message in talk.kept()] == ["Name a fruit.", "pear "]
    assert talk.kept()[-1].versions == (apple.id, draft.reply.id)


def test_a_redo_that_fails_says_why_and_the_answer_before_is_a_version(
    talk: Talk, apple: Message
) -> None:
    failed = redo(talk, BackendError("The engine broke."))
    assert failed.outcome is not None
    assert (failed.outcome.finish, failed.outcome.error) == ("failed", "The engine broke.")
    assert failed.versions == (apple.id, failed.id)
    pear = redo(talk, "pear")
    assert pear.versions == (apple.id, pear.id), "a failure has nothing to go back to"


def test_who_goes_on_after_a_redo_that_failed_goes_on_with_the_answer_before(
    talk: Talk, apple: Message
) -> None:
    redo(talk, BackendError("The engine broke."))
    script(talk, "because")
    talk.ask("And why?")
    assert turns_of(talk.source.requests[-1])[1] == ("assistant", "apple")
    assert [message.text for message in talk.kept()] == [
        "Name a fruit.",
        "apple",
        "And why?",
        "because",
    ]


def test_who_goes_on_after_a_first_answer_that_failed_sees_it_still(talk: Talk) -> None:
    script(talk, BackendError("The engine broke."))
    failed = talk.ask("Name a fruit.").reply
    script(talk, "fine")
    talk.ask("And why?")
    assert talk.kept()[1] == failed


def test_an_edit_drops_the_versions_of_the_answer(talk: Talk, apple: Message) -> None:
    redo(talk, "pear")
    talk.chat.edit(talk.kept()[0].id, "Name a tree.")
    talk.answer()
    assert talk.kept()[-1].versions == ()
    with pytest.raises(StoreError, match="no longer part of this conversation"):
        talk.chat.choose_version(apple.id)


def test_no_version_is_chosen_while_the_conversation_is_answered_and_a_rating_is_noted(
    talk: Talk, apple: Message
) -> None:
    pear = redo(talk, "pear")
    talk.say("And why?")
    drafts = talk.drafts()
    next(drafts)
    with pytest.raises(RequestError, match="still being answered"):
        talk.chat.choose_version(apple.id)
    talk.chat.rate(pear.id, "up")
    for _ in drafts:
        pass
    assert talk.kept()[1].rating == "up"
