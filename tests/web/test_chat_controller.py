"""What the chat pane may ask, and what comes of it; no browser."""

from __future__ import annotations

import io
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from fakes import ANN, picture
from gradio import EventData
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient
from tabs import Tab, uploaded

from multimodal.build import Program
from multimodal.errors import ConversationNotFoundError, RequestError
from multimodal.messages import Controls, Conversation
from multimodal.web.actions import read_conversation
from multimodal.web.chat_controller import ChatController


def test_a_message_with_an_upload_is_stored_and_answered(made: Program, tab: Tab) -> None:
    told = tab.finished(do="send", text="what is it?", files=uploaded(made))
    assert "error" not in told
    shown = tab.show()["messages"]
    assert [message["role"] for message in shown] == ["user", "assistant"]
    assert shown[0]["text"] == "what is it?"
    assert shown[0]["media"][0]["kind"] == "image"
    assert shown[1]["text"] == "A red square."


def test_an_answer_that_ends_while_its_chat_is_read_is_shown(
    made: Program, tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = made.store.load

    def slowly(owner: str, conversation: str) -> Conversation:
        stored = load(owner, conversation)
        if threading.current_thread() is threading.main_thread():
            tab.rest(conversation)
        return stored

    monkeypatch.setattr(made.store, "load", slowly)
    frame = tab.act(do="send", text="hello")
    for later in tab.controller.view.follow(tab.session):
        frame = later
    assert not frame["busy"]
    assert frame["messages"][-1]["blocks"] == ["<p>hello</p>"]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "http://host.test/x.png", "file:///etc/passwd", "secret", "..", "", "\0"],
)
def test_only_an_upload_can_be_attached(made: Program, tab: Tab, path: str) -> None:
    (made.settings.data / "secret").write_text("x", "utf-8")
    for tried in (path, str(made.settings.page_cache / ".." / path)):
        files = [{"path": tried, "name": "red.png"}]
        receipt = tab.finished(do="send", text="what?", files=files, chat="")
        assert "red.png" in receipt["error"]
        assert made.store.headings("ann") == []


def test_a_link_out_of_the_folder_of_uploads_is_not_followed(made: Program, tab: Tab) -> None:
    link = Path(uploaded(made)[0]["path"]).with_name("link.png")
    target = made.settings.data / "private.png"
    target.write_bytes(picture((64, 64), "red", "PNG"))
    link.symlink_to(target)
    files = [{"path": str(link), "name": "link.png"}]
    assert "error" in tab.finished(do="send", text="what?", files=files, chat="")


def test_a_kept_picture_is_sent_again_only_with_its_key(made: Program, tab: Tab) -> None:
    tab.finished(do="send", text="what is it?", files=uploaded(made))
    message = tab.show()["messages"][0]["id"]
    given = tab.finished(do="take_back", message=message)
    kept = {k: v for k, v in given["files"][0].items() if k != "thumb"}
    forged = kept | {"key": "0" * 32}
    assert "error" in tab.finished(do="send", text="x", files=[forged])
    assert "error" not in tab.finished(do="send", text="x", files=[kept])


def test_messages_of_somebody_else_cannot_be_touched(made: Program, tab: Tab) -> None:
    tab.begin("mine")
    message = tab.show()["messages"][0]["id"]
    other = tab.beside(owner="bob")
    other.begin("yours")
    for action in (
        {"do": "edit", "message": message, "text": "changed"},
        {"do": "retry", "message": message},
    ):
        assert "no longer part of this conversation" in other.finished(**action)["error"]
    other.session.conversation = tab.chat
    assert "error" in other.finished(do="edit", message=message, text="changed")
    assert made.store.load("ann", tab.chat).messages[0].text == "mine"


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
        {"do": "rate", "chat": "", "message": "0a", "rating": "sideways"},
        {"do": "rate", "chat": "", "message": "0a"},
        {"do": "choose", "chat": "", "message": "'; drop table"},
        {"do": "stop"},
    ],
)
def test_what_is_no_action_is_refused_in_a_sentence(tab: Tab, action: Any) -> None:
    sent = {"nonce": "0a"} | action if isinstance(action, dict) else action
    receipt = tab.controller.act(tab.session, sent, Controls)["receipts"][-1]
    assert "Reload the page." in receipt["error"]


def test_a_model_that_is_not_there_is_refused_and_the_answer_kept(tab: Tab) -> None:
    tab.begin()
    message = tab.show()["messages"][1]["id"]
    assert "error" in tab.finished(do="retry", message=message, model="no-such-model")
    assert len(tab.show()["messages"]) == 2


def test_a_redo_is_shown_as_a_version_beside_the_one_before(tab: Tab) -> None:
    chat = tab.begin()
    first = tab.show()["messages"][1]
    assert (first["versions"], first["rating"]) == ([], "")
    assert "error" not in tab.finished(do="retry", message=first["id"])
    second = tab.show()["messages"][1]
    assert second["versions"] == [first["id"], second["id"]]
    told = tab.act(do="choose", message=first["id"])
    assert told["whole"]
    assert told["messages"][1]["id"] == first["id"]
    assert told["messages"][1]["route"] == first["route"], "each has its own card"
    assert tab.beside(chat).show()["messages"][1]["id"] == first["id"]


