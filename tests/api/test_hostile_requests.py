"""Requests to `/v1` that were made to cost more than they should: each is refused in a short
sentence, before the work, and none ends in an error of the server."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from fakes import FakeSource, program, served
from pydantic import ValidationError
from text_requests import turns_of

from multimodal.api.base64_media import decode_base64
from multimodal.api.chat_schema import ChatRequest
from multimodal.api.fields import (
    CHAT,
    IMAGES,
    MESSAGE,
    PICTURE,
    SOUND,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)
from multimodal.api.guard import error_response
from multimodal.errors import RequestError

LONG = "x" * 1_000_000
SHORT_ANSWER = 4000
QUESTION = {"role": "user", "content": "Why?"}
WAV = ("a.wav", b"RIFF")


@pytest.fixture(scope="module")
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture(scope="module")
def url(source: FakeSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(program(tmp_path_factory.mktemp("data"), source)) as address:
        yield f"{address}/v1"


def refusal(reply: httpx.Response, status: int = 400) -> str:
    assert reply.status_code == status, reply.text[:500]
    assert len(reply.content) < SHORT_ANSWER
    sentence: str = reply.json()["error"]["message"]
    return sentence


def chat(url: str, *messages: Any, **more: Any) -> httpx.Response:
    body = {"messages": [*messages], **more}
    return httpx.post(f"{url}/chat/completions", json=body, timeout=120)


# ------------------------------------------------------------ what is counted

TOO_LONG = "x" * 400_001
CALL: dict[str, Any] = {"name": "weather", "arguments": TOO_LONG}
WORDS: dict[str, dict[str, Any]] = {
    "text": {"role": "user", "content": TOO_LONG},
    "a text part": {"role": "user", "content": [{"type": "text", "text": TOO_LONG}]},
    "a refusal part": {
        "role": "assistant",
        "content": [{"type": "refusal", "refusal": TOO_LONG}],
    },
    "a refusal": {"role": "assistant", "refusal": TOO_LONG},
    "a call": {"role": "assistant", "tool_calls": [{"id": "1", "function": CALL}]},
    "many calls": {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": "a", "arguments": "x" * 1000}}] * 401,
    },
    "a call of another kind": {
        "role": "assistant",
        "tool_calls": [{"id": "1", "custom": {"name": "weather", "input": TOO_LONG}}],
    },
    "a call of old": {"role": "assistant", "function_call": CALL},
}


@pytest.mark.parametrize("kind", WORDS)
def test_all_words_that_a_model_would_read_are_counted(
    url: str, source: FakeSource, kind: str
) -> None:
    before = len(source.requests)
    assert "characters long" in refusal(chat(url, WORDS[kind], QUESTION))
    assert len(source.requests) == before


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "name": "x" * 257, "content": "31"},
        {"role": "assistant", "function_call": {"name": "x" * 257, "arguments": ""}},
        {"role": "assistant", "tool_calls": [{"function": {"name": "x" * 257}}]},
        {"role": "assistant", "tool_calls": [{"custom": {"name": "x" * 257}}]},
    ],
)
def test_a_name_that_is_said_in_every_result_is_short(url: str, message: Any) -> None:
    assert "at most 256 characters" in refusal(chat(url, message, QUESTION))


def test_all_that_an_assistant_sent_is_read(url: str, source: FakeSource) -> None:
    said = {
        "role": "assistant",
        "content": [{"type": "refusal", "refusal": f"No {n}."} for n in range(11)],
        "refusal": "Never.",
        "tool_calls": [
            {"id": "1", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
            {"id": "2", "type": "function", "function": {"name": "add", "arguments": "{}"}},
        ],
    }
    result = {"role": "tool", "tool_call_id": "1", "content": "a.txt"}
    assert chat(url, QUESTION, said, result).status_code == 200
    asked = turns_of(source.requests[-1])
    expected = [f"No {n}." for n in range(11)]
    assert asked[1][1].split("\n") == [*expected, "Never.", "Call of shell: ls", "Call of add: {}"]
    assert asked[2][1] == "Result of shell:\na.txt"


def test_pictures_in_a_system_message_are_refused_and_not_dropped(url: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for role in ("system", "developer"):
        message = {"role": role, "content": [picture]}
        assert "holds words alone" in refusal(chat(url, message, QUESTION))


# ------------------------------------------------------------ many of something


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [0] * 400_000},
        {"messages": [{"role": "user", "content": [0] * 400_000}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 100_000}]},
        {"messages": [{"role": "assistant", "tool_calls": [0] * 400_000}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}] * 200_000}]},
        {"messages": [{"role": "user", "content": [0] * 1000}] * 300},
        {"messages": [QUESTION], "stop": [0] * 400_000},
        {"messages": [QUESTION], "stop": ["a"] * 400_000},
    ],
)
def test_of_many_faults_only_the_first_is_looked_for(body: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate_json(json.dumps(body))
    assert caught.value.error_count() == 1


def test_words_that_end_an_answer_are_few_and_short(url: str) -> None:
    assert chat(url, QUESTION, stop=["x" * 500] * 16).status_code == 200
    assert "at most 16 items" in refusal(chat(url, QUESTION, stop=["x"] * 17))
    assert "at most 500 characters" in refusal(chat(url, QUESTION, stop="x" * 501))


# ------------------------------------------------------------ forms


def form(charset: str = "", prompt: bytes = b"Ann") -> dict[str, Any]:
    head = b'--x\r\nContent-Disposition: form-data; name="'
    body = head + b'file"; filename="a.wav"\r\n\r\nRIFF\r\n' + head + b'language"\r\n\r\n' + prompt
    kind = f"multipart/form-data; boundary=x{charset}"
    return {"content": body + b"\r\n--x--\r\n", "headers": {"Content-Type": kind}}


@pytest.mark.parametrize("endpoint", ["transcriptions", "translations"])
@pytest.mark.parametrize(
    "charset", ["punycode", "unicode_escape", "utf-7", "idna", "latin-1", "no such"]
)
def test_a_form_is_read_as_utf8_or_not_at_all(url: str, endpoint: str, charset: str) -> None:
    for written in (f"; charset={charset}", f'; charset="{charset}"'):
        asked = form(written, b"\\ud800" * 1000)
        assert "UTF-8" in refusal(httpx.post(f"{url}/audio/{endpoint}", **asked))
    for written in ("", "; charset=UTF-8", "; charset=utf8"):
        asked = form(written, "klingon é".encode())
        assert "'klingon é'" in refusal(httpx.post(f"{url}/audio/{endpoint}", **asked))


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
def test_a_body_that_is_no_form_with_parts_is_not_parsed(url: str, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    content = b"a&" * 500_000
    reply = httpx.post(f"{url}/audio/transcriptions", content=content, headers=headers)
    assert "multipart/form-data" in refusal(reply)


def test_what_may_occur_in_a_recording_is_no_longer_than_whisper_reads(url: str) -> None:
    for data in ({"prompt": "x" * 4001}, {"keywords": ["x" * 2000] * 3}):
        reply = httpx.post(f"{url}/audio/transcriptions", files={"file": WAV}, data=data)
        assert "Shorten them" in refusal(reply)


def test_half_characters_are_told_as_any_fault(url: str) -> None:
    for body in (b'{"messages": [], "model": "\\ud800"}', b'{"messages": [{"role": "\\ud800"}]}'):
        headers = {"Content-Type": "application/json"}
        refusal(httpx.post(f"{url}/chat/completions", content=body, headers=headers))
    _, told = error_response(RequestError("language '\ud800' is not known"))
    assert json.dumps(told, ensure_ascii=False).encode()


# ------------------------------------------------------------ long strings


def long_bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of every endpoint that takes JSON, and every field inside a message, as 1 MB."""
    spoken = {"model": "auto", "input": "Hello."}
    for path, base, fields in (
        ("chat/completions", {"messages": [QUESTION]}, CHAT),
        ("images/generations", {"prompt": "a cat"}, IMAGES),
        ("audio/speech", spoken, SPEECH),
    ):
        for field in sorted(fields.known):
            yield path, {**base, field: LONG}
            yield path, {**base, field: [LONG]}
            yield path, {**base, field: {LONG: LONG}}
    parts: list[Any] = [{"type": LONG}, {"type": "text", "text": LONG}]
    parts += [{"type": "refusal", "refusal": LONG}, {"type": "image_url", "image_url": LONG}]
    picture, sound = {"url": "data:,"}, {"data": "AAAA"}
    for field in sorted(PICTURE.known):
        parts.append({"type": "image_url", "image_url": {**picture, field: LONG}})
    for field in sorted(SOUND.known):
        parts.append({"type": "input_audio", "input_audio": {**sound, field: LONG}})
    messages: list[Any] = [{**QUESTION, "content": [part]} for part in parts]
    messages += [{**QUESTION, field: LONG} for field in sorted(MESSAGE.known)]
    for call in ({"id": LONG}, {"function": {"name": LONG}}, {"function": {"arguments": LONG}}):
        messages.append({"role": "assistant", "tool_calls": [call]})
    for message in messages:
        yield "chat/completions", {"messages": [message, QUESTION]}
        yield "chat/completions", {"messages": [message]}
    yield "audio/speech", {**spoken, "voice": "1" * 5000}


