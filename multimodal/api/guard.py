"""Who may call the HTTP interface, how much may be sent, and how errors are worded.

Gradio's login does not cover these routes, so they check themselves: with logins set, every call
brings one; without, a page of another site that the person has open in a browser is refused.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Awaitable, Callable

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive

from multimodal.errors import (
    CapacityError,
    MultimodalError,
    RequestError,
    UnknownModelError,
    WeightsError,
)

MAX_BODY_BYTES = 80_000_000
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}

Handler = Callable[[Request], Awaitable[Response]]


def guarded(handler: Handler, logins: dict[str, str], open_host: bool) -> Handler:
    """`handler` behind login, origin and size checks; its errors become JSON.

    `open_host`: the server is meant to be reached by other names than this machine's.
    """

    async def call(request: Request) -> Response:
        if (refusal := _refusal(request, logins, open_host)) is not None:
            return refusal
        try:
            return await handler(Request(request.scope, _limited(request.receive)))
        except ClientDisconnect:
            return Response(status_code=499)
        except ValidationError as error:
            return failure(400, _fault(error), "invalid_request_error")
        except MultimodalError as error:
            return failed(error)

    return call


def failed(error: MultimodalError) -> JSONResponse:
    """An error of the tree as OpenAI's clients expect it."""
    return failure(status_of(error), str(error), kind_of(error))


def failure(status: int, message: str, kind: str) -> JSONResponse:
    return JSONResponse({"error": error_body(message, kind)}, status)


def error_body(message: str, kind: str) -> dict[str, str | None]:
    return {"message": message, "type": kind, "param": None, "code": None}


def status_of(error: MultimodalError) -> int:
    if isinstance(error, UnknownModelError):
        return 404
    if isinstance(error, TooLargeError):
        return 413
    if isinstance(error, RequestError):
        return 400
    return 503 if isinstance(error, CapacityError | WeightsError) else 500


def kind_of(error: MultimodalError) -> str:
    return "invalid_request_error" if isinstance(error, RequestError) else "server_error"


class TooLargeError(RequestError):
    """The body passed the limit (HTTP 413)."""


def _limited(receive: Receive) -> Receive:
    """`receive` that raises TooLargeError once the body passes the limit, whatever its header."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise TooLargeError(
                f"The request is larger than {MAX_BODY_BYTES // 1_000_000} MB. Send less at once."
            )
        return message

    return limited


def _refusal(request: Request, logins: dict[str, str], open_host: bool) -> Response | None:
    if logins:
        if _logged_in(request.headers.get("authorization", ""), logins):
            return None
        sentence = "Send a login: Authorization: Bearer USER:PASSWORD."
        return failure(401, sentence, "authentication_error")
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    origin = request.headers.get("origin")
    if origin and origin.partition("://")[2] != host:
        return failure(403, "Pages of other sites may not use this.", "permission_error")
    if not open_host and name not in LOOPBACK:
        return failure(403, f"This server does not answer to {name!r}.", "permission_error")
    return None


def _logged_in(header: str, logins: dict[str, str]) -> bool:
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            credentials = base64.b64decode(credentials, validate=True).decode()
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    user, _, password = credentials.partition(":")
    known = logins.get(user, secrets.token_hex())
    return secrets.compare_digest(known.encode(), password.encode()) and user in logins


def _fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    place = ".".join(str(step) for step in fault["loc"]) or "the body"
    return f"{place}: {fault['msg']}."
