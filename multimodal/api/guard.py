"""How much may be sent to the HTTP interface, and how its errors are worded.

Who may call it was asked before (`web/border.py`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive

from multimodal.api.event_streams import format_sse
from multimodal.errors import (
    CapacityError,
    ContextLengthError,
    DeviceLostError,
    MultimodalError,
    RequestError,
    TooLargeError,
    UnknownModelError,
    UnsupportedFieldError,
    WeightsError,
)

log = logging.getLogger(__name__)

IDLE_S = 60.0
"""How long a client may send nothing in the middle of its body."""

SAID_CHARACTERS = 2000
"""Of a sentence about an error."""
INVALID = "invalid_request_error"

Handler = Callable[[Request], Awaitable[Response]]


def guard(handler: Handler, body_bytes: int) -> Handler:
    """`handler` behind a check of its body's size, `body_bytes` at most; its errors become JSON."""

    async def call(request: Request) -> Response:
        try:
            return await handler(
                Request(request.scope, LimitedReceive(request.receive, body_bytes))
            )
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            status, body = error_response(error)
            return JSONResponse(body, status)

    return call


def error_response(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of an error, as OpenAI's clients expect them; an unexpected one is logged."""
    match error:
        case UnsupportedFieldError():
            code = "unsupported_parameter"
            return 400, _body(str(error), INVALID, error.field, code)
        case MultimodalError():
            return status_of(error), _body(str(error), _kind(error), code=_code(error))
        case ValidationError():
            place, fault = _fault(error)
            return 400, _body(f"{place or 'The body'}: {fault}.", INVALID, place)
        case HTTPException():
            return error.status_code, _body(error.detail, INVALID)
    log.error("a request failed unexpectedly", exc_info=error)
    sentence = "The program failed in a way it did not expect; its log says how."
    return 500, _body(sentence, "server_error")


async def with_error_events(lines: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """The lines of a stream of server-sent events; an error is told in it, since the status is sent
    already."""
    try:
        async with aclosing(lines) as ready:
            async for line in ready:
                yield line
    except Exception as error:
        yield format_sse(error_response(error)[1])


def failure(
    status: int, message: str, kind: str, code: str | None = None, **headers: str
) -> JSONResponse:
    """An error as OpenAI's clients expect it; they look at `code` to tell some apart."""
    code = "invalid_api_key" if status == 401 else code
    return JSONResponse(_body(message, kind, code=code), status, headers)


def _body(
    message: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error says back what was sent: it is cut, and half characters, which no answer can be
    written with, are replaced."""
    message = message if len(message) <= SAID_CHARACTERS else f"{message[:SAID_CHARACTERS]}…"
    message = message.encode("utf-8", "replace").decode()
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(error: MultimodalError) -> int:
    """The HTTP status that an error of this program has."""
    if isinstance(error, UnknownModelError):
        return 404
    if isinstance(error, TooLargeError):
        return 413
    if isinstance(error, RequestError):
        return 400
    return 503 if isinstance(error, CapacityError | DeviceLostError | WeightsError) else 500


def _code(error: MultimodalError) -> str | None:
    """OpenAI's name of the error, where it has one."""
    match error:
        case UnknownModelError():
            return "model_not_found"
        case ContextLengthError():
            return "context_length_exceeded"
    return None


def _kind(error: MultimodalError) -> str:
    return INVALID if isinstance(error, RequestError) else "server_error"


class TimedReceive:
    """`receive` that raises RequestError for a body of which nothing came for `idle_s` seconds, or
    that is not whole after `whole_s`."""

    def __init__(self, receive: Receive, idle_s: float = IDLE_S, whole_s: float = math.inf) -> None:
        self._receive = receive
        self._idle_s = idle_s
        self._until_s = time.monotonic() + whole_s
        self.is_whole = False

    async def __call__(self) -> Message:
        if self.is_whole:
            return await self._receive()
        wait_s = min(self._idle_s, self._until_s - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), wait_s)
        except TimeoutError as error:
            raise RequestError("The request stopped in the middle. Send it again.") from error
        self.is_whole = not message.get("more_body", False)
        return message


class LimitedReceive(TimedReceive):
    """Raises TooLargeError, too, once the body passes the limit, whatever its header says."""

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        super().__init__(receive)
        self._most_bytes = most_bytes
        self._size = 0

    async def __call__(self) -> Message:
        message = await super().__call__()
        self._size += len(message.get("body", b""))
        if self._size > self._most_bytes:
            raise TooLargeError(
                f"The request is larger than {self._most_bytes / 1e6:g} MB. Send less at once."
            )
        return message


def _fault(error: ValidationError) -> tuple[str | None, str]:
    """The first field at fault, None for the whole body, and what is wrong with it."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ".".join(str(step) for step in fault["loc"]) or None, fault["msg"]