def test_a_long_string_in_any_field_is_told_in_a_short_sentence(url: str) -> None:
    with httpx.Client(timeout=120) as client:
        for path, body in long_bodies():
            reply = client.post(f"{url}/{path}", json=body)
            place = f"{path} {str(body)[:60]} {[*body]}: {reply.text[:300]}"
            assert reply.status_code < 500, place
            assert len(reply.content) < SHORT_ANSWER, place


def test_a_long_string_in_any_field_of_a_form_is_told_in_a_short_sentence(url: str) -> None:
    with httpx.Client(timeout=120) as client:
        for endpoint, fields in (
            ("transcriptions", TRANSCRIPTIONS),
            ("translations", TRANSLATIONS),
        ):
            for field in sorted(fields.known - {"file"}):
                data = {"language": "klingon", field: LONG}
                reply = client.post(f"{url}/audio/{endpoint}", files={"file": WAV}, data=data)
                place = f"{endpoint} {field}: {reply.text[:300]}"
                assert 400 <= reply.status_code < 500, place
                assert len(reply.content) < SHORT_ANSWER, place
            named = {"file": (LONG[:8000], b"RIFF")}
            reply = client.post(f"{url}/audio/{endpoint}", files=named)
            assert reply.status_code == 400
            assert len(reply.content) < SHORT_ANSWER


def test_a_long_name_in_an_address_is_cut(url: str) -> None:
    assert "no model" in refusal(httpx.get(f"{url}/models/{LONG[:50_000]}"), 404)
    refusal(httpx.get(f"{url}/{LONG[:50_000]}"), 404)


# ------------------------------------------------------------ base64


def test_escaped_letters_are_not_unpacked() -> None:
    text = "%41" * 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="not valid base64"):
            decode_base64(text, "data", len(text))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(text)
