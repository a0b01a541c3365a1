"""Answers to one question, and what the person thinks of each: nothing is lost, nothing is anybody
else's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from stored_chats import REPLY, StoredChat, answer, said

from multimodal.chats.rows import DAMAGED_MESSAGE, FeedbackCounts
from multimodal.chats.store import Store
from multimodal.errors import ConversationNotFoundError, StoreError
from multimodal.messages import Finish, ImagePart, Message

QUESTION = said("Name a fruit.")
APPLE, PEAR, PLUM = answer("Apple."), answer("Pear."), answer("Plum.")
PICTURES = tuple(ImagePart(digit * 64, "image/png", 8, 8) for digit in "123")


@pytest.fixture
def chat(tmp_path: Path) -> StoredChat:
    return StoredChat(tmp_path / "chats.sqlite3")


def redo(chat: StoredChat, *answers: Message) -> None:
    """Put the question and these answers to it, one in the place of the other."""
    chat.put(QUESTION, answers[0])
    for former, fresh in pairwise(answers):
        chat.store.archive_answer("ann", chat.id, former.id)
        chat.put(fresh)


def choose(chat: StoredChat, version: Message) -> None:
    chat.store.choose_version("ann", chat.id, version.id)


def test_an_answer_is_the_newest_of_its_versions_and_any_can_be_chosen(chat: StoredChat) -> None:
    redo(chat, APPLE, REPLY, PLUM)
    ids = (APPLE.id, REPLY.id, PLUM.id)
    assert chat.messages() == (QUESTION, replace(PLUM, versions=ids))
    for version in (REPLY, APPLE, PLUM, REPLY):
        choose(chat, version)
        assert chat.messages() == (QUESTION, replace(version, versions=ids))
    assert Store(chat.url).load("ann", chat.id).messages[1].outcome == REPLY.outcome


def test_versions_are_told_in_the_order_they_were_made_whichever_is_shown(chat: StoredChat) -> None:
    redo(chat, APPLE, PEAR)
    choose(chat, APPLE)
    chat.store.archive_answer("ann", chat.id, APPLE.id)
    chat.put(PLUM)
    assert chat.messages()[1].versions == (APPLE.id, PEAR.id, PLUM.id)
    former = chat.store.former_answers("ann", chat.id)
    assert [(it.message, it.question) for it in former] == [
        (APPLE, QUESTION.id),
        (PEAR, QUESTION.id),
    ]
    assert former[0].replaced_at > former[1].replaced_at


def test_a_version_of_an_early_answer_is_chosen_and_what_follows_stays(chat: StoredChat) -> None:
    redo(chat, APPLE, PEAR)
    more = (said("And another?"), PLUM)
    chat.put(*more)
    choose(chat, APPLE)
    assert [message.text for message in chat.messages()] == [
        "Name a fruit.",
        "Apple.",
        "And another?",
        "Plum.",
    ]


def test_each_version_has_its_own_rating_which_it_keeps(chat: StoredChat) -> None:
    redo(chat, APPLE, PEAR)
    chat.store.rate("ann", chat.id, PEAR.id, "up")
    chat.store.rate("ann", chat.id, APPLE.id, "down")
    assert chat.messages()[1].rating == "up"
    choose(chat, APPLE)
    assert chat.messages()[1].rating == "down"
    chat.store.rate("ann", chat.id, APPLE.id, None)
    assert chat.messages()[1].rating is None
    choose(chat, PEAR)
    assert Store(chat.url).load("ann", chat.id).messages[1].rating == "up"


def test_a_rating_stays_with_an_answer_that_is_written_anew_and_goes_to_no_other(
    chat: StoredChat,
) -> None:
    chat.put(QUESTION, APPLE, said("And another?"), PEAR)
    chat.store.rate("ann", chat.id, APPLE.id, "up")
    chat.put(APPLE)
    assert [message.rating for message in chat.messages()] == [None, "up", None, None]
    assert [message.versions for message in chat.messages()] == [()] * 4


@pytest.mark.parametrize("finish", ["failed", "stopped", "stop", "unfinished"])
def test_an_answer_without_anything_becomes_no_version(chat: StoredChat, finish: Finish) -> None:
    nothing = answer("", finish)
    redo(chat, APPLE, nothing)
    assert chat.messages()[1].versions == (APPLE.id, nothing.id), "it is shown until then"
    chat.store.archive_answer("ann", chat.id, nothing.id)
    chat.put(PLUM)
    assert chat.messages()[1].versions == (APPLE.id, PLUM.id)


def test_the_answer_that_was_shown_before_comes_back_whichever_it_was(chat: StoredChat) -> None:
    redo(chat, APPLE, PEAR)
    choose(chat, APPLE)
    chat.store.archive_answer("ann", chat.id, APPLE.id)
    nothing = replace(PLUM, parts=())
    chat.put(nothing)
    chat.store.restore_former("ann", chat.id, nothing.id)
    assert chat.messages()[1] == replace(APPLE, versions=(APPLE.id, PEAR.id))
    alone = chat.store.create("ann")
    chat.store.put_message("ann", alone, said("Alone?"))
    kept = replace(nothing, id="alone")
    chat.store.put_message("ann", alone, kept)
    chat.store.restore_former("ann", alone, kept.id)
    assert chat.store.load("ann", alone).messages[1] == kept


CUTS: dict[str, Callable[[StoredChat], None]] = {
    "taken back": lambda chat: chat.store.truncate("ann", chat.id, QUESTION.id),
    "edited": lambda chat: chat.store.replace_message("ann", chat.id, replace(QUESTION, parts=())),
    "deleted": lambda chat: chat.store.delete("ann", chat.id),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_versions_go_with_their_question(
    chat: StoredChat, cut: Callable[[StoredChat], None]
) -> None:
    redo(
        chat,
        *(
            replace(fruit, parts=(it,))
            for fruit, it in zip([APPLE, PEAR], PICTURES[:2], strict=True)
        ),
    )
    chat.store.rate("ann", chat.id, PEAR.id, "up")
    assert chat.store.media_in_use() == {PICTURES[0].sha256, PICTURES[1].sha256}
    cut(chat)
    assert chat.store.media_in_use() == set()
    assert chat.store.count_feedback("ann") == FeedbackCounts(0, 0, 0)
    with closing(sqlite3.connect(chat.path)) as connection:
        assert connection.execute("SELECT count(*) FROM versions").fetchone() == (0,)


def test_what_followed_an_answer_that_is_redone_goes_with_its_versions(chat: StoredChat) -> None:
    redo(chat, APPLE, PEAR)
    more = said("And another?")
    chat.put(more, PLUM)
    chat.store.archive_answer("ann", chat.id, PLUM.id)
    chat.put(REPLY)
    chat.store.archive_answer("ann", chat.id, PEAR.id)
    assert chat.messages() == (QUESTION,)
    assert [it.message.id for it in chat.store.former_answers("ann", chat.id)] == [
        APPLE.id,
        PEAR.id,
    ]


def test_media_of_versions_that_are_not_shown_are_in_use(chat: StoredChat) -> None:
    answers = [replace(APPLE, id=f"{i}", parts=(it,)) for i, it in enumerate(PICTURES)]
    redo(chat, *answers)
    for shown in answers:
        choose(chat, shown)
        assert chat.store.media_in_use() == {it.sha256 for it in PICTURES}
    chat.store.record_media(chat.store.media_in_use())
    assert chat.store.unused_media(-1) == set()


def test_nobody_touches_versions_of_anybody_else(chat: StoredChat) -> None:
    redo(chat, APPLE, PEAR)
    store, own = chat.store, chat.store.create("bob")
    for attempt in (
        lambda at: store.archive_answer("bob", at, PEAR.id),
        lambda at: store.choose_version("bob", at, APPLE.id),
        lambda at: store.rate("bob", at, APPLE.id, "down"),
        lambda at: store.rate("bob", at, PEAR.id, "down"),
        lambda at: store.former_answers("bob", chat.id),
        lambda at: store.restore_former("bob", chat.id, PEAR.id),
    ):
        with pytest.raises(StoreError):
            attempt(chat.id)
    for answer_id in (APPLE.id, PEAR.id):
        with pytest.raises(StoreError, match="no longer part of this conversation"):
            store.rate("bob", own, answer_id, "down")
        with pytest.raises(StoreError, match="no longer part of this conversation"):
            store.choose_version("bob", own, answer_id)
        with pytest.raises(StoreError, match="no longer part of this conversation"):
            store.archive_answer("bob", own, answer_id)
    store.restore_former("bob", own, PEAR.id)
    assert chat.messages() == (QUESTION, replace(PEAR, versions=(APPLE.id, PEAR.id)))
    assert store.count_feedback("bob") == FeedbackCounts(0, 0, 0)
    assert store.conversations_with_versions("bob") == []


@pytest.mark.parametrize("of", ["question", "nobody"])
def test_only_answers_are_rated_chosen_and_replaced(chat: StoredChat, of: str) -> None:
    redo(chat, APPLE, PEAR)
    named = QUESTION.id if of == "question" else "0"
    for attempt in (
        lambda: chat.store.rate("ann", chat.id, named, "up"),
        lambda: chat.store.choose_version("ann", chat.id, named),
        lambda: chat.store.archive_answer("ann", chat.id, named),
    ):
        with pytest.raises(StoreError, match="no longer part of this conversation"):
            attempt()
    assert len(chat.messages()) == 2


def test_what_an_owner_said_of_answers_is_counted(chat: StoredChat) -> None:
    redo(chat, APPLE, PEAR, PLUM)
    for fruit, rating in ((APPLE, "down"), (PEAR, "up"), (PLUM, "up")):
        chat.store.rate("ann", chat.id, fruit.id, rating)
    other = chat.store.create("bob")
    chat.store.put_message("bob", other, said("Hello"))
    chat.store.put_message("bob", other, REPLY)
    chat.store.rate("bob", other, REPLY.id, "down")
    counts = chat.store.count_feedback("ann")
    assert counts == FeedbackCounts(up=2, down=1, redos=2)
    assert str(counts) == "3 thumbs, 2 redos"
    assert str(FeedbackCounts(1, 0, 1)) == "1 thumb, 1 redo"
    assert chat.store.conversations_with_versions("ann") == [chat.id]


def test_an_answer_is_rated_in_several_tabs_at_once(chat: StoredChat) -> None:
    answers = [replace(APPLE, id=f"{i}") for i in range(10)]
    for fruit in answers:
        chat.put(said("And another?"), fruit)

    def rate(number: int) -> None:
        chat.store.rate("ann", chat.id, answers[number // 4].id, "up")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rate, range(40)))
    assert chat.store.count_feedback("ann") == FeedbackCounts(10, 0, 0)


# ---------------------------------------------------------------- damage, and earlier databases


def test_a_damaged_version_is_shown_as_damaged_and_the_others_are_there(chat: StoredChat) -> None:
    redo(chat, APPLE, PEAR)
    chat.execute("UPDATE versions SET parts = '[{', rating = 'sideways' WHERE id = ?", APPLE.id)
    assert chat.messages()[1].versions == (APPLE.id, PEAR.id)
    (former,) = chat.store.former_answers("ann", chat.id)
    assert former.message.damage == DAMAGED_MESSAGE
    choose(chat, APPLE)
    hurt = chat.messages()[1]
    assert (hurt.id, hurt.damage, hurt.rating) == (APPLE.id, DAMAGED_MESSAGE, None)
    choose(chat, PEAR)
    assert chat.messages()[1] == replace(PEAR, versions=(APPLE.id, PEAR.id))
    choose(chat, APPLE)
    assert chat.messages()[1].damage == DAMAGED_MESSAGE, "damage is no emptiness"


EARLIER = """
CREATE TABLE conversations (id VARCHAR(32) NOT NULL, owner VARCHAR(255) NOT NULL,
    title VARCHAR(255) NOT NULL, controls JSON NOT NULL, updated_at DATETIME NOT NULL,
    PRIMARY KEY (id));
