"""Bodies of requests, read without letting many or large ones fill the memory.

A body is written to a file while it arrives, so that a slow client holds no memory and no place.
Once it is whole it waits until all bodies that are being parsed leave room for it, in the order
of arrival; a small one, such as a question without pictures, does not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import TypeVar

from pydantic import BaseModel
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect, Request

from multimodal.api.event_streams import POLL_S, in_thread
from multimodal.errors import RequestError, StoreError
from multimodal.limits import Limits

SMALL_BYTES = 256_000

Model = TypeVar("Model", bound=BaseModel)


class ByteGate:
    """At most `most_bytes` at once, first come, first served; for one event loop."""

    def __init__(self, most_bytes: int) -> None:
        self._free = most_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def holding(self, size: int, request: Request) -> AsyncIterator[None]:
        """Hold `size` bytes. Raises ClientDisconnect where the client leaves before its turn."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        self._grant()
        try:
            while not (await asyncio.wait({granted}, timeout=POLL_S))[0]:
                if await request.is_disconnected():
                    raise ClientDisconnect
            yield
        finally:
            if granted.done():
                self._free += size
            else:
                granted.cancel()
            self._grant()

    def _grant(self) -> None:
        while self._waiting:
            size, granted = self._waiting[0]
            if not granted.cancelled():
                if size > self._free:
                    return
                self._free -= size
                granted.set_result(None)
            self._waiting.popleft()


gate = ByteGate(2 * Limits().body_bytes)


@asynccontextmanager
async def parse_body(request: Request, kind: type[Model], limits: Limits) -> AsyncIterator[Model]:
    """The body as a `kind`; what it takes counts until the context ends.

    Raises pydantic's ValidationError, RequestError for too many values, TooLargeError for a body
    that is larger than its endpoint takes, StoreError where it cannot be kept meanwhile,
    ClientDisconnect.
    """
    with SpooledTemporaryFile(SMALL_BYTES) as file:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            try:
                file.write(piece)
            except OSError as error:
                raise StoreError(
                    f"The request could not be kept while it arrived ({error.strerror}). Free some "
                    "space on the server, or send less."
                ) from error

        def parse() -> Model:
            file.seek(0)
            body = file.read()
            limits.check_json(body)
            return kind.model_validate_json(body)

        if size <= SMALL_BYTES:
            yield await in_thread(parse)
        else:
            async with gate.holding(size, request):
                yield await in_thread(parse)


FORM, ENCODINGS = b"multipart/form-data", (b"utf-8", b"utf8")


def form_kind(request: Request) -> bytes:
    """The media type of a body. Raises RequestError for a form in anything but UTF-8: Starlette
    reads its fields by any codec of Python that a client names, though some take time by the square
    of what they read and some make half characters."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if options.get(b"charset", ENCODINGS[0]).lower() not in ENCODINGS:
        raise RequestError("The form must be written in UTF-8; leave “charset” out.")
    return kind


@asynccontextmanager
async def parse_form(request: Request, most_fields: int) -> AsyncIterator[FormData]:
    """The body as a form with `most_fields` fields and one file at most, whose parts are deleted
    when the context ends.

    Raises RequestError for what is not in UTF-8 and for a form without parts, which has no file and
    in Starlette no bound; HTTPException for a broken form.
    """
    if form_kind(request) != FORM:
        raise RequestError(
            "The body must be a form (multipart/form-data), with the recording in the field “file”."
        )
    async with request.form(max_files=1, max_fields=most_fields) as form:
        yield form
