"""OpenAI's interface, through its own client: the real app, and engines that fail when told."""

from __future__ import annotations

import asyncio
import base64
import itertools
import socket
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest
from conftest import Server, running_app, wait_until
from fakes import FakeSource
from starlette.applications import Starlette
from text_requests import turns_of

from multimodal.api.event_streams import events
from multimodal.catalog.cards import Catalog
from multimodal.errors import BackendError, CapacityError, MultimodalError, WeightsError
from multimodal.events import Progress, TurnEvent
from multimodal.media.audio import wav

QUESTION: Any = [{"role": "user", "content": "What is photosynthesis?"}]


def said(content: Any) -> Any:
    return [{"role": "user", "content": content}]


def linked(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def picture(path: Path) -> dict[str, Any]:
    return linked(f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}")


def test_a_question_streams_an_answer(client: openai.OpenAI) -> None:
    pieces, route, finish, usage = [], None, None, None
    for chunk in client.chat.completions.create(
        model="auto", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
            route = getattr(chunk, "x_route", None) or route
    assert len(pieces) > 10
    assert "plants" in "".join(pieces).lower()
    assert finish == "stop"
    assert route is not None
    assert route["routes"][0]["rule"] == "text"
    assert usage is not None
    assert usage.completion_tokens >= len(pieces) - 5


def test_pictures_are_described_and_read(client: openai.OpenAI, examples: Path) -> None:
    for name, question, word in (
        ("chelsea.jpg", "What is in this picture?", "cat"),
        ("coffee.jpg", "What is this?", "espresso"),
        ("printed-words.png", "What does it say?", "Tomatoes need sun"),
    ):
        content: Any = [{"type": "text", "text": question}, picture(examples / name)]
        reply = client.chat.completions.create(model="auto", messages=said(content))
        assert word in (reply.choices[0].message.content or "")
        assert reply.model == "picture-describer"


@pytest.mark.parametrize(
    ("name", "heard"),
    [("speech-en.wav", "The sun rises in the east"), ("question-fr.wav", "musique")],
)
def test_a_spoken_question_is_heard_and_answered(
    client: openai.OpenAI, examples: Path, name: str, heard: str
) -> None:
    data = base64.b64encode((examples / name).read_bytes()).decode()
    content: Any = [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]
    reply = client.chat.completions.create(model="auto", messages=said(content))
    found = reply.x_route["found"][0]  # type: ignore[attr-defined]
    assert heard in found["transcript"]
    assert reply.choices[0].message.content


def test_a_recording_is_transcribed_and_translated(client: openai.OpenAI, examples: Path) -> None:
    file = examples / "question-fr.wav"
    told = client.audio.transcriptions.create(model="whisper-1", file=file)
    assert "la musique" in told.text
    english = client.audio.translations.create(model="whisper-1", file=file)
    assert "music" in english.text.lower()


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "auto"
    assert {"smollm2-135m-instruct", "whisper-base", "picture-describer"} < set(names)


def test_the_second_turn_reads_only_what_is_new(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model="auto", messages=QUESTION, seed=1, max_tokens=40, temperature=0
    )
    answer = {"role": "assistant", "content": first.choices[0].message.content}
    follow: Any = [*QUESTION, answer, {"role": "user", "content": "And where?"}]
    second = client.chat.completions.create(model="auto", messages=follow, max_tokens=10)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) > 60


@pytest.mark.parametrize(
    ("messages", "more", "sentence"),
    [
        ([], {}, "messages"),
        (said(" "), {}, "The message is empty"),
        ([{"role": "assistant", "content": "hi"}], {}, "must be the user's"),
        (said("word " * 60_000), {}, "reads 4,096"),
        (QUESTION, {"temperature": 9}, "temperature"),
        (QUESTION, {"n": 3}, "n:"),
        (said([linked("http://127.0.0.1/cat.jpg")]), {}, "never fetched"),
        (said([linked("data:image/png;base64,AAAA")]), {}, "is not a picture"),
        (said([linked("data:image/png;base64,?")]), {}, "not valid base64"),
        (said([{"type": "video"}]), {}, "messages.0.content.0: "),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(
    client: openai.OpenAI, messages: Any, more: Any, sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="auto", messages=messages, **more)
    assert sentence in caught.value.message


def test_unknown_models_and_paths_are_told(client: openai.OpenAI, app: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-5'"):
        client.chat.completions.create(model="gpt-5", messages=QUESTION)
    reply = httpx.get(f"{app.url}/v1/embeddings")
    assert reply.status_code == 404
    assert "/v1/chat/completions" in reply.json()["error"]["message"]


def test_a_body_that_never_ends_is_cut(app: Server) -> None:
    forever = (b" " * 1_000_000 for _ in range(100))
    reply = httpx.post(f"{app.url}/v1/chat/completions", content=forever, timeout=60)
    assert reply.status_code == 413


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(
    fake: openai.OpenAI, source: FakeSource, stream: bool
) -> None:
    """An engine that would write for ever."""
    source.script = lambda request: itertools.repeat("word ")
    url = httpx.URL(str(fake.base_url)).join("chat/completions")
    request = httpx.Request("POST", url, json={"messages": QUESTION, "stream": stream})
    raw = socket.create_connection((url.host, url.port))
    size = f"Content-Length: {len(request.content)}"
    head = f"POST {url.path} HTTP/1.1\r\nHost: {url.host}\r\n{size}\r\n\r\n"
    raw.sendall(head.encode() + request.content)
    wait_until(lambda: source.active == 1)
    raw.close()
    wait_until(lambda: source.active == 0)


def test_with_logins_every_call_brings_one(all_weights: Path, tmp_path: Path) -> None:
    with running_app(tmp_path, "--auth", "ann:sécret:x") as app:
        url = f"{app.url}/v1/models"
        assert httpx.get(f"{app.url}/health").status_code == 200
        for bad in ("Bearer ann:wrong", "Bearer :", "Basic !!", "Bearer bob:sécret:x"):
            refused = httpx.get(url, headers={"Authorization": bad.encode()})
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["error"]["code"] == "invalid_api_key"
        good = {"Authorization": "Bearer ann:sécret:x".encode()}
        assert httpx.get(url, headers=good).status_code == 200
        assert httpx.get(url, auth=("ann", "sécret:x")).status_code == 200
        assert "Conversation" not in httpx.get(app.url).text


def test_twenty_people_at_once_all_get_their_answers(client: openai.OpenAI) -> None:
    def ask(number: int) -> str | None:
        asked = said(f"Say something nice about {number}.")
        reply = client.chat.completions.create(model="auto", messages=asked, max_tokens=24)
        return reply.choices[0].message.content

    with ThreadPoolExecutor(20) as people:
        assert all(people.map(ask, range(20)))


def test_what_is_asked_reaches_the_engine(fake: openai.OpenAI, source: FakeSource) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, *QUESTION]
    nulls: Any = {"n": None, "stop": None, "logit_bias": None, "stream": None, "user": "ann"}
    fake.chat.completions.create(
        model="auto", messages=messages, temperature=0, top_p=0.5, seed=7, extra_body=nulls
    )
    fake.chat.completions.create(model="auto", messages=QUESTION, stop="x", max_tokens=9)
    asked, later = source.requests
    assert (asked.system_prompt, turns_of(asked)) == (
        "Be brief.",
        (("user", "What is photosynthesis?"),),
    )
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.seed) == (0, 0.5, 7)
    assert (later.sampling.stop, later.sampling.max_tokens) == (("x",), 9)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendError("It broke."), 500),
        (CapacityError("It is full."), 503),
        (WeightsError("It is missing."), 503),
        (KeyError("a bug"), 500),
    ],
)
def test_failures_are_told_streamed_or_not(
    fake: openai.OpenAI, source: FakeSource, error: Exception, status: int
) -> None:
    def fail(_request: Any) -> Iterator[str]:
        yield "so "
        raise error

    told = str(error) if isinstance(error, MultimodalError) else "its log says how"
    source.script = fail
    with pytest.raises(openai.APIStatusError, match=told) as caught:
        fake.chat.completions.create(model="auto", messages=QUESTION)
    assert caught.value.status_code == status
    streamed = fake.chat.completions.create(model="auto", messages=QUESTION, stream=True)
    with pytest.raises(openai.APIError, match=told):
        list(streamed)
    assert source.active == 0


