"""Conversations in SQL: nothing lost, nothing shown to the wrong person."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from stored_chats import REPLY, RICH, StoredChat, said

from multimodal.chats.store import Store
from multimodal.chats.titles import title_of
from multimodal.errors import SettingsError, StoreError
from multimodal.messages import (
    AudioPart,
    Controls,
    Drawing,
    ImagePart,
    Message,
    Outcome,
    Sampling,
    TextPart,
    TranscriptionSettings,
    Usage,
)
from multimodal.settings import read_settings


@pytest.fixture
def chat(tmp_path: Path) -> StoredChat:
    return StoredChat(tmp_path / "chats.sqlite3")


@pytest.fixture
def store(chat: StoredChat) -> Store:
    return chat.store


def test_everything_comes_back_as_it_was_put(chat: StoredChat) -> None:
    controls = Controls(
        "auto",
        "Be brief.",
        Sampling(0.5, 0.9, 1.2, 100, 3, ("END",)),
        Drawing("dogs", 5, 3.0, 96, 64),
        TranscriptionSettings("en", "fr"),
        "sw",
    )
    chat.store.set_controls("ann", chat.id, controls)
    chat.put(RICH, REPLY)
    chat.store.close()
    again = Store(chat.url).load("ann", chat.id)
    assert again.messages == (RICH, REPLY)
    assert again.controls == controls


def test_one_owner_can_neither_see_nor_change_anothers(chat: StoredChat) -> None:
    chat.put(RICH)
    assert chat.store.headings("bob") == []
    for attempt in (
        lambda: chat.store.load("bob", chat.id),
        lambda: chat.store.put_message("bob", chat.id, REPLY),
        lambda: chat.store.truncate("bob", chat.id, RICH.id),
        lambda: chat.store.delete("bob", chat.id),
        lambda: chat.store.rename("bob", chat.id, "mine"),
        lambda: chat.store.set_controls("bob", chat.id, Controls()),
    ):
        with pytest.raises(StoreError, match="somebody else"):
            attempt()
    with pytest.raises(StoreError, match="another conversation"):
        chat.store.put_message("bob", chat.store.create("bob"), RICH)
    assert chat.messages() == (RICH,)


def test_media_are_in_use_as_long_as_a_message_holds_them(store: Store) -> None:
    first, second = store.create("ann"), store.create("bob")
    assert store.media_in_use() == set()
    store.put_message("ann", first, RICH)
    store.put_message("bob", second, replace(RICH, id="other"))
    store.delete("ann", first)
    assert store.media_in_use() == {part.sha256 for part in (*RICH.images, *RICH.recordings)}
    store.delete("bob", second)
    assert store.media_in_use() == set()


def test_putting_a_message_again_replaces_it_in_its_place(chat: StoredChat) -> None:
    chat.put(RICH, REPLY)
    changed = replace(RICH, parts=(TextPart("Changed."),))
    chat.put(changed)
    assert chat.messages() == (changed, REPLY)


def test_cutting_removes_a_message_and_what_follows(chat: StoredChat) -> None:
    messages = [said(str(i)) for i in range(4)]
    chat.put(*messages)
    chat.store.truncate("ann", chat.id, messages[2].id)
    assert chat.messages() == tuple(messages[:2])
    with pytest.raises(StoreError, match="no longer part"):
        chat.store.truncate("ann", chat.id, messages[2].id)


def test_headings_are_newest_first_and_named_after_the_first_words(store: Store) -> None:
    old, new, _empty = store.create("ann"), store.create("ann"), store.create("ann")
    store.put_message("ann", old, said("Old question"))
    store.put_message("ann", new, said("New question"))
    assert [h.title for h in store.headings("ann")] == ["New question", "Old question"]
    store.rename("ann", old, "  Renamed \n chat ")
    store.put_message("ann", old, REPLY)
    assert [h.title for h in store.headings("ann")] == ["Renamed chat", "New question"]
    store.delete("ann", old)
    assert [h.title for h in store.headings("ann")] == ["New question"]


def test_no_conversation_is_named_after_an_answer(store: Store) -> None:
    """What is said in a recording is known only once it was heard."""
    talk, spoken = store.create("ann"), AudioPart("0" * 64, "audio/flac", 1.0)
    store.put_message("ann", talk, Message("user", (spoken,), "1"))
    store.put_message("ann", talk, REPLY)
    assert [h.title for h in store.headings("ann")] == ["A recording"]
    heard = replace(spoken, transcript="When does the sun rise?")
    store.put_message("ann", talk, Message("user", (heard,), "1"))
    assert [h.title for h in store.headings("ann")] == ["When does the sun rise?"]


def test_a_chat_that_begins_with_a_picture_is_named_by_what_was_seen_or_answered(
    store: Store,
) -> None:
    picture = ImagePart("0" * 64, "image/png", 8, 8, "IMG_0001.png")
    growing = Message("assistant", (TextPart("A"),), "2", outcome=Outcome())
    answered = replace(growing, parts=(TextPart("A cat."),), outcome=Outcome(finish="stop"))
    for seen, title in (("A tabby cat", "A tabby cat"), (None, "A cat.")):
        talk = store.create("ann")
        asked = Message("user", (picture,))
        store.put_message("ann", talk, asked)
        assert store.headings("ann")[0].title == "A picture"
        store.put_message("ann", talk, replace(growing, id=f"{asked.id}a"))
        assert store.headings("ann")[0].title == "A picture"
        store.put_message("ann", talk, replace(asked, parts=(replace(picture, description=seen),)))
        store.put_message("ann", talk, replace(answered, id=f"{asked.id}a"))
        assert store.headings("ann")[0].title == title


def test_a_title_is_cut_at_a_word() -> None:
    title = title_of(said("word " * 40))
    assert len(title) <= 60
    assert title.endswith("word…")


def test_a_kill_loses_nothing_that_was_put(chat: StoredChat) -> None:
    program = (
        "import sys\n"
        "from multimodal.chats.store import Store\n"
        "from multimodal.messages import Message, TextPart\n"
        "store = Store(sys.argv[1])\n"
        "for i in range(100000):\n"
        "    store.put_message('ann', sys.argv[2], Message('user', (TextPart(str(i)),)))\n"
        "    print(i, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, chat.url, chat.id], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    put = 0
    while put < 20:
        put = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    put = max([put, *map(int, writer.stdout.read().split())])
    texts = [message.text for message in Store(chat.url).load("ann", chat.id).messages]
    assert texts[: put + 1] == [str(i) for i in range(put + 1)]


@pytest.mark.parametrize("damage", ["garbage", "middle", "truncated", "header only"])
def test_a_corrupt_database_is_told_and_left_alone(chat: StoredChat, damage: str) -> None:
    for _ in range(200):
        chat.put(said("words " * 50))
    chat.store.close()
    path = chat.path
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    bad = {
        "garbage": b"not a database" * 300,
        "middle": data[:8192] + b"\xff" * len(data[8192:]),
        "truncated": data[: len(data) // 2],
        "header only": data[:100],
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(StoreError, match="cannot be read") as caught:
        Store(chat.url)
    assert "Nothing was changed" in str(caught.value)
    assert path.read_bytes() == bad


def test_a_full_disk_is_told_and_what_was_kept_stays(chat: StoredChat) -> None:
    chat.put(RICH)

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count=12")

    chat.store.close()
    event.listen(Engine, "connect", limit)
    try:
        with pytest.raises(StoreError, match="no space left"):
            chat.put(said("words " * 50_000))
    finally:
        event.remove(Engine, "connect", limit)
    assert chat.messages()[0] == RICH


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(f"sqlite:///{tmp_path / 'file' / 'chats.sqlite3'}")


@pytest.mark.parametrize("address", ["over the rainbow", "", "mysql+nonsense://ann:secret@host/x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="not an address SQLAlchemy knows") as caught:
        Store(address)
    assert "secret" not in str(caught.value)


def test_a_database_in_the_home_folder_is_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Store("sqlite:///~/chats.sqlite3").close()
    assert (tmp_path / "chats.sqlite3").is_file()
    with pytest.raises(SettingsError, match="--database ~nobody-here/x: there is no such home"):
        Store("sqlite:///~nobody-here/x")


def test_a_database_without_its_driver_says_which_and_hides_the_password() -> None:
    with pytest.raises(SettingsError, match=r"'cx_Oracle': pip install cx_Oracle") as caught:
        Store("oracle+cx_oracle://ann:secret@host/chats")
    assert "secret" not in str(caught.value)


def test_many_threads_write_at_once(store: Store) -> None:
    talks = [store.create("ann") for _ in range(4)]

    def write(talk: str) -> None:
        for i in range(25):
            store.put_message("ann", talk, said(str(i)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, talks))
    for talk in talks:
        texts = [message.text for message in store.load("ann", talk).messages]
        assert texts == [str(i) for i in range(25)]


# ---------------------------------------------------------------- rows that are damaged


def test_the_figures_of_a_reply_that_an_earlier_version_kept_are_read(chat: StoredChat) -> None:
    """They stood beside the other fields of the outcome."""
    chat.put(REPLY, replace(REPLY, id="2"))
    earlier = {"finish": "length", "seconds": 1.5, "prompt_tokens": 10, "cached_tokens": 4}
    earlier |= {"completion_tokens": 3, "decode_s": 0.5, "seed": 7, "steps": 0}
    chat.execute("UPDATE messages SET outcome = ? WHERE id = ?", json.dumps(earlier), REPLY.id)
    without = json.dumps(earlier | {"seed": None})
    chat.execute("UPDATE messages SET outcome = ? WHERE id = ?", without, "2")
    first, second = (message.outcome for message in chat.messages())
    assert first == Outcome(
        finish="length", seconds=1.5, usage=Usage(10, 4, 3, 0.5, "length", 7, 0)
    )
    assert second == Outcome(finish="length", seconds=1.5)


BROKEN = [
    '[{"text": "Hel',
    "not JSON",
    "",
    '{"kind": "text"}',
    "17",
    "null",
    '[{"kind": "hologram", "sha256": "0"}]',
    '[{"text": "no kind", "kind": "smell"}]',
    '["text"]',
    "[" * 100_000,
    f"[{'9' * 5000}]",
    b"\xff\xfe\x00",
    None,
]


@pytest.mark.parametrize("kept", BROKEN, ids=lambda kept: repr(kept)[:24])
def test_a_damaged_message_is_shown_as_damaged_and_the_others_are_there(
    chat: StoredChat, kept: object
) -> None:
    messages = [said(str(i)) for i in range(3)]
    chat.put(*messages)
    if kept is None:
        relax(chat.path)
    chat.execute("UPDATE messages SET parts = ? WHERE id = ?", kept, messages[1].id)
    first, hurt, last = chat.messages()
    assert (first, last) == (messages[0], messages[2])
    assert (hurt.id, hurt.role, hurt.parts) == (messages[1].id, "user", ())
    assert hurt.damage is not None
    assert "damaged" in hurt.damage
    assert [h.id for h in chat.store.headings("ann")] == [chat.id]
    chat.put(REPLY)
    assert Store(chat.url).load("ann", chat.id).messages[3] == REPLY


def relax(path: Path) -> None:
    """Let columns be NULL that the tables forbid it for, as a repair of a file may leave them."""
    for table in ("messages", "conversations"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA foreign_keys=OFF")
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute(
                "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name = ?",
                (table,),
            )
            connection.commit()


def test_of_a_message_the_parts_that_can_be_read_are_shown(chat: StoredChat) -> None:
    chat.put(RICH)
    chat.execute("UPDATE messages SET parts = replace(parts, '\"audio\"', '\"scent\"')")
    (found,) = chat.messages()
    assert found.parts == (RICH.parts[0], RICH.parts[2])
    assert found.damage is not None
    assert {part.sha256 for part in (*RICH.images, *RICH.recordings)} == chat.store.media_in_use()


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ("outcome", '{"finish": "exploded"}'),
        ("outcome", '{"routes": [{"steps": [{"task": "smelling"}]}]}'),
        ("outcome", "{"),
        ("created_at", "yesterday"),
        ("created_at", 17),
        ("role", "robot"),
        ("role", 3),
        ("position", "second"),
    ],
)
def test_any_damaged_column_leaves_the_words_readable(
    chat: StoredChat, column: str, kept: object
) -> None:
    chat.put(RICH, REPLY)
    chat.execute(f"UPDATE messages SET {column} = ? WHERE id = ?", kept, REPLY.id)  # noqa: S608
    first, reply = chat.messages()
    assert first == RICH
    assert reply.text == REPLY.text
    chat.store.truncate("ann", chat.id, REPLY.id)
    assert chat.messages() == (RICH,)


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ("title", ""),
        ("title", b"\xff\xfe"),
        ("updated_at", "soon"),
        ("updated_at", 9**18),
        ("controls", "{"),
        ("controls", '{"sampling": 7}'),
        ("controls", '{"drawing": {"steps": "many"}}'),
        ("controls", None),
    ],
)
def test_a_damaged_row_in_the_list_hides_no_other_and_can_be_opened_and_deleted(
    chat: StoredChat, column: str, kept: object
) -> None:
    talks = [chat.store.create("ann", Controls("auto", "Be brief.")) for _ in range(2)]
    for talk in talks:
        chat.store.put_message("ann", talk, said("Hello"))
    if kept is None:
        relax(chat.path)
    chat.execute(f"UPDATE conversations SET {column} = ? WHERE id = ?", kept, talks[0])  # noqa: S608
    assert {h.id for h in chat.store.headings("ann")} == set(talks)
    assert all(h.title.strip() for h in chat.store.headings("ann"))
    assert [m.text for m in chat.store.load("ann", talks[0]).messages] == ["Hello"]
    assert chat.store.load("ann", talks[1]).controls.system_prompt == "Be brief."
    chat.store.put_message("ann", talks[0], REPLY)
    chat.store.set_controls("ann", talks[0], Controls())
    chat.store.rename("ann", talks[0], "Mended")
    chat.store.delete("ann", talks[0])
    assert [h.id for h in chat.store.headings("ann")] == [talks[1]]


def test_the_largest_numbers_come_back(store: Store) -> None:
    talk = store.create("ann", Controls(sampling=Sampling(seed=10**30)))
    assert store.load("ann", talk).controls.sampling.seed == 10**30


def test_replacing_a_message_is_one_step(chat: StoredChat) -> None:
    chat.put(RICH, REPLY)
    chat.store.replace_message("ann", chat.id, replace(RICH, parts=(TextPart("Other"),)))
    assert [m.text for m in chat.messages()] == ["Other"]
    with pytest.raises(StoreError, match="somebody else"):
        chat.store.replace_message("bob", chat.id, RICH)


def test_two_programs_that_make_a_database_at_once_agree_who_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.sqlite3'}"
    code = (
        "import sys\n"
        "from multimodal.chats.store import Store\n"
        "print(Store(sys.argv[1]).media_owner)\n"
    )
    command = [sys.executable, "-c", code, url]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    owners = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 3
    assert len(owners) == 1


@pytest.mark.parametrize("name", ["100%20", "a#b", "50 %"])
def test_conversations_lie_in_the_data_folder_whatever_it_is_called(
    name: str, tmp_path: Path
) -> None:
    settings = read_settings(data=tmp_path / name)
    settings.data.mkdir()
    Store(settings.database_url, settings.data).close()
    assert (settings.data / "conversations.sqlite3").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
