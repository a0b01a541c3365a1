"""Several tabs and several events of one chat at once: a message is stored or refused and never
both, a change is of what it was pressed under, and nobody is taken where they did not go."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from fake_page import Pen
from fakes import FakeSource, picture, program

from multimodal.build import Program
from multimodal.chats.service import Chats
from multimodal.chats.store import Store
from multimodal.errors import RequestError, StoreError
from multimodal.messages import Controls, Conversation, Message
from multimodal.web.chat_controller import ChatController
from multimodal.web.replies import MOST_OF_ONE, MOST_WAITING
from multimodal.web.tab_session import TabSession

NONCES = (f"{number:x}" for number in itertools.count(10))
Frame = dict[str, Any]


class SlowStore(Store):
    """Reads a conversation once it may; `is_broken` fails instead, `breaks_next` does so after the
    next message was stored."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.may_read, self.reading = threading.Event(), threading.Event()
        self.may_read.set()
        self.is_broken = self.breaks_next = False

    def put(self, owner: str, conversation: str, message: Message) -> None:
        super().put(owner, conversation, message)
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
def made(tmp_path: Path, source: FakeSource) -> Iterator[Program]:
    (tmp_path / "data").mkdir()
    made = program(tmp_path / "data", source)
    yield made
    made.close()


@pytest.fixture
def store(made: Program, tmp_path: Path) -> Iterator[SlowStore]:
    store = SlowStore(f"sqlite:///{tmp_path / 'data' / 'conversations.sqlite3'}")
    yield store
    store.close()


@pytest.fixture
def controller(made: Program, store: SlowStore) -> Iterator[ChatController]:
    controller = ChatController(replace(made, store=store), "secret")
    yield controller
    controller.close()


@pytest.fixture
def tab() -> TabSession:
    return TabSession("ann")


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
        gate.wait(30)
        return picture((64, 64), "grey", "PNG")

    thread = threading.Thread(target=made.media.add_image, args=(slowly, "slow.png"))
    thread.start()
    begun.wait(10)
    try:
        yield
    finally:
        gate.set()
        thread.join(30)


def red(made: Program) -> list[dict[str, str]]:
    """An upload, as an action names it."""
    folder = made.settings.page_cache / "1f"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "red.png").write_bytes(picture((64, 64), "red", "PNG"))
    return [{"path": str(folder / "red.png"), "name": "red.png"}]


def perform(controller: ChatController, tab: TabSession, **action: Any) -> Frame:
    named = {} if action["do"] in {"sync", "check"} else {"chat": tab.conversation}
    asked = {"nonce": next(NONCES)} | named | action
    return controller.act(tab, asked, Controls)


def receipt(frame: Frame) -> dict[str, Any]:
    found: dict[str, Any] = frame["receipts"][-1]
    return found


def said(controller: ChatController, chat: str) -> list[str]:
    messages = controller.chats.store.load("ann", chat).messages
    return [message.text for message in messages if message.role == "user"]


def roles(controller: ChatController, chat: str) -> list[str]:
    return [message.role for message in controller.chats.store.load("ann", chat).messages]


def rest(controller: ChatController, *chats: str) -> None:
    wait_until(lambda: not any(controller.chats.is_busy(chat) for chat in chats), 20)


def begun(controller: ChatController, tab: TabSession, text: str = "hello") -> str:
    perform(controller, tab, do="send", text=text, chat="")
    rest(controller, tab.conversation)
    return tab.conversation


def second_tab(controller: ChatController, chat: str) -> TabSession:
    other = TabSession("ann")
    controller.view.open(other, chat)
    return other


# ---------------------------------------------------------------- one change at a time


