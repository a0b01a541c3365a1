"""Bodies on their way through the border: who may send one, how slowly, what is parsed of it."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from multimodal.access import Hosts, Logins
from multimodal.errors import RequestError
from multimodal.limits import Limits
from multimodal.web.border import AccessMiddleware
from multimodal.web.incoming import BodyError, ReadingBudget, session_in

JOIN = "/gradio_api/queue/join"
CANCEL = "/gradio_api/cancel"
COOKIE = f"multimodal-browser={'a' * 32}"
IDLE_S = 0.2


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def app() -> AsyncIterator[Starlette]:
    """An application that reads what reaches it, behind a border that does not wait for long."""

    async def reads(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    paths = (JOIN, CANCEL, "/gradio_api/reset", "/login")
    app = Starlette(routes=[Route(path, reads, methods=["POST"]) for path in paths])
    app.state.inner = app.middleware_stack = app.build_middleware_stack()
    border = AccessMiddleware(Hosts("127.0.0.1"), Logins({}), [], idle_s=IDLE_S)
    async with border.lifespan(app):
        yield app


@dataclass
class Call:
    """One request whose body is sent piece by piece; `None` in its place stands still."""

    path: str
    pieces: list[bytes | None]
    cookie: str = COOKIE
    replies: list[Message] = field(default_factory=list)
    read: int = 0

    async def receive(self) -> Message:
        piece = self.pieces[self.read] if self.read < len(self.pieces) else None
        if piece is None:
            await asyncio.sleep(3600)
        assert piece is not None
        self.read += 1
        is_last = self.read == len(self.pieces)
        return {"type": "http.request", "body": piece, "more_body": not is_last}

    async def send(self, message: Message) -> None:
        self.replies.append(message)

    async def ask(self, app: Starlette) -> int:
        headers = {"host": "127.0.0.1", "content-type": "application/json", "cookie": self.cookie}
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": self.path,
            "query_string": b"",
            "client": ("192.0.2.1", 1),
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        await app(scope, self.receive, self.send)
        return int(self.replies[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.replies).decode()


def event(session: str = "one") -> bytes:
    return json.dumps({"session_hash": session, "event_id": "x", "fn_index": 0}).encode()


@pytest.mark.parametrize("path", [JOIN, CANCEL, "/gradio_api/reset", "/login"])
async def test_a_body_that_stands_still_is_ended(app: Starlette, path: str) -> None:
    started = time.monotonic()
    call = Call(path, [b'{"session_hash": "', None])
    assert await call.ask(app) == 400
    assert "stopped in the middle" in call.text
    assert time.monotonic() - started >= IDLE_S


async def test_a_body_that_comes_slowly_is_read_whole(app: Starlette) -> None:
    whole = event()
    call = Call(JOIN, [whole[i : i + 1] for i in range(len(whole))])
    assert await call.ask(app) == 200
    assert call.text == str(len(whole))


@pytest.mark.parametrize("path", [JOIN, CANCEL])
async def test_who_may_send_nothing_is_told_before_the_body_is_read(
    app: Starlette, path: str
) -> None:
    call = Call(path, [event()], cookie="")
    assert await call.ask(app) == 403
    assert "cookie" in call.text
    assert call.read == 0


async def test_a_body_that_would_grow_in_memory_is_refused_unparsed(app: Starlette) -> None:
    body = b"[" + b"{}," * 999_999 + b"{}]"
    assert len(body) <= Limits().words_body_bytes + 2
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="more than 500,000 values"):
            session_in(body, Limits())
        assert tracemalloc.get_traced_memory()[1] < 100_000, "it was parsed before it was counted"
    finally:
        tracemalloc.stop()
    call = Call(JOIN, [body[:-3] + b"]"])
    assert await call.ask(app) == 400
    assert "values" in call.text


def test_bodies_that_are_read_together_are_bounded_and_small_ones_always_pass() -> None:
    budget = ReadingBudget(most_bytes=300_000, most_bytes_of_one=200_000)
    with budget.reading("ann") as first, budget.reading("ann") as second:
        first(164_000)
        second(164_000)
        with budget.reading("ann") as third:
            third(64_000)
            with pytest.raises(BodyError) as refusal:
                third(64_001)
            assert refusal.value.status == 503
        with budget.reading("bob") as other:
            other(164_000)
            with budget.reading("eve") as late, pytest.raises(BodyError):
                late(64_001)
    with budget.reading("eve") as late:
        late(264_000)
