"""Several tabs and several events of one chat at once: a message is stored or refused and never
both, a change is of what it was pressed under, and nobody is taken where they did not go."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from conftest import wait_until
from fake_page import Pen
from fakes import FakeSource, picture
from tabs import Frame, Tab, uploaded

from multimodal.build import Program
from multimodal.chats.service import Chats
from multimodal.chats.store import Store
from multimodal.errors import RequestError, StoreError
from multimodal.messages import Conversation, Message
from multimodal.web.chat_controller import ChatController
from multimodal.web.replies import MOST_OF_ONE, MOST_WAITING


class SlowStore(Store):
    """Reads a conversation once it may; `is_broken` fails instead, `breaks_next` does so after the
    next message was stored."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.may_read, self.reading = threading.Event(), threading.Event()
        self.may_read.set()
        self.is_broken = self.breaks_next = False

    def put_message(self, owner: str, conversation: str, message: Message) -> None:
        super().put_message(owner, conversation, message)
        self.is_broken |= self.breaks_next

    def load(self, owner: str, conversation: str) -> Conversation:
        found = super().load(owner, conversation)
        self.reading.set()
        self.may_read.wait(30)
        if self.is_broken:
            raise StoreError("The disk is full of holes.")
        return found

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is read within the block is told after it."""
        self.reading.clear()
        self.may_read.clear()
        try:
            yield
        finally:
            self.may_read.set()


@pytest.fixture
def store(made: Program) -> Iterator[SlowStore]:
    with closing(SlowStore(made.settings.database_url)) as store:
        yield store


@pytest.fixture
def controller(made: Program, store: SlowStore) -> Iterator[ChatController]:
    with closing(ChatController(replace(made, store=store), "secret")) as controller:
        yield controller


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@contextmanager
def decoding_held(made: Program) -> Iterator[None]:
    """Pictures wait to be decoded until the block ends: another one takes its time."""
    gate, begun = threading.Event(), threading.Event()

    def slowly() -> bytes:
        begun.set()
        gate.wait(60)
        return picture((64, 64), "grey", "PNG")

    thread = threading.Thread(target=made.media.add_image, args=(slowly, "slow.png"))
    thread.start()
    assert begun.wait(30)
    try:
        yield
    finally:
        gate.set()
        thread.join(30)


@contextmanager
def sending(
    tab: Tab, made: Program, pool: ThreadPoolExecutor, text: str
) -> Iterator[Future[Frame]]:
    """A message whose picture is read until the block ends."""
    with decoding_held(made):
        frame = pool.submit(tab.act, do="send", text=text, files=uploaded(made))
        wait_until(lambda: tab.is_busy(tab.chat))
        yield frame


# ---------------------------------------------------------------- one change at a time


def test_of_two_tabs_that_send_at_once_none_is_both_stored_and_refused(
    made: Program, source: FakeSource, tab: Tab, pool: ThreadPoolExecutor
) -> None:
    chat = tab.begin()
    other, pen = tab.beside(chat), Pen()
    source.script = pen
    with sending(tab, made, pool, "with a picture") as slow:
        quick = other.receipt(do="send", text="without one")
    told = {"with a picture": slow.result(30)["receipts"][-1], "without one": quick}
    refused = {text for text, answer in told.items() if "error" in answer}
    assert len(refused) == 1
    assert set(tab.said(chat)[1:]) == told.keys() - refused
    pen.end()
    tab.rest()
    assert tab.roles(chat) == ["user", "assistant"] * 2


@pytest.mark.parametrize("do", ["edit", "retry", "take_back", "example"])
def test_nothing_else_changes_a_chat_whose_next_message_is_read(
    made: Program, tab: Tab, pool: ThreadPoolExecutor, do: str
) -> None:
    chat = tab.begin()
    tab.controller.examples = (("an example", []),)
    first = tab.kept(chat)[0].id
    more = {"edit": {"message": first, "text": "changed"}, "example": {"index": 0}}
    with sending(tab, made, pool, "with a picture") as slow:
        refused = tab.beside(chat).receipt(do=do, **more.get(do, {"message": first}))
        assert "still being answered" in refused["error"]
    assert "error" not in slow.result(30)["receipts"][-1]
    tab.rest()
    assert tab.said(chat) == ["hello", "with a picture"]
    assert tab.roles(chat) == ["user", "assistant"] * 2


def test_a_question_gets_one_answer_whoever_asks_for_it_meanwhile(
    made: Program, store: SlowStore, pool: ThreadPoolExecutor
) -> None:
    chats = Chats(store, made.media, made.assistant)
    chat = store.create("ann")
    chats.open("ann", chat).say("hello")
    with store.held():
        slow = pool.submit(lambda: list(chats.open("ann", chat).answer(threading.Event())))
        assert store.reading.wait(30)
        with pytest.raises(RequestError, match="still being answered"):
            next(chats.open("ann", chat).answer(threading.Event()))
    slow.result(30)
    assert [message.role for message in store.load("ann", chat).messages] == ["user", "assistant"]


def test_a_chat_that_was_refused_can_be_used_at_once(tab: Tab) -> None:
    chat = tab.begin()
    gone = [{"path": "/nowhere/red.png", "name": "red.png"}]
    for action in (
        {"do": "send", "text": "x", "files": gone},
        {"do": "send", "text": " "},
        {"do": "edit", "message": "0a", "text": "x"},
        {"do": "retry", "message": "0a"},
        {"do": "take_back", "message": "0a"},
    ):
        assert "error" in tab.receipt(**action)
        assert not tab.is_busy(chat)
    assert "error" not in tab.receipt(do="send", text="again")
    tab.rest()


def test_who_leaves_lets_no_file_of_theirs_be_read_on(
    made: Program, tab: Tab, pool: ThreadPoolExecutor
) -> None:
    chat = tab.begin()
    with sending(tab, made, pool, "with a picture") as slow:
        tab.controller.replies.abandon("ann")
        assert "was stopped" in slow.result(30)["receipts"][-1]["error"]
    assert tab.said(chat) == ["hello"]


# ---------------------------------------------------------------- a message is stored once


@pytest.mark.parametrize("is_first", [True, False])
def test_a_message_that_is_sent_again_is_stored_once(tab: Tab, is_first: bool) -> None:
    place = "" if is_first else tab.begin()
    sent = {"do": "send", "text": "only once", "chat": place, "nonce": "7c"}
    first = tab.receipt(**sent)
    tab.rest()
    reloaded = tab.beside(place)
    second = reloaded.receipt(**sent)
    assert "error" not in second
    assert second["chat"] == first["chat"] == reloaded.chat
    assert tab.said(tab.chat).count("only once") == 1
    tab.rest()
    assert tab.roles(tab.chat)[-2:] == ["user", "assistant"]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_message_that_is_sent_again_while_it_is_read_is_stored_once(
    made: Program, tab: Tab, pool: ThreadPoolExecutor, is_first: bool
) -> None:
    place = "" if is_first else tab.begin()
    sent = {"do": "send", "text": "look", "files": uploaded(made), "chat": place, "nonce": "7d"}
    reloaded = tab.beside(place)
    with decoding_held(made):
        tries = [pool.submit(tab.receipt, **sent)]
        wait_until(lambda: tab.controller.replies.replies_of("ann"))
        tries.append(pool.submit(reloaded.receipt, **sent))
        (reply,) = tab.controller.replies.replies_of("ann")
        wait_until(lambda: reply.waiting == 1)
    told = [each.result(30) for each in tries]
    assert [answer.get("error") for answer in told] == [None, None]
    assert told[0]["chat"] == told[1]["chat"] == tab.chat == reloaded.chat
    assert tab.said(tab.chat).count("look") == 1
    tab.rest()
    assert len(made.store.headings("ann")) == 1


def test_only_some_wait_for_a_message_that_is_sent_again_and_again(made: Program, tab: Tab) -> None:
    sent = {"do": "send", "text": "look", "files": uploaded(made), "chat": "", "nonce": "7f"}
    with ThreadPoolExecutor(MOST_WAITING + 2) as pool:
        with decoding_held(made):
            tries = [pool.submit(tab.receipt, **sent) for _ in range(MOST_WAITING + 2)]
            wait_until(lambda: any(each.done() for each in tries))
            refused = [each for each in tries if each.done()]
            assert ["error" in each.result() for each in refused] == [True]
        for each in tries:
            each.result(30)
    tab.rest()
    assert tab.said(tab.chat) == ["look"]


def test_the_same_name_of_a_message_is_another_one_for_another_person_or_chat(tab: Tab) -> None:
    other = tab.beside(owner="bob")
    for each in (tab, other):
        assert "error" not in each.receipt(do="send", text="mine", nonce="0")
    assert tab.chat != other.chat
    tab.rest(tab.chat, other.chat)
    tab.open("")
    tab.act(do="send", text="another chat", nonce="1")
    tab.rest()
    tab.act(do="send", text="more", nonce="0")
    assert tab.said(tab.chat) == ["another chat", "more"]
    tab.rest()


def test_a_first_message_that_is_refused_leaves_no_chat(made: Program, tab: Tab) -> None:
    broken = uploaded(made, "red.png", b"MZ")
    assert "error" in tab.receipt(do="send", text="x", files=broken)
    with closing(sqlite3.connect(made.settings.data / "conversations.sqlite3")) as connection:
        assert connection.execute("select count(*) from conversations").fetchone() == (0,)


def test_more_answers_at_once_than_one_person_may_have_are_refused_and_not_stored(
    source: FakeSource, tab: Tab
) -> None:
    pen = source.script = Pen()
    tabs = [tab.beside() for _ in range(MOST_OF_ONE)]
    for each in tabs:
        assert "error" not in each.receipt(do="send", text="hello")
    refused = tab.receipt(do="send", text="one too many")
    assert f"{MOST_OF_ONE} of your chats are being answered" in refused["error"]
    assert tab.chat == ""
    other = tab.beside(owner="bob")
    assert "error" not in other.receipt(do="send", text="hello")
    for _ in range(MOST_OF_ONE + 1):
        pen.end()
    tab.rest(*(each.chat for each in (*tabs, other)))
    assert len(tab.controller.chats.store.headings("ann")) == MOST_OF_ONE


# ---------------------------------------------------------------- what a change is of


def test_taking_back_is_of_the_message_it_was_pressed_under(tab: Tab) -> None:
    chat = tab.begin("the first")
    other = tab.beside(chat)
    under = tab.show()["messages"][0]["id"]
    other.act(do="send", text="the second")
    tab.rest()
    refused = tab.receipt(do="take_back", message=under)
    assert "Only your newest message" in refused["error"]
    assert tab.said(chat) == ["the first", "the second"]


@pytest.mark.parametrize("do", ["take_back", "retry", "edit", "stop", "send"])
def test_a_change_is_of_the_chat_it_was_pressed_in_whatever_is_open_by_then(
    tab: Tab, do: str
) -> None:
    first = tab.begin("about apples")
    tab.open("")
    second = tab.begin("about pears")
    kept = tab.kept(second)
    message = tab.kept(first)[0].id
    more: dict[str, Any] = {
        "take_back": {"message": message},
        "retry": {"message": message},
        "edit": {"message": message, "text": "about plums"},
        "send": {"text": "and quinces?"},
    }
    tab.act(do=do, chat=first, **more.get(do, {}))
    tab.rest(first, second)
    assert tab.chat == second
    assert tab.kept(second) == kept
    expected = {"take_back": [], "edit": ["about plums"], "send": ["about apples", "and quinces?"]}
    assert tab.said(first) == expected.get(do, ["about apples"])


def test_whoever_goes_elsewhere_while_a_message_is_read_stays_there(
    made: Program, tab: Tab, pool: ThreadPoolExecutor
) -> None:
    first = tab.begin("about apples")
    tab.open("")
    second = tab.begin("about pears")
    tab.open(first)
    with sending(tab, made, pool, "this one?") as slow:
        tab.open(second)
    frame = slow.result(30)
    assert "error" not in frame["receipts"][-1]
    assert (tab.chat, frame["chat"]) == (second, second)
    assert frame["messages"][0]["text"] == "about pears"
    tab.rest(first)
    assert tab.said(first) == ["about apples", "this one?"]


def test_of_two_chats_opened_at_once_the_later_is_shown_however_long_the_first_takes(
    store: SlowStore, tab: Tab, pool: ThreadPoolExecutor
) -> None:
    first = tab.begin("about apples")
    tab.open("")
    second = tab.begin("about pears")
    tab.open("")
    with store.held():
        slow = pool.submit(tab.open, first)
        assert store.reading.wait(30)
        quick = pool.submit(tab.open, second)
        wait_until(lambda: tab.chat == second)
    frames = sorted((slow.result(30), quick.result(30)), key=lambda frame: frame["version"])
    assert frames[-1]["chat"] == second
    assert frames[-1]["messages"][0]["text"] == "about pears"


def test_of_two_chats_chosen_one_after_another_the_later_is_shown_whichever_arrives_first(
    tab: Tab,
) -> None:
    first = tab.begin("about apples")
    tab.open("", 1.0)
    second = tab.begin("about pears")
    tab.open("", 2.0)
    assert tab.open(second, 4.0)["chat"] == second
    assert tab.open(first, 3.0)["chat"] == second
    assert tab.open(first, 5.0)["chat"] == first


# ---------------------------------------------------------------- what is told, and how often


class Pane:
    """What the page does with the frames it is sent, as far as it has to ask again."""

    def __init__(self) -> None:
        self.epoch = self.version = 0
        self.syncs = 0

    def apply(self, frame: Frame) -> None:
        if frame["version"] <= self.version:
            return
        if not frame["whole"] and frame["epoch"] != self.epoch:
            self.syncs += 1
            return
        self.version = frame["version"]
        if frame["whole"]:
            self.epoch = frame["epoch"]


def following(pool: ThreadPoolExecutor, tab: Tab) -> tuple[list[Frame], Future[None]]:
    """The frames of the answer in a tab, as they come, and the end of it."""
    frames: list[Frame] = []

    def follow() -> None:
        for frame in tab.controller.view.follow(tab.session):
            frames.append(frame)

    return frames, pool.submit(follow)


def write_words(pen: Pen, frames: list[Frame], count: int) -> None:
    """Each word once the frame of the one before has come."""
    for number in range(count):
        before = len(frames)
        pen.write(f"word{number} ")
        wait_until(lambda before=before: len(frames) > before)


def test_no_frame_that_grows_asks_for_a_whole_one_that_is_still_read(
    store: SlowStore, source: FakeSource, tab: Tab, pool: ThreadPoolExecutor
) -> None:
    pen, pane = Pen(), Pane()
    source.script = pen
    pane.apply(tab.act(do="send", text="hello"))
    frames, done = following(pool, tab)
    write_words(pen, frames, 1)
    with store.held():
        slow = pool.submit(tab.act, do="sync")
        assert store.reading.wait(30)
        write_words(pen, frames, 5)
        for frame in list(frames):
            pane.apply(frame)
    pane.apply(slow.result(30))
    pen.end()
    done.result(30)
    for frame in frames:
        pane.apply(frame)
    assert pane.syncs == 0
    assert pane.version == tab.session.version


def test_a_chat_that_cannot_be_read_is_told_once_and_asked_for_no_more(
    store: SlowStore, tab: Tab
) -> None:
    pane = Pane()
    tab.begin()
    pane.apply(tab.show())
    store.is_broken = True
    frame = tab.act(do="sync")
    pane.apply(frame)
    errors = [told.get("error") for told in frame["receipts"]]
    assert errors[-2:] == [None, "The disk is full of holes."]
    assert pane.syncs == 0


def test_a_message_is_not_refused_because_it_cannot_be_shown(
    store: SlowStore, source: FakeSource, tab: Tab
) -> None:
    chat = tab.begin()
    source.script = Pen()
    tab.controller.examples = (("an example", []),)
    store.breaks_next = True
    frame = tab.act(do="example", index=0, nonce="7e")
    told = {each["nonce"]: each for each in frame["receipts"]}
    assert "error" not in told["7e"]
    assert "The disk is full of holes." in told.popitem()[1]["error"]
    store.is_broken = store.breaks_next = False
    assert tab.said(chat)[-1:] == ["an example"]
    source.script.end()
    tab.rest()


def test_what_does_not_change_is_not_sent_with_every_frame(
    source: FakeSource, tab: Tab, pool: ThreadPoolExecutor
) -> None:
    pen = source.script = Pen()
    seen = tab.receipt(do="send", text="hello")["serial"]
    frames, done = following(pool, tab)
    write_words(pen, frames, 20)
    growing = [frame for frame in frames if not frame["whole"]]
    asked = [frame for frame in growing if frame["messages"][0]["role"] == "user"]
    assert len(growing) >= 20
    assert len(asked) <= 4, "the question is told when it changes, and once more"
    answer = tab.act(do="check", seen=seen)
    assert [each["serial"] for each in answer["receipts"]] == [seen + 1]
    pen.write("more")
    pen.end()
    done.result(30)
    assert [each["serial"] for each in frames[-1]["receipts"]] == [seen + 1]