def test_of_two_tabs_that_send_at_once_none_is_both_stored_and_refused(
    controller: ChatController,
    made: Program,
    source: FakeSource,
    tab: TabSession,
    pool: ThreadPoolExecutor,
) -> None:
    chat = begun(controller, tab)
    other, pen = second_tab(controller, chat), Pen()
    source.script = pen
    with decoding_held(made):
        sent = {"do": "send", "text": "with a picture", "files": red(made)}
        slow = pool.submit(perform, controller, tab, **sent)
        wait_until(lambda: controller.chats.is_busy(chat), 10)
        quick = receipt(perform(controller, other, do="send", text="without one"))
    told = {"with a picture": receipt(slow.result(30)), "without one": quick}
    refused = {text for text, answer in told.items() if "error" in answer}
    assert len(refused) == 1
    assert set(said(controller, chat)[1:]) == told.keys() - refused
    pen.end()
    rest(controller, chat)
    assert roles(controller, chat) == ["user", "assistant"] * 2


@pytest.mark.parametrize("do", ["edit", "retry", "take_back", "example"])
def test_nothing_else_changes_a_chat_whose_next_message_is_read(
    controller: ChatController,
    made: Program,
    tab: TabSession,
    pool: ThreadPoolExecutor,
    do: str,
) -> None:
    chat = begun(controller, tab)
    controller.examples = (("an example", []),)
    first = controller.chats.store.load("ann", chat).messages[0].id
    more = {"edit": {"message": first, "text": "changed"}, "example": {"index": 0}}
    other = second_tab(controller, chat)
    with decoding_held(made):
        sent = {"do": "send", "text": "with a picture", "files": red(made)}
        slow = pool.submit(perform, controller, tab, **sent)
        wait_until(lambda: controller.chats.is_busy(chat), 10)
        refused = receipt(perform(controller, other, do=do, **more.get(do, {"message": first})))
        assert "still being answered" in refused["error"]
    assert "error" not in receipt(slow.result(30))
    rest(controller, chat)
    assert said(controller, chat) == ["hello", "with a picture"]
    assert roles(controller, chat) == ["user", "assistant"] * 2


def test_a_question_gets_one_answer_whoever_asks_for_it_meanwhile(
    made: Program, store: SlowStore, pool: ThreadPoolExecutor
) -> None:
    chats = Chats(store, made.media, made.assistant)
    chat = store.create("ann")
    chats.open("ann", chat).say("hello")
    with store.held():
        slow = pool.submit(lambda: list(chats.open("ann", chat).answer(threading.Event())))
        store.reading.wait(10)
        late = chats.open("ann", chat).answer(threading.Event())
        quick = pool.submit(lambda: list(late))
        with suppress(RequestError, TimeoutError):
            quick.result(1)
    slow.result(30)
    with suppress(RequestError):
        quick.result(30)
    assert [message.role for message in store.load("ann", chat).messages] == ["user", "assistant"]


def test_a_chat_that_was_refused_can_be_used_at_once(
    controller: ChatController, tab: TabSession
) -> None:
    chat = begun(controller, tab)
    gone = [{"path": "/nowhere/red.png", "name": "red.png"}]
    for action in (
        {"do": "send", "text": "x", "files": gone},
        {"do": "send", "text": " "},
        {"do": "edit", "message": "0a", "text": "x"},
        {"do": "retry", "message": "0a"},
        {"do": "take_back", "message": "0a"},
    ):
        assert "error" in receipt(perform(controller, tab, **action))
        assert not controller.chats.is_busy(chat)
    assert "error" not in receipt(perform(controller, tab, do="send", text="again"))
    rest(controller, chat)


def test_who_leaves_lets_no_file_of_theirs_be_read_on(
    controller: ChatController, made: Program, tab: TabSession, pool: ThreadPoolExecutor
) -> None:
    chat = begun(controller, tab)
    with decoding_held(made):
        sent = {"do": "send", "text": "with a picture", "files": red(made)}
        slow = pool.submit(perform, controller, tab, **sent)
        wait_until(lambda: controller.chats.is_busy(chat), 10)
        controller.replies.abandon("ann")
        assert "was stopped" in receipt(slow.result(5))["error"]
    assert said(controller, chat) == ["hello"]


# ---------------------------------------------------------------- a message is stored once


