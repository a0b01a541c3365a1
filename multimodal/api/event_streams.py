"""Blocking event streams run for asynchronous clients: in threads, ended when a client leaves."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from multimodal.api.shutdown_signals import shutdown_signals

WORKERS = 64
"""Streams at once; a further one waits for a thread. More than the engines serve at a time."""
POLL_S = 0.25
FILES = 64
"""Requests at once whose files are decoded or wait for it; they hold no thread of others."""
KEEP_ALIVE_S = 10.0

T = TypeVar("T")
Start = Callable[[threading.Event], Generator[T, None, None]]
pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="api")
parsers = ThreadPoolExecutor(2, thread_name_prefix="parse")
files = ThreadPoolExecutor(FILES, thread_name_prefix="files")


async def in_thread(work: Callable[[], T]) -> T:
    """Run short blocking `work` outside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(parsers, work)


async def while_connected(work: Callable[[threading.Event], T], request: Request) -> T:
    """Run `work(stop)`, which reads files, in a thread.

    Once the client leaves, `stop` is set and ClientDisconnect is raised; it is set at the end of
    the server, too.
    """
    with shutdown_signals(request.app).signal() as stop:
        future = asyncio.get_running_loop().run_in_executor(files, work, stop)
        while not (await asyncio.wait({future}, timeout=POLL_S))[0]:
            if await request.is_disconnected():
                future.add_done_callback(lambda done: done.cancelled() or done.exception())
                raise ClientDisconnect
        return future.result()


async def events(
    start: Start[T], request: Request, keep_alive_s: float = KEEP_ALIVE_S
) -> AsyncGenerator[T | None, None]:
    """The events of `start(stop)`; between them None, every `keep_alive_s` seconds.

    When the client leaves, the server ends, or this stream is closed, `stop` is set, so the engine
    is free at once. An error of the stream is raised here.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[T | Exception | _Tick | None] = asyncio.Queue()
    with shutdown_signals(request.app).signal() as stop:
        pool.submit(_pump, start, stop, lambda it: loop.call_soon_threadsafe(queue.put_nowait, it))
        # One timer for the whole stream: one for each event would cost as much as passing it on.
        timer = loop.call_later(POLL_S, queue.put_nowait, _Tick())
        told = time.monotonic()
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                if not isinstance(item, _Tick):
                    yield item
                    continue
                if await request.is_disconnected():
                    return
                timer = loop.call_later(POLL_S, queue.put_nowait, item)
                if time.monotonic() - told > keep_alive_s:
                    told = time.monotonic()
                    yield None
        finally:
            timer.cancel()


def format_sse(body: dict[str, Any]) -> str:
    """`body` as the data of one server-sent event."""
    return f"data: {json.dumps(body)}\n\n"


class _Tick:
    """Comes between events now and then: time to look whether the client is still there."""


def _pump(
    start: Start[T], stop: threading.Event, put: Callable[[T | Exception | None], object]
) -> None:
    try:
        with closing(start(stop)) as happening:
            for event in happening:
                if stop.is_set():
                    break
                put(event)
    except Exception as error:  # handed to the consumer, whatever it is
        put(error)
    else:
        put(None)