def test_a_broken_form_is_refused_as_json(fake: openai.OpenAI) -> None:
    url = f"{fake.base_url}audio/transcriptions"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = httpx.post(url, content=b"no form", headers=form)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    asked = {"files": {"file": b"RIFF"}, "data": {"language": "klingon"}}
    assert "'klingon'" in httpx.post(url, **asked).json()["error"]["message"]  # type: ignore[arg-type]


def test_a_busy_stream_is_kept_alive_and_closed_when_its_client_leaves() -> None:
    closed = threading.Event()

    def work(_stop: threading.Event) -> Generator[TurnEvent, None, None]:
        try:
            while True:
                time.sleep(0.02)
                yield Progress("Fetching")
        finally:
            closed.set()

    looks = iter([False] * 3)

    async def left() -> bool:
        return next(looks, True)

    async def listen() -> list[TurnEvent | None]:
        caller: Any = SimpleNamespace(is_disconnected=left, app=Starlette())
        async with aclosing(events(work, caller, keep_alive_s=0.1)) as happening:
            return [event async for event in happening]

    assert asyncio.run(listen()).count(None) >= 3
    assert closed.wait(30)


OTHER_PROFILES = ["phi-2", "whisper-large-v3", "stable-diffusion-1.5", "seamless-m4t-v2-large"]


@pytest.mark.parametrize("name", [*OTHER_PROFILES, "x" * 100_000, "smollm2-135m-instruct:int3"])
def test_no_client_has_a_model_fetched_that_the_profile_does_not_offer(
    fake: openai.OpenAI, source: FakeSource, name: str
) -> None:
    sound = ("sound.wav", wav(np.zeros(1600, np.float32)))
    for ask in (
        lambda: fake.chat.completions.create(model=name, messages=QUESTION),
        lambda: fake.chat.completions.create(model=name, messages=QUESTION, stream=True),
        lambda: fake.images.generate(model=name, prompt="a cat"),
        lambda: fake.audio.transcriptions.create(model=name, file=sound),
        lambda: fake.audio.translations.create(model=name, file=sound),
        lambda: fake.audio.speech.create(model=name, input="Hello.", voice="0"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert name.rpartition(":")[2][:40] in caught.value.message
        assert len(caught.value.message) < 1000
    assert source.requests == source.loaded == []


def test_the_catalog_has_the_models_that_other_profiles_offer(catalog: Catalog) -> None:
    offered = catalog.profile("embedded").names
    for name in OTHER_PROFILES:
        assert catalog.card(name).name not in offered