@pytest.mark.parametrize("is_first", [True, False])
def test_a_message_that_is_sent_again_is_stored_once(
    controller: ChatController, tab: TabSession, is_first: bool
) -> None:
    place = "" if is_first else begun(controller, tab)
    sent = {"do": "send", "text": "only once", "chat": place, "nonce": "7c"}
    first = receipt(perform(controller, tab, **sent))
    rest(controller, tab.conversation)
    reloaded = TabSession("ann")
    controller.view.open(reloaded, place)
    second = receipt(perform(controller, reloaded, **sent))
    assert "error" not in second
    assert second["chat"] == first["chat"] == reloaded.conversation
    assert said(controller, tab.conversation).count("only once") == 1
    rest(controller, tab.conversation)
    assert roles(controller, tab.conversation)[-2:] == ["user", "assistant"]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_message_that_is_sent_again_while_it_is_read_is_stored_once(
    controller: ChatController,
    made: Program,
    tab: TabSession,
    pool: ThreadPoolExecutor,
    is_first: bool,
) -> None:
    place = "" if is_first else begun(controller, tab)
    files = red(made)
    sent = {"do": "send", "text": "look", "files": files, "chat": place, "nonce": "7d"}
    reloaded = second_tab(controller, place)
    with decoding_held(made):
        tries = [pool.submit(perform, controller, tab, **sent)]
        wait_until(lambda: tries[0].running() and len(running_chats(controller)) == 1, 10)
        tries.append(pool.submit(perform, controller, reloaded, **sent))
        with pytest.raises(TimeoutError):
            tries[1].result(0.5)
    told = [receipt(each.result(30)) for each in tries]
    assert [answer.get("error") for answer in told] == [None, None]
    assert told[0]["chat"] == told[1]["chat"] == tab.conversation == reloaded.conversation
    assert said(controller, tab.conversation).count("look") == 1
    rest(controller, tab.conversation)
    assert len(made.store.headings("ann")) == 1


def running_chats(controller: ChatController) -> list[str]:
    """The chats of Ann's that are being changed or answered."""
    return [reply.conversation for reply in controller.replies.of("ann")]


