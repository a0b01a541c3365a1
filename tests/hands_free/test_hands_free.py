"""Talking hands-free: what the page shows and sends, and what the server takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import LAPTOP, PHONE, Person, opened_browser, visit
from conftest import wait_until
from conversation_sound import rest, save
from fake_page import FakePage, running_page
from fakes import ANN, FakeSource, program
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.testclient import TestClient

from multimodal.build import Program
from multimodal.errors import CapacityError, RequestError
from multimodal.hands_free.readiness import REHEARSAL
from multimodal.limits import Limits
from multimodal.media.audio import decode
from multimodal.messages import Controls, TranscriptionSettings
from multimodal.web import hands_free
from multimodal.web.hands_free import HandsFreeService

RATE = {"rate": 16_000}


@pytest.fixture(scope="module")
def question(examples: Path) -> np.ndarray:
    path = examples / "question-en.wav"
    return decode(path.read_bytes(), path.name, Limits())


@pytest.fixture(scope="module")
def listening(question: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose microphone hears a question, again and again."""
    folder = tmp_path_factory.mktemp("microphone")
    recording = save(folder / "question.wav", [rest(2), question, rest(3)])
    with opened_browser(f"--use-file-for-fake-audio-capture={recording}") as opened:
        yield opened


@pytest.fixture
def page(tmp_path: Path) -> Iterator[FakePage]:
    with running_page(tmp_path) as page:
        page.source.transcript = "What is this?"
        yield page


SMALL = pytest.param(PHONE, id="phone", marks=pytest.mark.thorough)


@pytest.fixture(params=[pytest.param(LAPTOP, id="laptop"), SMALL])
def person(listening: Browser, page: FakePage, request: pytest.FixtureRequest) -> Iterator[Person]:
    with visit(listening, page.url, **request.param) as person:
        yield person


def talk(person: Person) -> None:
    person.page.get_by_role("button", name="Talk hands-free").click()
    expect(person.page.locator(".talk")).to_be_visible()


@pytest.mark.parametrize("person", [LAPTOP, PHONE], ids=["laptop", "phone"], indirect=True)
def test_what_is_said_is_sent_and_the_answer_is_heard(person: Person, page: FakePage) -> None:
    page.say("It is a lamp.")
    talk(person)
    first = person.page.locator(".message.user .body").first
    expect(first).to_have_text("What is this?")
    expect(person.page.locator(".message.assistant .body").first).to_have_text("It is a lamp.")
    wait_until(lambda: "It is a lamp." in spoken(page))
    assert person.barriers() == []
    person.page.get_by_role("button", name="End", exact=True).click()
    expect(person.page.locator(".talk")).to_be_hidden()
    expect(person.page.get_by_role("button", name="Talk hands-free")).to_be_visible()


def spoken(page: FakePage) -> list[str]:
    return [r.text for r in page.source.requests if hasattr(r, "text_language")]


def test_an_answer_is_spoken_while_it_is_written_and_words_stop_it(
    person: Person, page: FakePage
) -> None:
    pen = page.pen()
    talk(person)
    expect(person.page.locator(".message.user")).to_have_count(1)
    pen.write("It is a lamp. ", "It is ")
    wait_until(lambda: "It is a lamp." in spoken(page))
    page.source.transcript = "Stop, tell me more."
    expect(person.page.locator(".queue li")).to_have_count(1)
    page.echo()
    pen.write("not. ")
    expect(person.page.locator(".message.user")).to_have_count(2)
    expect(person.page.locator(".message.assistant .note").first).to_have_text("Stopped.")
    pen.end()


def test_escape_ends_what_is_said_and_then_the_conversation(person: Person, page: FakePage) -> None:
    pen = page.pen()
    talk(person)
    expect(person.page.locator(".message.user")).to_have_count(1)
    person.page.get_by_role("button", name="Mute the microphone").click()
    pen.write("It is ")
    expect(person.page.locator(".message.assistant .body")).to_have_text("It is")
    person.page.keyboard.press("Escape")
    note = person.page.locator(".message.assistant .note")
    pen.write_until(lambda: note.text_content() == "Stopped.")
    expect(person.page.locator(".talk")).to_be_visible()
    person.page.keyboard.press("Escape")
    expect(person.page.locator(".talk")).to_be_hidden()


def test_a_muted_microphone_hears_nothing(person: Person, page: FakePage) -> None:
    talk(person)
    mute = person.page.get_by_role("button", name="Mute the microphone")
    mute.click()
    expect(mute).to_have_attribute("aria-pressed", "true")
    expect(person.page.locator(".talk-state")).to_have_text("Muted")
    person.page.wait_for_timeout(8_000)  # the question is said in it
    expect(person.page.locator(".message")).to_have_count(0)
    mute.click()
    expect(person.page.locator(".message.user")).to_have_count(1)


def test_another_chat_ends_the_conversation(person: Person, page: FakePage) -> None:
    talk(person)
    expect(person.page.locator(".message.user")).to_have_count(1)
    person.open_side()
    person.page.locator("#new").click()
    expect(person.page.locator(".talk")).to_be_hidden()
    expect(person.box).to_have_value("")


