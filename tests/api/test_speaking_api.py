"""`/v1/audio/speech` and `/v1/audio/voices`: a model that hums, over HTTP, by OpenAI's client."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from fakes import client_at, served
from own_models import write_card, write_profile
from tiny_speech import save_piper

from multimodal.build import build
from multimodal.limits import Limits
from multimodal.media.audio import decode
from multimodal.media.audio_encoder import FORMATS, AudioEncoder
from multimodal.settings import read_settings

TEXT = "One bad hat. Two bad hats."
HEARD_AS = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav"}


def save_cards(data: Path) -> None:
    """A profile with two models for speech, one of which has two voices."""
    for name, voices in {"hum": ["low", "high"], "buzz": ["bee"]}.items():
        save_piper(data / name)
        write_card(
            data / "models",
            name,
            "text-to-speech",
            "piper",
            voices=[{"name": v, "title": v.capitalize(), "language": "en-US"} for v in voices],
            source={"kind": "folder", "path": str(data / name)},
        )
    write_profile(data / "models", "humming", {"text-to-speech": ["hum", "buzz"]})


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("humming")
    save_cards(data)
    with served(build(read_settings(data=data, profile="humming", device="cpu"))) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return client_at(url)


def ask(client: openai.OpenAI, **more: Any) -> bytes:
    request = {"model": "tts-1", "voice": "nova", "input": TEXT} | more
    return client.audio.speech.create(**request).content


def seconds(sound: bytes) -> float:
    return len(decode(sound, "spoken", Limits())) / 16_000


@pytest.mark.parametrize("kind", HEARD_AS)
def test_speech_comes_in_the_format_that_is_asked_for(client: openai.OpenAI, kind: str) -> None:
    raw = len(ask(client, response_format="pcm")) / 2 / 24_000
    made = ask(client, response_format=kind)
    assert seconds(made) == pytest.approx(raw, abs=0.15), "decoded by FFmpeg to its end"
    assert made[:4] in {b"RIFF", b"fLaC", b"OggS"} or kind in {"mp3", "aac"}


def test_mp3_is_what_comes_unless_another_format_is_asked_for(url: str) -> None:
    body = {"model": "auto", "input": TEXT, "voice": "alloy"}
    reply = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60)
    assert reply.headers["content-type"] == "audio/mpeg"
    assert reply.headers.get("content-length") is None, "it is sent as it is made"


def test_double_speed_takes_half_as_long(client: openai.OpenAI) -> None:
    usual, fast = (len(ask(client, response_format="pcm", speed=speed)) for speed in (1, 2))
    assert fast == pytest.approx(usual / 2, rel=0.01)


def test_the_sound_comes_as_events_where_that_is_asked_for(url: str) -> None:
    body = {"input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    lines = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    *deltas, done = events
    assert [event["type"] for event in deltas] == ["speech.audio.delta"] * len(deltas)
    assert done["type"] == "speech.audio.done"
    whole = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    at_once = body | {"stream_format": "audio"}
    assert whole == httpx.post(f"{url}/v1/audio/speech", json=at_once, timeout=60).content
    assert len(deltas) >= 2, "a sentence at a time"


def test_voices_are_listed_with_their_models_and_languages(url: str) -> None:
    listed = httpx.get(f"{url}/v1/audio/voices").json()["voices"]
    assert [(voice["id"], voice["model"]) for voice in listed] == [
        ("low", "hum"), ("high", "hum"), ("bee", "buzz"),
    ]  # fmt: skip
    assert listed[0] == {
        "id": "low", "name": "Low", "language": "en", "languages": ["en"], "model": "hum",
        "license": "MIT",
    }  # fmt: skip


def test_a_voice_of_any_model_is_found_by_its_name(client: openai.OpenAI) -> None:
    for name in ("low", "high", "bee"):
        assert ask(client, voice=name, model="auto", response_format="pcm")
    assert ask(client, model="buzz", voice="bee", response_format="pcm")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"voice": "joan"}, "There is no voice 'joan' here. There are: low, high, bee."),
        ({"voice": "bee", "model": "hum"}, "Hum has no voice 'bee'. It has: low, high."),
        ({"response_format": "midi"}, "response_format 'midi' is not made here; mp3, opus, aac"),
        ({"stream_format": "smoke"}, "stream_format 'smoke' is neither audio nor sse."),
        ({"speed": 4}, "speed 4 is not one from 0.5 to 2."),
        ({"input": "***"}, "input has no word to speak. Write some."),
        ({"input": "x" * 4097}, "input is 4,097 characters long and at most 4,096 are spoken"),
        (
            {"extra_body": {"language": "sw"}},
            "No voice here speaks Swahili. There are voices for E",
        ),
    ],
)
def test_what_cannot_be_spoken_is_refused_in_one_sentence(
    client: openai.OpenAI, more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    assert sentence in caught.value.message


def test_an_empty_text_is_refused(url: str) -> None:
    reply = httpx.post(f"{url}/v1/audio/speech", json={"input": ""})
    assert reply.status_code == 400
    assert "input" in reply.json()["error"]["message"]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_fed_can_be_heard_before_the_end(kind: str) -> None:
    encoder, second = AudioEncoder(kind), b"\x00\x20\x00\xe0" * 8000
    first = b"".join(encoder.encode(second, 16_000) for _ in range(3))
    rest = encoder.finish()
    assert len(first) > len(rest), "most is sent as it is made"
    if kind in HEARD_AS:
        assert seconds(io.BytesIO(first + rest).getvalue()) == pytest.approx(3, abs=0.1)