def test_only_some_wait_for_a_message_that_is_sent_again_and_again(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    sent = {"do": "send", "text": "look", "files": red(made), "chat": "", "nonce": "7f"}
    with ThreadPoolExecutor(MOST_WAITING + 2) as pool:
        with decoding_held(made):
            tries = [pool.submit(perform, controller, tab, **sent) for _ in range(MOST_WAITING + 2)]
            wait_until(lambda: any(each.done() for each in tries), 10)
            refused = [each for each in tries if each.done()]
            assert ["error" in receipt(each.result()) for each in refused] == [True]
        for each in tries:
            each.result(30)
    rest(controller, tab.conversation)
    assert said(controller, tab.conversation) == ["look"]


def test_the_same_name_of_a_message_is_another_one_for_another_person_or_chat(
    controller: ChatController, tab: TabSession
) -> None:
    other = TabSession("bob")
    for session in (tab, other):
        answer = receipt(perform(controller, session, do="send", text="mine", nonce="0"))
        assert "error" not in answer
    assert tab.conversation != other.conversation
    rest(controller, tab.conversation, other.conversation)
    controller.view.open(tab, "")
    perform(controller, tab, do="send", text="another chat", nonce="1")
    rest(controller, tab.conversation)
    perform(controller, tab, do="send", text="more", nonce="0")
    assert said(controller, tab.conversation) == ["another chat", "more"]
    rest(controller, tab.conversation)


def test_a_first_message_that_is_refused_leaves_no_chat(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    broken = red(made)
    Path(broken[0]["path"]).write_bytes(b"MZ")
    assert "error" in receipt(perform(controller, tab, do="send", text="x", files=broken))
    with closing(sqlite3.connect(made.settings.data / "conversations.sqlite3")) as connection:
        assert connection.execute("select count(*) from conversations").fetchone() == (0,)


def test_more_answers_at_once_than_one_person_may_have_are_refused_and_not_stored(
    controller: ChatController, source: FakeSource, tab: TabSession
) -> None:
    pen = source.script = Pen()
    tabs = [TabSession("ann") for _ in range(MOST_OF_ONE)]
    for each in tabs:
        assert "error" not in receipt(perform(controller, each, do="send", text="hello"))
    refused = receipt(perform(controller, tab, do="send", text="one too many"))
    assert f"{MOST_OF_ONE} of your chats are being answered" in refused["error"]
    assert tab.conversation == ""
    other = TabSession("bob")
    assert "error" not in receipt(perform(controller, other, do="send", text="hello"))
    for _ in range(MOST_OF_ONE + 1):
        pen.end()
    rest(controller, *(each.conversation for each in (*tabs, other)))
    assert len(controller.chats.store.headings("ann")) == MOST_OF_ONE


# ---------------------------------------------------------------- what a change is of


def test_taking_back_is_of_the_message_it_was_pressed_under(
    controller: ChatController, tab: TabSession
) -> None:
    chat = begun(controller, tab, "the first")
    other = second_tab(controller, chat)
    under = controller.view.show(tab)["messages"][0]["id"]
    perform(controller, other, do="send", text="the second")
    rest(controller, chat)
    refused = receipt(perform(controller, tab, do="take_back", message=under))
    assert "Only your newest message" in refused["error"]
    assert said(controller, chat) == ["the first", "the second"]


@pytest.mark.parametrize("do", ["take_back", "retry", "edit", "stop", "send"])
def test_a_change_is_of_the_chat_it_was_pressed_in_whatever_is_open_by_then(
    controller: ChatController, source: FakeSource, tab: TabSession, do: str
) -> None:
    first = begun(controller, tab, "about apples")
    controller.view.open(tab, "")
    second = begun(controller, tab, "about pears")
    kept = controller.chats.store.load("ann", second).messages
    message = controller.chats.store.load("ann", first).messages[0].id
    more: dict[str, Any] = {
        "take_back": {"message": message},
        "retry": {"message": message},
        "edit": {"message": message, "text": "about plums"},
        "send": {"text": "and quinces?"},
    }
    perform(controller, tab, do=do, chat=first, **more.get(do, {}))
    rest(controller, first, second)
    assert tab.conversation == second
    assert controller.chats.store.load("ann", second).messages == kept
    expected = {"take_back": [], "edit": ["about plums"], "send": ["about apples", "and quinces?"]}
    assert said(controller, first) == expected.get(do, ["about apples"])


def test_whoever_goes_elsewhere_while_a_message_is_read_stays_there(
    controller: ChatController, made: Program, tab: TabSession, pool: ThreadPoolExecutor
) -> None:
    first = begun(controller, tab, "about apples")
    controller.view.open(tab, "")
    second = begun(controller, tab, "about pears")
    controller.view.open(tab, first)
    with decoding_held(made):
        sent = {"do": "send", "text": "this one?", "files": red(made)}
        slow = pool.submit(perform, controller, tab, **sent)
        wait_until(lambda: controller.chats.is_busy(first), 10)
        controller.view.open(tab, second)
    frame = slow.result(30)
    assert "error" not in receipt(frame)
    assert (tab.conversation, frame["chat"]) == (second, second)
    assert frame["messages"][0]["text"] == "about pears"
    rest(controller, first)
    assert said(controller, first) == ["about apples", "this one?"]


def test_of_two_chats_opened_at_once_the_later_is_shown_however_long_the_first_takes(
    controller: ChatController, store: SlowStore, tab: TabSession, pool: ThreadPoolExecutor
) -> None:
    first = begun(controller, tab, "about apples")
    controller.view.open(tab, "")
    second = begun(controller, tab, "about pears")
    controller.view.open(tab, "")
    with store.held():
        slow = pool.submit(controller.view.open, tab, first)
        store.reading.wait(10)
        quick = pool.submit(controller.view.open, tab, second)
        wait_until(lambda: tab.conversation == second, 10)
    frames = sorted((slow.result(30), quick.result(30)), key=lambda frame: frame["version"])
    assert frames[-1]["chat"] == second
    assert frames[-1]["messages"][0]["text"] == "about pears"


def test_of_two_chats_chosen_one_after_another_the_later_is_shown_whichever_arrives_first(
    controller: ChatController, tab: TabSession
) -> None:
    first = begun(controller, tab, "about apples")
    controller.view.open(tab, "", 1.0)
    second = begun(controller, tab, "about pears")
    controller.view.open(tab, "", 2.0)
    assert controller.view.open(tab, second, 4.0)["chat"] == second
    assert controller.view.open(tab, first, 3.0)["chat"] == second
    assert controller.view.open(tab, first, 5.0)["chat"] == first


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


def following(
    pool: ThreadPoolExecutor, controller: ChatController, tab: TabSession
) -> tuple[list[Frame], Future[None]]:
    frames: list[Frame] = []
    return frames, pool.submit(lambda: frames.extend(gathered(frames, controller, tab)))


def gathered(frames: list[Frame], controller: ChatController, tab: TabSession) -> list[Frame]:
    for frame in controller.view.follow(tab):
        frames.append(frame)
    return []


def test_no_frame_that_grows_asks_for_a_whole_one_that_is_still_read(
    controller: ChatController,
    store: SlowStore,
    source: FakeSource,
    tab: TabSession,
    pool: ThreadPoolExecutor,
) -> None:
    pen, pane = Pen(), Pane()
    source.script = pen
    pane.apply(perform(controller, tab, do="send", text="hello"))
    frames, done = following(pool, controller, tab)
    pen.write("one ")
    wait_until(lambda: len(frames) > 0, 10)
    with store.held():
        slow = pool.submit(perform, controller, tab, do="sync")
        store.reading.wait(10)
        for number in range(5):
            before = len(frames)
            pen.write(f"word{number} ")
            wait_until(lambda before=before: len(frames) > before, 10)
        for frame in list(frames):
            pane.apply(frame)
    pane.apply(slow.result(30))
    pen.end()
    done.result(30)
    for frame in frames:
        pane.apply(frame)
    assert pane.syncs == 0
    assert pane.version == tab.version


def test_a_chat_that_cannot_be_read_is_told_once_and_asked_for_no_more(
    controller: ChatController, store: SlowStore, tab: TabSession
) -> None:
    pane = Pane()
    begun(controller, tab)
    pane.apply(controller.view.show(tab))
    store.is_broken = True
    frame = perform(controller, tab, do="sync")
    pane.apply(frame)
    errors = [told.get("error") for told in frame["receipts"]]
    assert errors[-2:] == [None, "The disk is full of holes."]
    assert pane.syncs == 0


def test_a_message_is_not_refused_because_it_cannot_be_shown(
    controller: ChatController, store: SlowStore, source: FakeSource, tab: TabSession
) -> None:
    chat = begun(controller, tab)
    source.script = Pen()
    controller.examples = (("an example", []),)
    store.breaks_next = True
    frame = perform(controller, tab, do="example", index=0, nonce="7e")
    told = {each["nonce"]: each for each in frame["receipts"]}
    assert "error" not in told["7e"]
    assert "The disk is full of holes." in told.popitem()[1]["error"]
    store.is_broken = store.breaks_next = False
    assert said(controller, chat)[-1:] == ["an example"]
    source.script.end()
    rest(controller, chat)


def test_what_does_not_change_is_not_sent_with_every_frame(
    controller: ChatController, source: FakeSource, tab: TabSession, pool: ThreadPoolExecutor
) -> None:
    pen = source.script = Pen()
    begun_frame = perform(controller, tab, do="send", text="hello")
    frames, done = following(pool, controller, tab)
    for number in range(20):
        before = len(frames)
        pen.write(f"word{number} ")
        wait_until(lambda before=before: len(frames) > before, 10)
    growing = [frame for frame in frames if not frame["whole"]]
    asked = [frame for frame in growing if frame["messages"][0]["role"] == "user"]
    assert len(growing) >= 20
    assert len(asked) <= 4, "the question is told when it changes, and once more"
    seen = receipt(begun_frame)["serial"]
    answer = perform(controller, tab, do="check", seen=seen)
    assert [each["serial"] for each in answer["receipts"]] == [seen + 1]
    pen.write("more")
    pen.end()
    done.result(30)
    assert [each["serial"] for each in frames[-1]["receipts"]] == [seen + 1]
