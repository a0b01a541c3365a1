"""A picture or a recording whose file is gone: what is left of the conversation is shown, the turn
that needs the file says which one it is, and nothing else is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import ANN, Talk

from multimodal.build import Program
from multimodal.errors import StoreError
from multimodal.messages import Controls
from multimodal.web.chat_controller import ChatController
from multimodal.web.tab_session import TabSession


def lose_media(made: Program) -> None:
    found = [path for path in made.settings.media_folder.rglob("*.*") if path.is_file()]
    assert found, "there was a file to lose"
    for path in found:
        path.unlink()


def test_a_turn_that_needs_what_is_gone_says_which_and_the_next_one_works(
    talk: Talk, square: Path
) -> None:
    talk.ask("What is this?", square)
    lose_media(talk.made)
    told = talk.ask("Describe the picture.").outcome.error or ""
    assert "The picture “square.png” is gone" in told
    assert "Send it again" in told
    assert str(talk.made.settings.data) not in told, "a path of the server is nobody's business"
    assert talk.under_way() == (0, 0, False)
    assert talk.ask("Tell me a joke").outcome.error is None
    assert talk.ask("What is this?", square).reply.text == "A red square."
    assert len(talk.kept()) == 8


def test_a_recording_that_is_gone_before_it_was_heard_is_named(talk: Talk, examples: Path) -> None:
    talk.say("", examples / "question-en.wav")
    lose_media(talk.made)
    outcome = talk.answer().outcome
    assert outcome.finish == "failed"
    assert "The recording “question-en.wav” is gone" in (outcome.error or "")


# ---------------------------------------------------------------- as the page shows it


def shown(talk: Talk) -> str:
    view = ChatController(talk.made, "secret").view
    return json.dumps(view.open(TabSession(ANN), talk.id)["messages"], ensure_ascii=False)


def test_a_conversation_whose_files_are_gone_opens_with_a_word_in_their_place(
    talk: Talk, square: Path, examples: Path
) -> None:
    talk.ask("What is this?", square)
    talk.ask("", examples / "question-en.wav")
    lose_media(talk.made)
    for words in (
        "The picture “square.png” is gone",
        "What is this?",
        "A red square.",
        "The recording “question-en.wav” is gone",
        "hello there",
    ):
        assert words in shown(talk)


def test_undoing_a_turn_whose_picture_is_gone_gives_its_words_back(
    talk: Talk, square: Path
) -> None:
    talk.ask("What is this?", square)
    lose_media(talk.made)
    asked = {"do": "take_back", "nonce": "0a", "chat": talk.id, "message": talk.kept()[0].id}
    frame = ChatController(talk.made, "secret").act(TabSession(ANN, talk.id), asked, Controls)
    (given,) = frame["receipts"]
    assert (given["text"], given["files"]) == ("What is this?", [])


def test_only_a_conversation_that_was_deleted_opens_as_a_new_one(talk: Talk) -> None:
    made, other = talk.made, talk.made.store.create(ANN)
    made.store.delete(ANN, talk.id)
    controller, session = ChatController(made, "secret"), TabSession(ANN, other)
    assert controller.view.open(session, talk.id)["messages"] == []
    assert session.conversation == ""
    session.conversation = other
    made.store.close()
    (made.settings.data / "conversations.sqlite3").write_bytes(b"garbage" * 5000)
    with pytest.raises(StoreError, match="cannot be read"):
        controller.view.open(session, talk.id)
    assert session.conversation == other, "it still looks at what it looked at"