CREATE INDEX ix_conversations_owner ON conversations (owner, updated_at);
CREATE TABLE messages (id VARCHAR(32) NOT NULL, conversation_id VARCHAR(32) NOT NULL,
    position INTEGER NOT NULL, role VARCHAR(16) NOT NULL, parts JSON NOT NULL, outcome JSON,
    created_at DATETIME NOT NULL, PRIMARY KEY (id),
    FOREIGN KEY(conversation_id) REFERENCES conversations (id));
CREATE INDEX ix_messages_conversation ON messages (conversation_id, position);
CREATE TABLE media (sha256 VARCHAR(64) NOT NULL, added_at DATETIME NOT NULL, PRIMARY KEY (sha256));
CREATE INDEX ix_media_added_at ON media (added_at);
CREATE TABLE properties (name VARCHAR(32) NOT NULL, value VARCHAR(255) NOT NULL,
    PRIMARY KEY (name));
"""
"""The tables as they were before answers had versions."""


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A database of that time, with one turn in it."""
    path = tmp_path / "earlier.sqlite3"
    moment = "2026-01-02 03:04:05.000006"
    words = [json.dumps([{"kind": "text", "text": text}]) for text in ("Name a fruit.", "Apple.")]
    outcome = json.dumps({"finish": "stop", "seconds": 1.5})
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(EARLIER)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("INSERT INTO properties VALUES ('identity', 'f00')")
        connection.execute(
            "INSERT INTO conversations VALUES ('c', 'ann', 'Fruit', '{}', ?)", (moment,)
        )
        connection.execute(
            "INSERT INTO messages VALUES ('q', 'c', 1, 'user', ?, 'null', ?)", (words[0], moment)
        )
        connection.execute(
            "INSERT INTO messages VALUES ('a', 'c', 2, 'assistant', ?, ?, ?)",
            (words[1], outcome, moment),
        )
        connection.commit()
    return path


