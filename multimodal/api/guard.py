"""Who may call the HTTP interface, how much may be sent, and how errors are worded.

Gradio's login does not cover these routes, so they check themselves: with logins set, every call
brings one; without, a page of another site that the person has open in a browser is refused.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
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

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 80_000_000
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

INVALID = "invalid_request_error"

Handler = Callable[[Request], Awaitable[Response]]


def names_of(host: str) -> frozenset[str] | None:
    """The names that a server listening on `host` answers to; None for any.

    A server for this machine alone has few. A page of another site could otherwise have its own
    name resolve to 127.0.0.1 and pass for ours (DNS rebinding).
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return LOOPBACK if host.lower() == "localhost" else None
    return LOOPBACK | {host} if address.is_loopback else None


def guarded(handler: Handler, logins: dict[str, str], names: frozenset[str] | None) -> Handler:
    """`handler` behind login, origin and size checks; its errors become JSON.

    `names`: the host names that are answered to, without port; None for any.
    """

    async def call(request: Request) -> Response:
        if (refusal := _refusal(request, logins, names)) is not None:
            return refusal
        try:
            return await handler(Request(request.scope, _limited(request.receive)))
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            status, body = described(error)
            return JSONResponse(body, status)

    return call


def described(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of an error, as OpenAI's clients expect them; an unexpected one is logged."""
    match error:
        case MultimodalError():
            return _status(error), _body(str(error), _kind(error))
        case ValidationError():
            place, fault = _fault(error)
            return 400, _body(f"{place or 'The body'}: {fault}.", INVALID, place)
        case HTTPException():
            return error.status_code, _body(error.detail, INVALID)
    log.error("a request failed unexpectedly", exc_info=error)
    sentence = "The program failed in a way it did not expect; its log says how."
    return 500, _body(sentence, "server_error")


def failure(status: int, message: str, kind: str, **headers: str) -> JSONResponse:
    return JSONResponse(_body(message, kind), status, headers)


def _body(message: str, kind: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def _status(error: MultimodalError) -> int:
    if isinstance(error, UnknownModelError):
        return 404
    if isinstance(error, TooLargeError):
        return 413
    if isinstance(error, RequestError):
        return 400
    return 503 if isinstance(error, CapacityError | WeightsError) else 500


def _kind(error: MultimodalError) -> str:
    return INVALID if isinstance(error, RequestError) else "server_error"


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


def _refusal(
    request: Request, logins: dict[str, str], names: frozenset[str] | None
) -> Response | None:
    if logins:
        if _logged_in(request.headers.get("authorization", ""), logins):
            return None
        sentence = "Send a login: Authorization: Bearer USER:PASSWORD."
        challenge = {"WWW-Authenticate": "Bearer"}
        return failure(401, sentence, "authentication_error", **challenge)
    host = request.headers.get("host", "").lower()
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    origin = request.headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != host:
        return failure(403, "Pages of other sites may not use this.", "permission_error")
    if names is not None and name not in names:
        return failure(403, f"This server does not answer to {name!r}.", "permission_error")
    return None


def _logged_in(header: str, logins: dict[str, str]) -> bool:
    scheme, _, credentials = header.partition(" ")
    try:
        if scheme.lower() == "basic":
            credentials = base64.b64decode(credentials, validate=True).decode()
        elif scheme.lower() == "bearer":
            credentials = credentials.encode("latin-1").decode()  # header bytes, UTF-8 in fact
        else:
            return False
    except ValueError:
        return False
    user, _, password = credentials.partition(":")
    known = logins.get(user, secrets.token_hex())
    return secrets.compare_digest(known.encode(), password.encode()) and user in logins


def _fault(error: ValidationError) -> tuple[str | None, str]:
    """The first field at fault, None for the whole body, and what is wrong with it."""
    fault = error.errors()[0]
    return ".".join(str(step) for step in fault["loc"]) or None, fault["msg"]
