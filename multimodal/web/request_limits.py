"""Bounds on what reaches the page's own routes, before Gradio reads it.

An event's body is parsed here first: Gradio would fetch a file that is named by an address, hash
every file it is told of, and keep a body of any shape in memory until its turn comes. An upload is
counted while it passes (`uploads.py`). `/v1` has its own bounds.
"""

from __future__ import annotations

import errno
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multimodal.api.event_streams import in_thread
from multimodal.api.guard import IDLE_S, TimedReceive, status_of
from multimodal.errors import MediaError, MultimodalError, RequestError, TooLargeError
from multimodal.limits import Limits
from multimodal.web.incoming import replay_body
from multimodal.web.uploads import UploadForm, UploadLedger, full_disk

WITH_BODY = {"POST", "PUT", "PATCH", "DELETE"}
OWN_BOUNDS = ("/v1", "/health", "/metrics", "/listen/")
DRAINED_BYTES = 1_000_000_000
"""Of a refused body, read and thrown away so that a browser gets to see why."""
EVENT_VALUES = 5_000
"""Values in the body of an event; the page's own have a few dozen."""
ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class RequestLimits:
    """ASGI middleware. `uploads`: the folder that Gradio keeps uploads in, for `kept_s` seconds;
    `idle_s`: how long a client may send nothing in the middle of a body."""

    def __init__(
        self, app: ASGIApp, limits: Limits, uploads: Path, kept_s: float, idle_s: float = IDLE_S
    ) -> None:
        self._app = app
        self._limits = limits
        self._idle_s = idle_s
        self._ledger = UploadLedger(uploads, limits, kept_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in WITH_BODY:
            return await self._app(scope, receive, send)
        if scope["path"].startswith(OWN_BOUNDS):
            return await self._app(scope, receive, send)
        body = TimedReceive(receive, self._idle_s)
        request = Request(scope, body)
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        try:
            if is_upload:
                await self._upload(request, send)
            else:
                await self._event(request, send)
        except MultimodalError as error:
            await _drain(body)
            await _refusal(error, is_upload)(scope, receive, send)
        except ClientDisconnect:
            return None

    # ------------------------------------------------------------ events

    async def _event(self, request: Request, send: Send) -> None:
        pieces, size = [], 0
        async for piece in request.stream():
            size += len(piece)
            if size > self._limits.words_body_bytes:
                most = self._limits.words_body_bytes / 1e6
                raise TooLargeError(f"The message is larger than {most:g} MB. Shorten it.")
            pieces.append(piece)
        body = b"".join(pieces)
        if body.lstrip()[:1] in (b"{", b"["):
            await in_thread(lambda: check_event(body, self._limits))
        await self._app(request.scope, replay_body(body, request.receive), send)

    # ------------------------------------------------------------ uploads

    async def _upload(self, request: Request, send: Send) -> None:
        length = request.headers.get("content-length", "")[:15]
        size = int(length) if length.isdecimal() else None
        visitor = request.client.host if request.client else ""
        await in_thread(self._ledger.remove_abandoned)
        form = UploadForm(request.headers.get("content-type", "").encode("latin-1"), self._limits)
        has_begun = False

        async def watched() -> Message:
            message = await request.receive()
            form.feed(message.get("body", b""))
            return message

        async def begin(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        with self._ledger.receiving(visitor, size) as upload:
            try:
                await self._app(request.scope, watched, begin)
            except OSError as error:
                if has_begun or error.errno not in DISK_FULL:
                    raise
                raise full_disk() from error
            finally:
                upload.size = form.kept_bytes


def check_event(body: bytes, limits: Limits) -> None:
    """Raise RequestError for a body that no event of the page has; what is no JSON passes, to be
    refused by who reads it."""
    limits.check_json(body)
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return
    values = files = 0
    while waiting:
        value = waiting.pop()
        values += 1
        if isinstance(value, dict):
            if isinstance(path := value.get("path"), str):
                files += 1
                if ADDRESS.match(path):
                    raise MediaError(
                        "A file cannot be named by an address; nothing is fetched from the net. "
                        "Upload the file."
                    )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        if values + len(waiting) > EVENT_VALUES:
            raise RequestError("The request holds too many values. Reload the page.")
    limits.check_files(files, files)


async def _drain(receive: TimedReceive) -> None:
    """Read the rest of a body and throw it away."""
    size = 0
    with suppress(RequestError):
        while not receive.is_whole and size < DRAINED_BYTES:
            size += len((await receive()).get("body", b""))


def _refusal(error: MultimodalError, is_upload: bool) -> Response:
    status = status_of(error)
    if is_upload:
        return PlainTextResponse(str(error), status)
    return JSONResponse({"detail": str(error)}, status)