def test_a_conversation_may_begin_while_the_page_still_loads(
    listening: Browser, page: FakePage
) -> None:
    with visit(listening, page.url) as person:
        person.page.goto(page.url, wait_until="commit")
        talk(person)
        expect(person.page.locator(".message.user").first).to_be_visible()
        person.page.get_by_role("button", name="End", exact=True).click()


def test_what_cannot_be_begun_is_said(person: Person, page: FakePage) -> None:
    page.source.fail.append(CapacityError("The model is broken. Take another one."))
    talk(person)
    expect(person.page.get_by_role("alert").first).to_contain_text("The model is broken.")
    expect(person.page.locator(".talk")).to_be_hidden()


# ---------------------------------------------------------------- the server


@pytest.fixture
def source() -> FakeSource:
    return FakeSource(transcript="What is this?")


@pytest.fixture
def server(made: Program) -> Iterator[HandsFreeService]:
    with closing(HandsFreeService(made)) as talk:
        yield talk


@pytest.fixture
def client(server: HandsFreeService) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=server.routes())) as client:
        yield client


def begun(server: HandsFreeService, client: TestClient, rate: int = 16_000, **controls: Any) -> str:
    """The address of a conversation whose models are there."""
    address = str(server.begin(ANN, Controls(**controls))["address"])
    at = {"rate": rate}
    wait_until(lambda: client.post(address, params=at).json()["phase"] == "ready")
    return address


def pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def turns(client: TestClient, address: str, samples: np.ndarray, rate: int = 16_000) -> list[str]:
    """The words of the turns that are found in `samples`, which come in tenths of a second, and
    in the silence after it."""
    found: list[str] = []

    def hears(part: np.ndarray) -> bool:
        told = client.post(address, params={"rate": rate}, content=pcm(part)).json()["heard"]
        found.extend(heard["words"] for heard in told if heard["kind"] == "turn")
        return bool(found)

    for at in range(0, len(samples), rate // 10):
        hears(samples[at : at + rate // 10])
    wait_until(lambda: hears(np.zeros(rate // 10, np.float32)))
    return found


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_turn_is_found_at_the_rate_of_any_microphone(
    rate: int, server: HandsFreeService, client: TestClient, question: np.ndarray
) -> None:
    said = np.concatenate([rest(1), question])
    at = np.arange(0, len(said) - 1, 16_000 / rate)
    heard = np.interp(at, np.arange(len(said)), said).astype(np.float32)
    address = begun(server, client, rate=rate)
    assert turns(client, address, heard, rate) == ["What is this?"]


def test_the_language_that_was_set_is_heard(
    server: HandsFreeService, client: TestClient, source: FakeSource, question: np.ndarray
) -> None:
    address = begun(server, client, hearing=TranscriptionSettings("en"))
    assert turns(client, address, question) == ["What is this?"]
    assert {request.language for request in source.requests} == {"en"}


def test_what_is_no_sound_ends_the_conversation_with_a_sentence(
    server: HandsFreeService, client: TestClient
) -> None:
    for params, body, sentence in (
        ({"rate": 5}, b"", "A microphone does not have 5 samples a second."),
        ({}, b"", "A microphone does not have 0 samples a second."),
        (RATE, b"x", "The sound of the microphone came in halves."),
        (RATE, bytes(200_000), "The sound is larger than 160 kB."),
    ):
        address = begun(server, client) if body else server.begin(ANN, Controls())["address"]
        reply = client.post(address, params=params, content=body)
        assert (reply.status_code, sentence in reply.json()["error"]) == (400, True), reply.json()
        assert client.post(address, params=RATE).status_code == 404


def test_an_address_that_is_guessed_or_over_hears_nothing(
    server: HandsFreeService, client: TestClient
) -> None:
    assert client.post("listen/guessed", params=RATE, content=b"12").status_code == 404
    address = begun(server, client)
    assert client.delete(address).status_code == 200
    reply = client.post(address, params=RATE)
    assert (reply.status_code, reply.json()["error"]) == (404, hands_free.GONE)


def test_models_that_do_not_fit_together_are_not_begun_with(tmp_path: Path) -> None:
    sentence = "Whisper base, SmolLM2 135M, Piper Joe must be in memory at once: 2.01 GB"
    with (
        closing(program(tmp_path, FakeSource(), budget="1GB")) as small,
        closing(HandsFreeService(small)) as talk,
    ):
        with pytest.raises(CapacityError, match=sentence):
            talk.begin(ANN, Controls())
        assert small.memory.snapshot().held == ()


def test_the_voice_has_said_a_word_before_the_first_answer(
    server: HandsFreeService, client: TestClient, source: FakeSource
) -> None:
    begun(server, client, speak_in="en")
    (said,) = source.requests
    assert (said.text, said.language) == (REHEARSAL, "en")


def test_a_language_without_a_voice_is_said(server: HandsFreeService) -> None:
    with pytest.raises(RequestError, match="No voice here speaks Thai"):
        server.begin(ANN, Controls(hearing=TranscriptionSettings("th")))


def test_only_so_many_talk_at_once_and_who_is_gone_makes_room(
    server: HandsFreeService, client: TestClient
) -> None:
    addresses = [begun(server, client) for _ in range(hands_free.MOST_OPEN)]
    with pytest.raises(CapacityError, match="Too many people are talking"):
        server.begin(ANN, Controls())
    client.delete(addresses[0])
    begun(server, client)
