"""What the border reads of a request before it passes it on: who sends it, and its body."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, cast

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from multimodal.api.bodies import form_kind
from multimodal.errors import RequestError
from multimodal.limits import Limits
from multimodal.web.outgoing import BROWSER_COOKIE

WHOLE_S = 180.0
"""How long a body of words may take in all: its limit at the speed of a slow phone."""
SMALL_BYTES = 64_000
"""Of a body that is always read; what one connection costs is not much less."""
READ_TOGETHER_BYTES = 64_000_000
READ_TOGETHER_BYTES_OF_ONE = READ_TOGETHER_BYTES // 4

_BROWSER_ID = re.compile("[0-9a-f]{32}")


class BodyError(RequestError):
    """The body cannot be used; `status` is the one of HTTP."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _LoginApp(Protocol):
    """What Gradio's application tells about who logged in on the page."""

    tokens: Mapping[str, str]
    cookie_id: str


def login_of(request: Request) -> str | None:
    """The user name that Gradio gave this request's cookie to."""
    app = cast("_LoginApp", request.scope["app"])
    for kind in ("access-token", "access-token-unsecure"):
        token = request.cookies.get(f"{kind}-{app.cookie_id}")
        if token is not None and (user := app.tokens.get(token)) is not None:
            return user
    return None


def browser_of(cookies: Mapping[str, str]) -> str | None:
    """What tells this browser apart from others."""
    value = cookies.get(BROWSER_COOKIE, "")
    return value if _BROWSER_ID.fullmatch(value) else None


def address_of(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def credentials(header: str) -> tuple[str, str] | None:
    """User name and password of an Authorization header."""
    scheme, _, credentials = header.partition(" ")
    try:
        if scheme.lower() == "basic":
            credentials = base64.b64decode(credentials, validate=True).decode()
        elif scheme.lower() == "bearer":
            credentials = credentials.encode("latin-1").decode()  # header bytes, UTF-8 in fact
        else:
            return None
    except ValueError:
        return None
    user, _, password = credentials.partition(":")
    return user, password


async def login_form(request: Request, body: bytes) -> tuple[str, str]:
    """User name and password of the login form, as Gradio reads it. Raises BodyError, and
    RequestError for a form that is not in UTF-8."""
    form_kind(request)

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, receive).form(max_files=0)
    except HTTPException as error:
        raise BodyError(400, f"The login form cannot be read: {error.detail}") from error
    user, password = (form.get(name) for name in ("username", "password"))
    if not (isinstance(user, str) and isinstance(password, str)):
        raise BodyError(400, "The login form has the fields username and password.")
    return user.strip(), password


def session_in(body: bytes, limits: Limits) -> object:
    """The session that an event of the page names; None where there is none. Raises RequestError,
    before anything is parsed, for a body that would take far more memory than its own size."""
    limits.check_json(body)
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed.get("session_hash") if isinstance(parsed, dict) else None


class ReadingBudget:
    """Bounds the bytes of all bodies that are being read at a time, and of those from one network.

    The first `SMALL_BYTES` of a body do not count, so whoever sends a few words is never refused
    for what others send. For one event loop.
    """

    def __init__(
        self,
        most_bytes: int = READ_TOGETHER_BYTES,
        most_bytes_of_one: int = READ_TOGETHER_BYTES_OF_ONE,
    ) -> None:
        self._most_bytes = most_bytes
        self._most_bytes_of_one = most_bytes_of_one
        self._held: Counter[str] = Counter()

    @contextmanager
    def reading(self, network: str) -> Iterator[Callable[[int], None]]:
        """What is called with a body's size as it grows; raises BodyError (503) beyond a bound."""
        counted = 0

        def grow(size: int) -> None:
            nonlocal counted
            more = max(0, size - SMALL_BYTES) - counted
            of_one, in_all = self._held[network] + more, self._held.total() + more
            if more > 0 and (of_one > self._most_bytes_of_one or in_all > self._most_bytes):
                sentence = "The server is receiving too much at the moment. Send it again later."
                raise BodyError(503, sentence)
            self._held[network] += more
            counted += more

        try:
            yield grow
        finally:
            self._held[network] -= counted
            if not self._held[network]:
                del self._held[network]


async def whole_body(
    receive: Receive, limit: int, what: str, grow: Callable[[int], None] = lambda size: None
) -> bytes:
    """The body of a request; `grow` is told its size meanwhile. Raises BodyError beyond `limit`
    bytes, and what `receive` and `grow` raise."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            sentence = f"{what} is larger than {limit // 1000:,} kB. Send less at once."
            raise BodyError(413, sentence)
        grow(len(body))
        if not message.get("more_body", False):
            return bytes(body)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """`receive` that hands the body on once more, and then what else comes."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
