"""A picture or a recording whose file is gone: what is left of the conversation is shown, the turn
that needs the file says which one it is, and nothing else is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeSource, program
from PIL import Image

from multimodal.build import Program
from multimodal.chats.service import Chats
from multimodal.errors import StoreError
from multimodal.messages import Controls, Message
from multimodal.web.chat_controller import ChatController
from multimodal.web.tab_session import TabSession


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "data").mkdir()
    made = program(tmp_path / "data", FakeSource())
    yield made
    made.close()


@pytest.fixture
def chats(made: Program) -> Chats:
    return Chats(made.store, made.media, made.assistant)


@pytest.fixture
def square(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "square.png")
    return tmp_path / "square.png"


def ask(chats: Chats, talk: str, text: str, *files: Path) -> str:
    """Send a message and return the reply, or the sentence that says why there is none."""
    chats.open("ann", talk).say(text, [(path, path.name) for path in files])
    for draft in chats.open("ann", talk).answer(threading.Event()):
        last = draft
    assert last.done
    reply = messages(chats, talk)[-1]
    assert reply.outcome is not None
    return reply.outcome.error or reply.text


def messages(chats: Chats, talk: str) -> tuple[Message, ...]:
    return chats.store.load("ann", talk).messages


def lose_media(made: Program) -> None:
    found = [path for path in made.settings.media_folder.rglob("*.*") if path.is_file()]
    assert found, "there was a file to lose"
    for path in found:
        path.unlink()


def test_a_turn_that_needs_what_is_gone_says_which_and_the_next_one_works(
    made: Program, chats: Chats, square: Path
) -> None:
    talk = made.store.create("ann")
    ask(chats, talk, "What is this?", square)
    lose_media(made)
    told = ask(chats, talk, "Describe the picture.")
    assert "The picture “square.png” is gone" in told
    assert "Send it again" in told
    assert str(made.settings.data) not in told, "a path of the server is nobody's business"
    assert [entry.leases for entry in made.memory.snapshot().held] == [0]
    assert "gone" not in ask(chats, talk, "Tell me a joke")
    assert ask(chats, talk, "What is this?", square) == "A red square."
    assert len(messages(chats, talk)) == 8


def test_a_recording_that_is_gone_before_it_was_heard_is_named(
    made: Program, chats: Chats, examples: Path
) -> None:
    talk = made.store.create("ann")
    chats.open("ann", talk).say("", [(examples / "question-en.wav", "question-en.wav")])
    lose_media(made)
    drafts = list(chats.open("ann", talk).answer(threading.Event()))
    outcome = drafts[-1].reply.outcome
    assert outcome is not None
    assert outcome.finish == "failed"
    assert "The recording “question-en.wav” is gone" in (outcome.error or "")


# ---------------------------------------------------------------- as the page shows it


def shown(made: Program, talk: str) -> str:
    return json.dumps(
        ChatController(made, "secret").view.open(TabSession("ann"), talk)["messages"],
        ensure_ascii=False,
    )


def test_a_conversation_whose_files_are_gone_opens_with_a_word_in_their_place(
    made: Program, chats: Chats, square: Path, examples: Path
) -> None:
    talk = made.store.create("ann")
    ask(chats, talk, "What is this?", square)
    ask(chats, talk, "", examples / "question-en.wav")
    lose_media(made)
    for words in (
        "The picture “square.png” is gone",
        "What is this?",
        "A red square.",
        "The recording “question-en.wav” is gone",
        "hello there",
    ):
        assert words in shown(made, talk)


def test_undoing_a_turn_whose_picture_is_gone_gives_its_words_back(
    made: Program, chats: Chats, square: Path
) -> None:
    talk = made.store.create("ann")
    ask(chats, talk, "What is this?", square)
    lose_media(made)
    asked = {"do": "take_back", "nonce": "0a", "chat": talk, "message": messages(chats, talk)[0].id}
    frame = ChatController(made, "secret").act(TabSession("ann", talk), asked, Controls)
    (given,) = frame["receipts"]
    assert (given["text"], given["files"]) == ("What is this?", [])


def test_only_a_conversation_that_was_deleted_opens_as_a_new_one(
    made: Program, chats: Chats
) -> None:
    talk, other = made.store.create("ann"), made.store.create("ann")
    for each in (talk, other):
        ask(chats, each, "Hello")
    made.store.delete("ann", talk)
    controller, session = ChatController(made, "secret"), TabSession("ann", other)
    assert controller.view.open(session, talk)["messages"] == []
    assert session.conversation == ""
    session.conversation = other
    made.store.close()
    (made.settings.data / "conversations.sqlite3").write_bytes(b"garbage" * 5000)
    with pytest.raises(StoreError, match="cannot be read"):
        controller.view.open(session, talk)
    assert session.conversation == other, "it still looks at what it looked at"
