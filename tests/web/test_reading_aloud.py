"""Reading an answer aloud: who may ask for it, what is said, and what a browser plays."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest
from browser import Person
from conftest import Server, wait_until
from fakes import FakeSource, program
from starlette.applications import Starlette
from starlette.testclient import TestClient

from multimodal.backends.speech.speakers import language_of_script
from multimodal.build import Program
from multimodal.catalog.cards import ModelCard
from multimodal.errors import ConversationNotFoundError, RequestError, WeightsError
from multimodal.memory.transfers import ReportProgress
from multimodal.messages import Controls, Message, TextPart
from multimodal.requests import TTSRequest
from multimodal.web.reading_aloud import AnswerReader

ANN = "ann"


def answered(made: Program, text: str, controls: Controls | None = None) -> tuple[str, str]:
    """A chat with that answer: (its id, the answer's)."""
    chat = made.store.create(ANN, controls)
    answer = Message("assistant", (TextPart(text),))
    made.store.put_message(ANN, chat, Message("user", (TextPart("Hello"),)))
    made.store.put_message(ANN, chat, answer)
    return chat, answer.id


def fetched(reader: AnswerReader, address: str) -> httpx.Response:
    with TestClient(Starlette(routes=reader.routes())) as client:
        reply = client.get(f"/{address}")
    return httpx.Response(reply.status_code, headers=dict(reply.headers), content=reply.content)


def test_an_answer_is_said_with_the_voice_and_speed_that_were_set(
    made: Program, source: FakeSource
) -> None:
    reader = AnswerReader(made)
    chat, answer = answered(made, "A **bold** word", Controls(voice="jf_nezumi", speed=1.25))
    reply = fetched(reader, reader.prepare(ANN, chat, answer)["address"])
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "audio/mpeg"
    assert len(reply.content) > 1000
    assert source.requests == [TTSRequest("A bold word.", "en", None, "jf_nezumi", 1.25)]
    assert source.loaded == ["kokoro-82m"]
    assert not any(held.leases for held in made.memory.snapshot().held)


def test_a_voice_of_another_language_gives_way(made: Program, source: FakeSource) -> None:
    reader = AnswerReader(made)
    chat, answer = answered(made, "Hello", Controls(voice="of an earlier version"))
    fetched(reader, reader.prepare(ANN, chat, answer)["address"])
    assert source.requests == [TTSRequest("Hello.", "en", None, None, 1.0)]
    assert source.loaded == ["piper-joe-en-us"]


def test_an_answer_in_a_language_without_a_voice_says_so_with_its_words(made: Program) -> None:
    chat, answer = answered(made, "Москва — **столица** России.")
    receipt = AnswerReader(made).prepare(ANN, chat, answer)
    assert receipt["address"] == ""
    assert receipt["why"].startswith("No voice here speaks Russian. There are voices for English")
    assert (receipt["words"], receipt["language"]) == ("Москва — столица России.", "ru")


@dataclass
class WithoutAHub(FakeSource):
    """Where the voices of the hub cannot be fetched."""

    def fetch(self, card: ModelCard, report: ReportProgress) -> Path:
        if card.name == "kokoro-82m-more-voices":
            raise WeightsError("Kokoro has no weights yet: the hub cannot be reached. Connect.")
        return super().fetch(card, report)


@pytest.mark.parametrize("profile", ["embedded", "laptop"])
def test_a_voice_that_cannot_be_fetched_is_one_sentence_and_the_others_speak(
    profile: str, tmp_path: Path
) -> None:
    pytest.importorskip("espeakng_loader")
    source = WithoutAHub()
    with closing(program(tmp_path, source, profile=profile)) as made:
        reader = AnswerReader(made)
        chat, answer = answered(made, "Bonjour", Controls(speak_in="fr"))
        reply = fetched(reader, reader.prepare(ANN, chat, answer)["address"])
        assert reply.status_code == 503
        assert reply.text == "Kokoro has no weights yet: the hub cannot be reached. Connect."
        chat, answer = answered(made, "Hello")
        assert fetched(reader, reader.prepare(ANN, chat, answer)["address"]).status_code == 200
        assert source.loaded == ["piper-joe-en-us"]


def test_nobody_hears_the_answers_of_others(made: Program) -> None:
    reader = AnswerReader(made)
    chat, answer = answered(made, "A secret")
    with pytest.raises(ConversationNotFoundError):
        reader.prepare("bob", chat, answer)
    with pytest.raises(RequestError, match="no word in this answer"):
        reader.prepare(ANN, chat, "0" * 32)
    assert fetched(reader, "aloud/guessed").status_code == 404


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello", None),
        ("Café", None),
        ("東京はきれいです", "ja"),
        ("北京很大", "zh"),
        ("Москва", "ru"),
        ("The word is 水 in Chinese and in Japanese", None),
        ("서울", "ko"),
        ("3.5!", None),
    ],
)
def test_the_script_tells_the_language(text: str, language: str | None) -> None:
    assert language_of_script(text) == language


# ------------------------------------------------------------ in a browser


@pytest.fixture
def server(app: Server) -> Server:
    return app


def test_an_answer_is_read_aloud_and_a_second_press_stops(person: Person) -> None:
    page = person.page
    page.evaluate(
        """() => {
          window.heard = [];
          const Real = window.Audio;
          window.Audio = function (src) {
            const audio = new Real(src);
            window.heard.push(audio);
            return audio;
          };
        }"""
    )
    assert person.ask("Tell me about rivers.")
    button = person.answers.last.get_by_role("button", name="Read aloud")
    assert button.get_attribute("aria-pressed") == "false"
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    wait_until(lambda: page.evaluate("window.heard.length === 1 && heard[0].currentTime > 0"))
    assert re.search("/aloud/[A-Za-z0-9_-]{20,}$", page.evaluate("heard[0].src"))
    assert page.evaluate("heard[0].error") is None
    assert person.barriers("#chat") == []
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate("heard[0].paused")


def test_where_a_voice_cannot_be_had_the_browsers_own_is_offered(person: Person) -> None:
    page, why = person.page, "Kokoro has no weights yet: the hub cannot be reached."
    page.route("**/aloud/*", lambda route: route.fulfill(status=503, body=why))
    page.evaluate(
        """() => {
          const voice = { lang: "en-US", name: "Of the browser" };
          speechSynthesis.getVoices = () => [voice];
          window.said = [];
          window.SpeechSynthesisUtterance = function (text) { this.text = text; };
          speechSynthesis.speak = ({ text }) => window.said.push(text);
        }"""
    )
    assert person.ask("Tell me about rivers.")
    person.answers.last.get_by_role("button", name="Read aloud").click()
    offer = page.get_by_role("button", name="Read it with your browser's own voice")
    offer.wait_for()
    assert page.get_by_text(why).count() == 1
    offer.click()
    wait_until(lambda: page.evaluate("said.length === 1 && said[0].length > 0"))
