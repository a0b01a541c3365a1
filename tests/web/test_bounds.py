"""The running program under attack: what it is sent may cost much more than it weighs."""

from __future__ import annotations

import base64
import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import httpx2 as httpx
import numpy as np
import psutil
import pytest
from conftest import Server, running_app, wait_until
from PIL import Image

from multimodal.catalog.cards import Catalog

ALLOWED_BEYOND_BUDGET = 1_000_000_000
KILLED_AT = 6_000_000_000
"""A program without bounds takes all of the machine it is tested on."""
SAMPLED_S = 0.05
PATIENCE_S = 240.0
LEAVES_S = 5.0
"""How long an attacker waits for an answer who does not want one."""


@dataclass
class Watched:
    """The program, and the most that its processes have taken together."""

    server: Server
    peak_bytes: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def sample(self) -> None:
        process = psutil.Process(self.server.process.pid)
        while not self.ended.wait(SAMPLED_S):
            with suppress(psutil.Error):
                family = [process, *process.children(recursive=True)]
                self.peak_bytes = max(self.peak_bytes, sum(p.memory_info().rss for p in family))
            if self.peak_bytes > KILLED_AT:
                self.server.process.kill()
                return


@pytest.fixture(scope="module")
def watched(all_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A program of its own; what it took at most is measured from its start."""
    with running_app(tmp_path_factory.mktemp("attacked")) as server:
        watched = Watched(server)
        sampler = threading.Thread(target=watched.sample)
        sampler.start()
        yield watched
        watched.ended.set()
        sampler.join()


@pytest.fixture
def url(watched: Watched) -> str:
    return watched.server.url


# ---------------------------------------------------------------- what attackers send


def deep_png(side: int) -> bytes:
    """Grey, 16 bits, all alike: kilobytes that unpack to 2 x side x side bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side), 30_000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def wide_flac(seconds: int, rate: int = 192_000) -> bytes:
    """Eight channels of silence: a kilobyte and a half a second."""
    buffer = io.BytesIO()
    silence = np.zeros((1, 8 * rate), np.int16)
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate, layout="7.1")
        assert isinstance(stream, av.AudioStream)
        for second in range(seconds):
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="7.1")
            frame.sample_rate, frame.pts = rate, second * rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def chat(*content: Any, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": list(content)}], **more}).encode()


def shown(data: bytes) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def event(files: list[str], words: str = "") -> dict[str, Any]:
    """A message as the page sends it, with files of those paths."""
    meta = {"_type": "gradio.FileData"}
    box = {"text": words, "files": [{"path": path, "meta": meta} for path in files]}
    return {"data": [box], "fn_index": 0}


def attempt(url: str, wait_s: float, **body: Any) -> httpx.Response | None:
    """The answer to a POST; None where the attacker left before there was one."""
    try:
        return httpx.post(url, timeout=wait_s, **body)
    except httpx.HTTPError:
        return None


def post(url: str, body: bytes, wait_s: float = PATIENCE_S) -> httpx.Response | None:
    return attempt(f"{url}/v1/chat/completions", wait_s, content=body)


def transcribe(url: str, data: bytes, wait_s: float = PATIENCE_S) -> httpx.Response | None:
    return attempt(f"{url}/v1/audio/transcriptions", wait_s, files={"file": ("a.flac", data)})


def upload(url: str, *files: bytes, wait_s: float = PATIENCE_S) -> httpx.Response:
    form = [("files", (f"{number}.png", data)) for number, data in enumerate(files)]
    return httpx.post(f"{url}/gradio_api/upload", files=form, timeout=wait_s)


def join(url: str, body: dict[str, Any]) -> httpx.Response:
    """An event of a page of one's own, with the cookie that the page was given."""
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as browser:
        browser.get("/").raise_for_status()
        body = {**body, "session_hash": uuid.uuid4().hex}
        return browser.post("/gradio_api/queue/join", json=body)


def sentence(reply: httpx.Response | None) -> str:
    assert reply is not None
    body = reply.json()
    return str(body["error"]["message"] if "error" in body else body["detail"])


@contextmanager
def bystander(url: str) -> Iterator[list[str]]:
    """Somebody else, who asks small questions all the while, and what was not answered."""
    over, failures, asked = threading.Event(), [], [0]

    def ask() -> None:
        while not over.is_set() or not asked[0]:
            try:
                assert httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200
                reply = post(url, chat(text("Say hello."), max_tokens=4))
                assert reply is not None
                assert reply.json()["choices"][0]["message"]["content"]
            except Exception as error:
                failures.append(repr(error))
                return
            asked[0] += 1

    person = threading.Thread(target=ask)
    person.start()
    try:
        yield failures
    finally:
        over.set()
        person.join()


# ---------------------------------------------------------------- all at once


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "wait_s",
    [
        pytest.param(LEAVES_S, id="leaving"),
        pytest.param(PATIENCE_S, id="staying", marks=pytest.mark.thorough),
    ],
)
def test_while_all_attack_at_once_memory_is_bounded_and_others_are_answered(
    watched: Watched, catalog: Catalog, wait_s: float
) -> None:
    url, deep, wide = watched.server.url, deep_png(7000), wide_flac(150)
    budget = int(catalog.profile("embedded").budget)
    first = post(url, chat(text("Say hello."), max_tokens=4))
    assert first is not None
    assert first.status_code == 200, "the model is resident"
    attacks: list[Callable[[], Any]] = [
        lambda: post(url, chat(text("word " * 14_000_000)), wait_s),
        lambda: post(url, chat(text("😀" + "word " * 14_000_000)), wait_s),
        lambda: post(url, b'{"messages":[' + b"[]," * 25_000_000 + b"[]]}", wait_s),
        *[lambda: post(url, chat(shown(deep)), wait_s)] * 6,
        lambda: post(url, chat(*[shown(deep)] * 12), wait_s),
        *[lambda: transcribe(url, wide, wait_s)] * 3,
        lambda: upload(url, *[bytes(40_000_000)] * 10),
        lambda: join(url, event(["https://example.org/large.iso"])),
        lambda: join(url, {"data": [[]] * 200_000}),
    ]
    with bystander(url) as failures, ThreadPoolExecutor(len(attacks)) as attackers:
        for attack in [attackers.submit(attack) for attack in attacks]:
            attack.result()
    assert not failures
    print(f"at most {watched.peak_bytes / 1e9:.2f} GB")
    assert watched.peak_bytes < budget + ALLOWED_BEYOND_BUDGET
    wait_until(lambda: _is_idle(watched), 60, every_s=0.5)