def test_a_redo_with_another_model_names_each_version_s_own(tab: Tab) -> None:
    tab.begin()
    first = tab.show()["messages"][1]
    other = first["redo"][0]
    tab.finished(do="retry", message=first["id"], model=other["value"])
    titles = [tab.show()["messages"][1]["route"]["steps"][-1]["title"]]
    tab.act(do="choose", message=first["id"])
    titles.append(tab.show()["messages"][1]["route"]["steps"][-1]["title"])
    assert titles == [other["label"], first["route"]["steps"][-1]["title"]]
    assert titles[0] != titles[1]


def test_a_rating_is_shown_in_every_tab_until_it_is_taken_off(tab: Tab) -> None:
    chat = tab.begin()
    message = tab.show()["messages"][1]["id"]
    for rating, shown in (("up", "up"), ("down", "down"), (None, "")):
        assert "error" not in tab.receipt(do="rate", message=message, rating=rating)
        assert tab.beside(chat).show()["messages"][1]["rating"] == shown


def test_nobody_rates_or_turns_answers_of_somebody_else(tab: Tab) -> None:
    chat = tab.begin()
    first = tab.show()["messages"][1]["id"]
    tab.finished(do="retry", message=first)
    other = tab.beside(owner="bob")
    own = other.begin("yours")
    for place in (chat, own):
        for action in ({"do": "choose"}, {"do": "rate", "rating": "down"}):
            assert "error" in other.receipt(chat=place, message=first, **action)
    shown = tab.show()["messages"][1]
    assert (shown["rating"], shown["versions"][0]) == ("", first)
    assert shown["id"] != first


def test_a_message_for_another_chat_is_not_sent_here(tab: Tab) -> None:
    tab.begin()
    receipt = tab.finished(do="send", text="secret", chat="")
    assert "Another conversation was opened meanwhile" in receipt["error"]


def test_offers_to_redo_make_sense(made: Program, tab: Tab, examples: Path) -> None:
    """A question that was spoken and answered is not offered to a model that only hears."""
    spoken = uploaded(made, "q.wav", (examples / "question-en.wav").read_bytes())
    tab.finished(do="send", text="", files=spoken)
    offers = {offer["value"] for offer in tab.show()["messages"][-1]["redo"]}
    tasks = {made.catalog.card(name).task.value for name in offers}
    assert "automatic-speech-recognition" not in tasks
    tab.finished(do="send", text="hello")
    offers = {offer["value"] for offer in tab.show()["messages"][-1]["redo"]}
    assert {made.catalog.card(name).task.value for name in offers} <= {"text-generation"}


def test_media_are_served_to_who_has_the_key_only(made: Program, tab: Tab) -> None:
    tab.finished(do="send", text="what is it?", files=uploaded(made))
    medium = tab.show()["messages"][0]["media"][0]
    client = TestClient(Starlette(routes=tab.controller.addresses.routes()))
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


def undoable(tab: Tab) -> dict[str, bool]:
    """Each chat of the list, and whether it was deleted and can be had back."""
    return {
        row["id"]: row["undo_s"] is not None
        for row in tab.controller.list.frame(tab.session)["rows"]
    }


def test_only_the_owner_deletes_a_chat_or_undoes_that(made: Program, tab: Tab) -> None:
    chat, stranger = tab.begin(), tab.beside(owner="bob")
    with pytest.raises(ConversationNotFoundError):
        stranger.delete(chat)
    assert undoable(tab) == {chat: False}
    assert tab.delete(chat)
    with pytest.raises(ConversationNotFoundError):
        stranger.restore(chat)
    assert undoable(tab) == {chat: True}
    assert tab.restore(chat)
    assert undoable(tab) == {chat: False}
    assert len(made.store.load("ann", chat).messages) == 2


def test_a_deletion_is_of_the_chat_it_names_whatever_is_open(tab: Tab) -> None:
    first = tab.begin()
    tab.open("")
    second = tab.begin()
    assert not tab.delete(first)
    assert tab.chat == second
    assert undoable(tab) == {second: False, first: True}
    assert not tab.restore(first), "the tab stays where it is"


def test_a_deleted_chat_can_be_undone_in_any_tab_and_used_in_none(made: Program, tab: Tab) -> None:
    chat = tab.begin()
    other = tab.beside(chat)
    tab.delete(chat)
    receipt = other.finished(do="send", text="more")
    assert "This chat was deleted" in receipt["error"]
    assert other.chat == ""
    assert not other.restore(chat)
    assert len(made.store.load("ann", chat).messages) == 2


def test_what_nobody_undid_is_deleted_when_its_time_is_over_or_the_page_closes(
    made: Program,
) -> None:
    with closing(ChatController(made, "secret", undo_s=0.0)) as controller:
        hasty = Tab(controller)
        chat = hasty.begin()
        hasty.delete(chat)
        wait_until(lambda: made.store.headings(ANN) == [])
        with pytest.raises(ConversationNotFoundError, match="for good"):
            hasty.restore(chat)
    with closing(ChatController(made, "secret", undo_s=3600.0)) as controller:
        patient = Tab(controller)
        patient.delete(patient.begin())
        assert len(made.store.headings(ANN)) == 1
    assert made.store.headings(ANN) == []


@pytest.mark.parametrize("data", [{}, {"conversation": 7}, {"conversation": "../x"}, None])
def test_an_event_that_names_no_chat_is_refused(data: Any) -> None:
    with pytest.raises(RequestError, match="Reload the page"):
        read_conversation(EventData(None, data))
