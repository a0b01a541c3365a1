"""Training data from thumbs and redos: only what the person evidently meant, as a model read it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ANN, Talk
from stored_chats import StoredChat, answer, said

from multimodal.errors import BackendError
from multimodal.messages import (
    AudioPart,
    Controls,
    ImagePart,
    Message,
    Outcome,
    Rating,
    Route,
    Step,
    Task,
    TextPart,
)
from multimodal.studio.data.feedback import FeedbackRows, count_feedback, read_feedback

ASKED = {"role": "user", "content": "Name a fruit."}
QUESTION = said("Name a fruit.")
APPLE, PEAR, PLUM = answer("Apple."), answer("Pear."), answer("Plum.")


@pytest.fixture
def chat(tmp_path: Path) -> StoredChat:
    return StoredChat(tmp_path / "chats.sqlite3")


def redo(chat: StoredChat, *answers: Message) -> None:
    """Put these answers to the newest question, one in the place of the other."""
    for number, fresh in enumerate(answers):
        if number:
            chat.store.archive_answer("ann", chat.id, answers[number - 1].id)
        chat.put(fresh)


def rate(chat: StoredChat, **ratings: Rating) -> None:
    named = {"apple": APPLE, "pear": PEAR, "plum": PLUM}
    for name, rating in ratings.items():
        chat.store.rate("ann", chat.id, named[name].id, rating)


def go_on(chat: StoredChat) -> None:
    chat.put(said("Thanks. And a tree?"))


def read(chat: StoredChat) -> FeedbackRows:
    return read_feedback(chat.store, "ann")


def pairs(chat: StoredChat) -> set[tuple[str, str]]:
    rows = read(chat).preferences
    return {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows}


# ---------------------------------------------------------------- thumbs


def test_thumbs_become_rows_as_kto_reads_them(chat: StoredChat) -> None:
    chat.put(QUESTION, APPLE, said("And another?"), PEAR)
    rate(chat, apple="up", pear="down")
    found = read(chat)
    assert found.rated == [
        {
            "prompt": [ASKED],
            "completion": [{"role": "assistant", "content": "Apple."}],
            "label": True,
        },
        {
            "prompt": [
                ASKED,
                {"role": "assistant", "content": "Apple."},
                {"role": "user", "content": "And another?"},
            ],
            "completion": [{"role": "assistant", "content": "Pear."}],
            "label": False,
        },
    ]
    assert json.loads(json.dumps(found.rated)) == found.rated
    assert found.preferences == []
    (first, _) = found.rated_origins
    assert (first.conversation, first.title) == (chat.id, "Name a fruit.")
    assert (first.question, first.answers) == (QUESTION.id, (APPLE.id,))


def test_what_the_person_set_for_all_answers_begins_the_prompt(chat: StoredChat) -> None:
    chat.store.set_controls("ann", chat.id, Controls(system_prompt=" Be brief. "))
    chat.put(QUESTION, APPLE)
    rate(chat, apple="up")
    assert read(chat).rated[0]["prompt"] == [{"role": "system", "content": "Be brief."}, ASKED]


def test_pictures_and_recordings_stand_as_the_words_that_were_found_in_them(
    chat: StoredChat,
) -> None:
    shown = ImagePart("a" * 64, "image/webp", 4, 3, "cat.jpg", "a cat on a mat")
    heard = AudioPart("b" * 64, "audio/flac", 2.5, "v.wav", "Salut", "Hello", "fr")
    chat.put(Message("user", (shown, heard, TextPart("What is it?"))), APPLE)
    rate(chat, apple="up")
    (prompt,) = read(chat).rated[0]["prompt"]
    assert prompt["content"] == "[Picture: a cat on a mat]\n\nWhat is it?\nHello"


def test_rows_are_what_the_text_model_read_and_wrote(talk: Talk, square: Path) -> None:
    talk.ask("Is it dangerous?", square)
    talk.source.script = lambda request: ["No."]
    reply = talk.ask("Are you sure?").reply
    talk.chat.rate(reply.id, "up")
    (row,) = read_feedback(talk.made.store, ANN).rated
    read = [{"role": it.role, "content": it.text} for it in talk.source.requests[-1].messages]
    assert row["prompt"] == read
    assert "[Picture: a red square]" in row["prompt"][0]["content"]
    assert row["completion"] == [{"role": "assistant", "content": "No."}]


# ---------------------------------------------------------------- which of two is better


def test_the_answer_that_was_gone_on_with_is_better_than_the_replaced_ones(
    chat: StoredChat,
) -> None:
    chat.put(QUESTION)
    redo(chat, APPLE, PEAR, PLUM)
    assert pairs(chat) == set(), "nobody said that the newest is the best"
    go_on(chat)
    assert pairs(chat) == {("Plum.", "Apple."), ("Plum.", "Pear.")}
    (row, _) = read(chat).preferences
    assert row == {
        "prompt": [ASKED],
        "chosen": [{"role": "assistant", "content": "Plum."}],
        "rejected": [{"role": "assistant", "content": "Apple."}],
    }
    assert read(chat).preference_origins[0].answers == (PLUM.id, APPLE.id)
    assert read(chat).rated == []


def test_an_earlier_version_that_was_chosen_and_gone_on_with_is_the_better_one(
    chat: StoredChat,
) -> None:
    chat.put(QUESTION)
    redo(chat, APPLE, PEAR)
    chat.store.choose_version("ann", chat.id, APPLE.id)
    go_on(chat)
    assert pairs(chat) == {("Apple.", "Pear.")}


def test_who_looks_at_another_version_later_has_not_gone_on_with_it(chat: StoredChat) -> None:
    chat.put(QUESTION)
    redo(chat, APPLE, PEAR)
    go_on(chat)
    chat.store.choose_version("ann", chat.id, APPLE.id)
    assert pairs(chat) == set()
    rate(chat, apple="up")
    assert pairs(chat) == {("Apple.", "Pear.")}


RATINGS: list[tuple[dict[str, Rating], bool, set[tuple[str, str]]]] = [
    ({"apple": "up", "pear": "down"}, False, {("Apple.", "Pear.")}),
    ({"apple": "up", "pear": "down"}, True, {("Apple.", "Pear.")}),
    ({"apple": "down", "pear": "up"}, False, {("Pear.", "Apple.")}),
    ({"pear": "up"}, False, {("Pear.", "Apple.")}),
    ({"apple": "down"}, True, {("Pear.", "Apple.")}),
    ({"apple": "down"}, False, set()),
    ({"apple": "up"}, True, set()),
    ({"pear": "down"}, True, set()),
    ({"apple": "up", "pear": "up"}, True, set()),
    ({"apple": "down", "pear": "down"}, True, set()),
]


@pytest.mark.parametrize(("ratings", "goes_on", "expected"), RATINGS)
def test_a_pair_is_made_where_the_choice_is_evident(
    chat: StoredChat,
    ratings: dict[str, Rating],
    goes_on: bool,
    expected: set[tuple[str, str]],
) -> None:
    chat.put(QUESTION)
    redo(chat, APPLE, PEAR)
    rate(chat, **ratings)
    if goes_on:
        go_on(chat)
    assert pairs(chat) == expected


# ---------------------------------------------------------------- what teaches nothing


def routed(task: Task, answer: str | None = None, pictures: tuple[str, ...] = ()) -> Outcome:
    step = Step(task, "card", "answers", pictures=pictures)
    return Outcome(routes=(Route((step,), "rule", "Why.", answer),), finish="stop")


UNTAUGHT = {
    "failed": answer("Half an", "failed"),
    "stopped": answer("Half an", "stopped"),
    "cut": answer("Half an", "length"),
    "interrupted": answer("Half an", "unfinished"),
    "empty": answer(""),
    "blank": answer(" \n"),
    "by a rule": replace(answer("Hello."), outcome=routed(Task.SPEECH, "Hello.")),
    "by a describer": replace(answer("A cat."), outcome=routed(Task.IMAGE)),
    "of pictures": replace(answer("A cat."), outcome=routed(Task.TEXT, pictures=("a" * 64,))),
    "without an outcome": replace(answer("Half an"), outcome=None),
}


@pytest.mark.parametrize("useless", UNTAUGHT.values(), ids=UNTAUGHT)
def test_what_is_no_whole_answer_of_a_text_model_makes_no_row(
    chat: StoredChat, useless: Message
) -> None:
    chat.put(QUESTION)
    redo(chat, useless, PEAR)
    if useless.parts:
        chat.store.rate("ann", chat.id, useless.id, "down")
    rate(chat, pear="up")
    go_on(chat)
    found = read(chat)
    assert [row["completion"][0]["content"] for row in found.rated] == ["Pear."]
    assert found.preferences == []
    assert found.left_out == (1 if useless.parts else 0)


@pytest.mark.parametrize("column", ["parts", "outcome"])
@pytest.mark.parametrize("table", ["messages", "versions"])
def test_a_damaged_answer_makes_no_row(chat: StoredChat, table: str, column: str) -> None:
    chat.put(QUESTION)
    redo(chat, APPLE, PEAR)
    rate(chat, apple="down", pear="up")
    hurt = PEAR if table == "messages" else APPLE
    chat.execute(f"UPDATE {table} SET {column} = '[{{' WHERE id = ?", hurt.id)  # noqa: S608
    found = read(chat)
    assert len(found.rated) == 1
    assert found.preferences == []
    assert found.left_out == 1


def test_an_answer_to_what_is_damaged_makes_no_row(chat: StoredChat) -> None:
    chat.put(QUESTION, APPLE, said("And another?"), PEAR)
    rate(chat, apple="up", pear="down")
    chat.execute("UPDATE messages SET parts = '[{' WHERE id = ?", APPLE.id)
    assert (read(chat).rated, read(chat).left_out) == ([], 2)


def test_an_answer_to_a_picture_that_no_words_were_found_in_makes_no_row(
    chat: StoredChat,
) -> None:
    chat.put(QUESTION, APPLE, Message("user", (ImagePart("a" * 64, "image/webp", 4, 3),)), PEAR)
    rate(chat, pear="up")
    assert (read(chat).rated, read(chat).left_out) == ([], 1)


def test_the_same_words_are_one_answer(chat: StoredChat) -> None:
    same = answer(" Apple. ")
    chat.put(QUESTION)
    redo(chat, APPLE, same, PEAR)
    chat.store.rate("ann", chat.id, same.id, "down")
    rate(chat, apple="down", pear="up")
    found = read(chat)
    assert sorted(row["label"] for row in found.rated) == [False, True]
    assert pairs(chat) == {("Pear.", "Apple.")}
    assert len(found.preferences) == 1
    rate(chat, apple="up")
    assert [row["completion"][0]["content"] for row in read(chat).rated] == ["Pear."]
    assert read(chat).left_out == 2, "rated both ways, it says nothing"
    assert pairs(chat) == set()


def test_a_redo_in_the_same_words_makes_no_pair(chat: StoredChat) -> None:
    chat.put(QUESTION)
    redo(chat, APPLE, answer("Apple."))
    go_on(chat)
    assert pairs(chat) == set()


# ---------------------------------------------------------------- whose, and how many


def test_rows_are_of_one_owner_and_all_of_their_chats(chat: StoredChat) -> None:
    chat.put(QUESTION, APPLE)
    rate(chat, apple="up")
    for number in range(205):
        owner = "bob" if number == 1 else "ann"
        other, reply = chat.store.create(owner), answer(f"Answer {number}")
        chat.store.put_message(owner, other, said(f"Question {number}"))
        chat.store.put_message(owner, other, reply)
        if number in {0, 1, 204}:
            chat.store.rate(owner, other, reply.id, "down")
    told = [row["completion"][0]["content"] for row in read(chat).rated]
    assert told == ["Answer 204", "Answer 0", "Apple."], "the newest chat first, and all of them"
    assert str(count_feedback(chat.store, "ann")) == "3 thumbs, 0 redos"
    assert len(read_feedback(chat.store, "bob").rated) == 1
    assert read_feedback(chat.store, "eve") == FeedbackRows()


def test_rows_are_dropped_and_edited_with_their_origins(chat: StoredChat) -> None:
    chat.put(QUESTION)
    redo(chat, APPLE, PEAR)
    rate(chat, apple="down", pear="up")
    found = read(chat)
    edited = found.preferences[0] | {"chosen": [{"role": "assistant", "content": "Pears."}]}
    dropped, pair = found.rated_origins[0].id, found.preference_origins[0].id
    changed = found.revised({dropped: None, pair: edited})
    assert changed.rated == found.rated[1:]
    assert changed.rated_origins == found.rated_origins[1:]
    assert changed.preferences == [edited]
    assert changed.preference_origins == found.preference_origins
    assert len({origin.id for origin in (*found.rated_origins, *found.preference_origins)}) == 3


def test_who_edits_a_row_changes_no_other(chat: StoredChat) -> None:
    chat.put(QUESTION)
    redo(chat, APPLE, PEAR)
    rate(chat, apple="down", pear="up")
    found = read(chat)
    found.rated[0]["prompt"][0]["content"] = "changed"
    assert found.rated[1]["prompt"] == found.preferences[0]["prompt"] == [ASKED]


def test_thumbs_and_redos_of_a_chat_become_data(talk: Talk) -> None:
    """As the page makes them: through the service, with engines."""
    talk.source.script = lambda request: ["An apple."]
    first = talk.ask("Name a fruit.").reply
    talk.chat.rate(first.id, "down")
    for words in (BackendError("broken"), "A pear."):
        talk.source.script = lambda request, words=words: [words]
        talk.chat.archive_reply(talk.kept()[-1].id)
        talk.answer()
    talk.ask("Thanks.")
    found = read_feedback(talk.made.store, ANN)
    assert [row["label"] for row in found.rated] == [False]
    (pair,) = found.preferences
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (
        "A pear.",
        "An apple.",
    )
