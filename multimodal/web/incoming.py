"""What the border reads of a request before it passes it on: who sends it, and its body."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Protocol, cast

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from multimodal.errors import RequestError
from multimodal.web.outgoing import BROWSER_COOKIE

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


def browser_of(request: Request) -> str | None:
    value = request.cookies.get(BROWSER_COOKIE, "")
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
    """User name and password of the login form, as Gradio reads it. Raises BodyError."""

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


def session_in(body: bytes) -> object:
    """The session that an event of the page names; None where there is none."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed.get("session_hash") if isinstance(parsed, dict) else None


async def whole_body(receive: Receive, limit: int, what: str) -> bytes:
    """The body of a request. Raises BodyError beyond `limit` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            sentence = f"{what} is larger than {limit // 1000:,} kB. Send less at once."
            raise BodyError(413, sentence)
        if not message.get("more_body", False):
            return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` that hands the body on once more, and then what else comes."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
