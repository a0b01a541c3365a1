"""What the chat pane may ask, and what comes of it; no browser."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from fakes import FakeSource, picture, program
from gradio import EventData
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from multimodal.build import Program
from multimodal.errors import ConversationNotFoundError, RequestError
from multimodal.messages import Controls, Conversation
from multimodal.web.actions import read_conversation
from multimodal.web.chat_controller import ChatController
from multimodal.web.tab_session import TabSession

NONCES = (f"{number:x}" for number in itertools.count(10))


@pytest.fixture
def made(tmp_path: Path, source: FakeSource) -> Iterator[Program]:
    (tmp_path / "data").mkdir()
    made = program(tmp_path / "data", source)
    yield made
    made.close()


@pytest.fixture
def controller(made: Program) -> Iterator[ChatController]:
    controller = ChatController(made, "secret")
    yield controller
    controller.close()


@pytest.fixture
def tab() -> TabSession:
    return TabSession("ann")


def act(controller: ChatController, tab: TabSession, **action: Any) -> dict[str, Any]:
    """The receipt of an action in the chat that the tab looks at, unless it names another, after
    the answer it began is whole."""
    asked = {"nonce": next(NONCES), "chat": tab.conversation} | action
    frame = controller.act(tab, asked, Controls)
    wait_until(lambda: controller.replies.get(tab.conversation) is None, 10)
    receipt: dict[str, Any] = frame["receipts"][-1]
    assert receipt["nonce"] == asked["nonce"]
    return receipt


def upload(made: Program, name: str = "red.png") -> Path:
    folder = made.settings.page_cache / "1f"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(picture((64, 64), "red", "PNG"))
    return path


def test_a_message_with_an_upload_is_stored_and_answered(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    files = [{"path": str(upload(made)), "name": "red.png"}]
    assert "error" not in act(controller, tab, do="send", text="what is it?", files=files, chat="")
    shown = controller.view.show(tab)["messages"]
    assert [message["role"] for message in shown] == ["user", "assistant"]
    assert shown[0]["text"] == "what is it?"
    assert shown[0]["media"][0]["kind"] == "image"
    assert shown[1]["text"] == "A red square."


def test_an_answer_that_ends_while_its_chat_is_read_is_shown(
    controller: ChatController, made: Program, tab: TabSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = made.store.load

    def slowly(owner: str, conversation: str) -> Conversation:
        stored = load(owner, conversation)
        if threading.current_thread() is threading.main_thread():
            wait_until(lambda: controller.replies.get(conversation) is None, 10)
        return stored

    monkeypatch.setattr(made.store, "load", slowly)
    sent = {"do": "send", "nonce": "0a", "text": "hello", "chat": ""}
    frame = controller.act(tab, sent, Controls)
    for later in controller.view.follow(tab):
        frame = later
    assert not frame["busy"]
    assert frame["messages"][-1]["blocks"] == ["<p>hello</p>"]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "http://host.test/x.png", "file:///etc/passwd", "secret", "..", "", "\0"],
)
def test_only_an_upload_can_be_attached(
    controller: ChatController, made: Program, tab: TabSession, path: str
) -> None:
    (made.settings.data / "secret").write_text("x", "utf-8")
    for tried in (path, str(made.settings.page_cache / ".." / path)):
        files = [{"path": tried, "name": "red.png"}]
        receipt = act(controller, tab, do="send", text="what?", files=files, chat="")
        assert "red.png" in receipt["error"]
        assert made.store.headings("ann") == []


def test_a_link_out_of_the_folder_of_uploads_is_not_followed(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    link = upload(made).with_name("link.png")
    target = made.settings.data / "private.png"
    target.write_bytes(picture((64, 64), "red", "PNG"))
    link.symlink_to(target)
    files = [{"path": str(link), "name": "link.png"}]
    assert "error" in act(controller, tab, do="send", text="what?", files=files, chat="")


def test_a_kept_picture_is_sent_again_only_with_its_key(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    files = [{"path": str(upload(made)), "name": "red.png"}]
    act(controller, tab, do="send", text="what is it?", files=files, chat="")
    message = controller.view.show(tab)["messages"][0]["id"]
    given = act(controller, tab, do="take_back", message=message)
    kept = {k: v for k, v in given["files"][0].items() if k != "thumb"}
    forged = kept | {"key": "0" * 32}
    chat = tab.conversation
    assert "error" in act(controller, tab, do="send", text="x", files=[forged], chat=chat)
    assert "error" not in act(controller, tab, do="send", text="x", files=[kept], chat=chat)


def test_messages_of_somebody_else_cannot_be_touched(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    act(controller, tab, do="send", text="mine", chat="")
    message = controller.view.show(tab)["messages"][0]["id"]
    other = TabSession("bob")
    act(controller, other, do="send", text="yours", chat="")
    for action in (
        {"do": "edit", "message": message, "text": "changed"},
        {"do": "retry", "message": message},
    ):
        assert "no longer part of this conversation" in act(controller, other, **action)["error"]
    other.conversation = tab.conversation
    assert "error" in act(controller, other, do="edit", message=message, text="changed")
    assert made.store.load("ann", tab.conversation).messages[0].text == "mine"


@pytest.mark.parametrize(
    "action",
    [
        None,
        "send",
        [],
        {},
        {"do": "delete_everything"},
        {"do": "send", "chat": "", "text": 5},
        {"do": "send", "text": "for which chat?"},
        {"do": "send", "chat": "../x", "text": "x"},
        {"do": "send", "chat": "", "text": "x", "nonce": "'; drop table"},
        {"do": "send", "chat": "", "text": "x", "owner": "bob"},
        {"do": "send", "chat": "", "text": "x", "files": [{"path": ["a"]}]},
        {"do": "example", "chat": "", "index": -1},
        {"do": "edit", "chat": "", "message": "'; drop table", "text": "x"},
        {"do": "retry", "chat": "", "message": "0a", "model": 7},
        {"do": "take_back", "chat": ""},
        {"do": "stop"},
    ],
)
def test_what_is_no_action_is_refused_in_a_sentence(
    controller: ChatController, tab: TabSession, action: Any
) -> None:
    sent = {"nonce": "0a"} | action if isinstance(action, dict) else action
    receipt = controller.act(tab, sent, Controls)["receipts"][-1]
    assert "Reload the page." in receipt["error"]


def test_a_model_that_is_not_there_is_refused_and_the_answer_kept(
    controller: ChatController, tab: TabSession
) -> None:
    act(controller, tab, do="send", text="hello", chat="")
    message = controller.view.show(tab)["messages"][1]["id"]
    assert "error" in act(controller, tab, do="retry", message=message, model="no-such-model")
    assert len(controller.view.show(tab)["messages"]) == 2


def test_a_message_for_another_chat_is_not_sent_here(
    controller: ChatController, tab: TabSession
) -> None:
    act(controller, tab, do="send", text="hello", chat="")
    receipt = act(controller, tab, do="send", text="secret", chat="")
    assert "Another conversation was opened meanwhile" in receipt["error"]


def test_offers_to_redo_make_sense(
    controller: ChatController, made: Program, tab: TabSession, examples: Path
) -> None:
    """A question that was spoken and answered is not offered to a model that only hears."""
    sound = made.settings.page_cache / "q.wav"
    sound.parent.mkdir(parents=True, exist_ok=True)
    sound.write_bytes((examples / "question-en.wav").read_bytes())
    files = [{"path": str(sound), "name": "q.wav"}]
    act(controller, tab, do="send", text="", files=files, chat="")
    offers = {offer["value"] for offer in controller.view.show(tab)["messages"][-1]["redo"]}
    tasks = {made.catalog.card(name).task.value for name in offers}
    assert "automatic-speech-recognition" not in tasks
    act(controller, tab, do="send", text="hello", chat=tab.conversation)
    offers = {offer["value"] for offer in controller.view.show(tab)["messages"][-1]["redo"]}
    assert {made.catalog.card(name).task.value for name in offers} <= {"text-generation"}


def test_media_are_served_to_who_has_the_key_only(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    files = [{"path": str(upload(made)), "name": "red.png"}]
    act(controller, tab, do="send", text="what is it?", files=files, chat="")
    medium = controller.view.show(tab)["messages"][0]["media"][0]
    client = TestClient(Starlette(routes=controller.addresses.routes()))
    answer = client.get("/" + medium["src"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    key, file = medium["src"].split("/")[1:]
    for wrong in (
        f"/media/{'0' * 32}/{file}",
        f"/media/{key}/{'0' * 64}.png",
        f"/media/{key}/{file}.html",
        f"/media/{key}/..%2f..%2fsecret",
        f"/media/{key[:-1]}é/{file}",
    ):
        assert client.get(wrong).status_code == 404


def test_pictures_in_the_transcript_are_small(controller: ChatController, made: Program) -> None:
    part = made.media.add_image(picture((1600, 1200), "red", "PNG"), "large.png")
    client = TestClient(Starlette(routes=controller.addresses.routes()))
    small = client.get("/" + controller.addresses.small(part))
    assert small.headers["content-type"] == "image/webp"
    assert max(Image.open(io.BytesIO(small.content)).size) == 640


# ---------------------------------------------------------------- deleting


def begun(controller: ChatController, tab: TabSession, text: str = "hello") -> str:
    act(controller, tab, do="send", text=text, files=[], chat=tab.conversation)
    return tab.conversation


def undoable(controller: ChatController, tab: TabSession) -> dict[str, bool]:
    """Each chat of the list, and whether it was deleted and can be had back."""
    return {row["id"]: row["undo_s"] is not None for row in controller.list.shown(tab)["rows"]}


def test_only_the_owner_deletes_a_chat_or_undoes_that(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    chat, stranger = begun(controller, tab), TabSession("bob")
    with pytest.raises(ConversationNotFoundError):
        controller.list.delete(stranger, chat)
    assert undoable(controller, tab) == {chat: False}
    assert controller.list.delete(tab, chat)
    with pytest.raises(ConversationNotFoundError):
        controller.list.restore(stranger, chat)
    assert undoable(controller, tab) == {chat: True}
    assert controller.list.restore(tab, chat)
    assert undoable(controller, tab) == {chat: False}
    assert len(made.store.load("ann", chat).messages) == 2


def test_a_deletion_is_of_the_chat_it_names_whatever_is_open(
    controller: ChatController, tab: TabSession
) -> None:
    first = begun(controller, tab)
    controller.view.open(tab, "")
    second = begun(controller, tab)
    assert not controller.list.delete(tab, first)
    assert tab.conversation == second
    assert undoable(controller, tab) == {second: False, first: True}
    assert not controller.list.restore(tab, first), "the tab stays where it is"


def test_a_deleted_chat_can_be_undone_in_any_tab_and_used_in_none(
    controller: ChatController, made: Program, tab: TabSession
) -> None:
    chat, other = begun(controller, tab), TabSession("ann")
    controller.view.open(other, chat)
    controller.list.delete(tab, chat)
    receipt = act(controller, other, do="send", text="more", files=[], chat=chat)
    assert "This chat was deleted" in receipt["error"]
    assert other.conversation == ""
    assert not controller.list.restore(other, chat)
    assert len(made.store.load("ann", chat).messages) == 2


def test_what_nobody_undid_is_deleted_when_its_time_is_over_or_the_page_closes(
    made: Program, tab: TabSession
) -> None:
    controller = ChatController(made, "secret", undo_s=0.0)
    chat = begun(controller, tab)
    controller.list.delete(tab, chat)
    wait_until(lambda: made.store.headings("ann") == [], 30)
    with pytest.raises(ConversationNotFoundError, match="for good"):
        controller.list.restore(tab, chat)
    controller.close()
    patient = ChatController(made, "secret", undo_s=3600.0)
    patient.list.delete(tab, begun(patient, tab))
    assert len(made.store.headings("ann")) == 1
    patient.close()
    assert made.store.headings("ann") == []


@pytest.mark.parametrize("data", [{}, {"conversation": 7}, {"conversation": "../x"}, None])
def test_an_event_that_names_no_chat_is_refused(data: Any) -> None:
    with pytest.raises(RequestError, match="Reload the page"):
        read_conversation(EventData(None, data))