def _is_idle(watched: Watched) -> bool:
    """Whether nothing goes on for those who have left."""
    return psutil.Process(watched.server.process.pid).cpu_percent(1.0) < 50


# ---------------------------------------------------------------- each by itself


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (chat(text("word " * 100_000)), "500,000 characters long and at most 400,000"),
        (chat(*[text("word " * 70_000)] * 3), "and at most 400,000"),
        (chat(*[shown(b"a")] * 12), "12 files are too many for one message"),
        (b'{"messages":[' + b"[]," * 600_000 + b"[]]}", "more than 500,000 values"),
    ],
    ids=["text", "texts", "pictures", "values"],
)
def test_what_is_too_much_is_refused_before_the_work(url: str, body: bytes, said: str) -> None:
    reply = post(url, body)
    assert reply is not None
    assert reply.status_code == 400
    assert said in sentence(reply)


def test_a_history_that_is_too_long_is_refused(url: str) -> None:
    turns = [{"role": role, "content": "word " * 40_000} for role in ("user", "assistant") * 3]
    body = json.dumps({"messages": [*turns, {"role": "user", "content": "And?"}]}).encode()
    assert "at most 1,000,000 can be sent" in sentence(post(url, body))


def test_pictures_that_are_too_many_pixels_together_are_refused(url: str) -> None:
    said = sentence(post(url, chat(*[shown(deep_png(7000))] * 5)))
    assert "more than 200 million pixels together" in said


def test_sound_of_many_channels_at_a_high_rate_is_refused_before_it_is_decoded(url: str) -> None:
    reply = transcribe(url, wide_flac(150))
    assert "8 channels of 192,000 samples a second; at most 0:01:57" in sentence(reply)


def test_uploads_are_bounded_together(url: str) -> None:
    reply = upload(url, *[bytes(40_000_000)] * 3)
    assert reply.status_code == 413
    assert "120 MB together or more, and at most 100 MB" in reply.text
    assert "More than 10 files" in upload(url, *[b"x"] * 11).text
    field = {"words": "x" * 100_000}
    reply = httpx.post(f"{url}/gradio_api/upload", data=field, files={"files": ("a", b"x")})
    assert "Only files can be uploaded" in reply.text
    assert upload(url, deep_png(20), deep_png(30)).status_code == 200


def test_an_upload_of_no_known_length_is_cut(url: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    pieces = (head if number == 0 else bytes(1_000_000) for number in range(200))
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = httpx.post(f"{url}/gradio_api/upload", content=pieces, headers=kind, timeout=PATIENCE_S)
    assert reply.status_code in {400, 413}


def test_one_visitor_cannot_fill_the_disk(url: str) -> None:
    replies = [upload(url, *[bytes(49_000_000)] * 2) for _ in range(6)]
    assert replies[0].status_code == 200
    assert replies[-1].status_code == 503
    assert "more than 500 MB within the last hour" in replies[-1].text


@pytest.mark.parametrize(
    "path", ["http://10.0.0.1/a", "https://example.org/a.png", " HTTPS://x/a", "ftp://x/a"]
)
def test_a_file_named_by_an_address_is_never_fetched(url: str, path: str) -> None:
    for body in (event([path]), {"data": [{"deep": [{"path": path}]}]}):
        reply = join(url, body)
        assert reply.status_code == 400
        assert "nothing is fetched from the net" in sentence(reply)


def test_events_that_no_page_sends_are_refused(url: str) -> None:
    assert "too many for one message" in sentence(join(url, event(["a.png"] * 11)))
    assert "too many values" in sentence(join(url, {"data": list(range(6000))}))
    assert "larger than 3,000 kB" in sentence(join(url, event([], "x" * 4_000_000)))