def test_a_database_of_an_earlier_version_goes_on_working(earlier: Path) -> None:
    with closing(Store(f"sqlite:///{earlier}")) as store:
        asked, told = store.load("ann", "c").messages
        assert (asked.text, told.text, told.rating, told.versions) == (
            "Name a fruit.",
            "Apple.",
            None,
            (),
        )
        store.rate("ann", "c", "a", "down")
        store.archive_answer("ann", "c", "a")
        store.put_message("ann", "c", PEAR)
    with closing(Store(f"sqlite:///{earlier}")) as store:
        store.choose_version("ann", "c", "a")
        assert store.load("ann", "c").messages == (
            asked,
            replace(told, rating="down", versions=("a", PEAR.id)),
        )


def test_an_earlier_version_of_the_program_can_go_on_with_the_database(chat: StoredChat) -> None:
    """It knows nothing of versions: it removes answers and puts others, and deletes."""
    redo(chat, APPLE, PEAR)
    chat.store.rate("ann", chat.id, PEAR.id, "up")
    chat.execute("DELETE FROM messages WHERE id = ?", PEAR.id)
    chat.put(PLUM)
    assert chat.messages() == (QUESTION, replace(PLUM, versions=(APPLE.id, PLUM.id)))
    choose(chat, APPLE)
    assert chat.messages()[1].text == "Apple."
    with pytest.raises(StoreError, match="no longer part"):
        choose(chat, PEAR)
    with closing(sqlite3.connect(chat.path)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM messages")
        connection.execute("DELETE FROM conversations")
        connection.commit()
        assert connection.execute("SELECT count(*) FROM versions").fetchone() == (0,)
    with pytest.raises(ConversationNotFoundError):
        chat.messages()
