"""Uploads and events on their way to the page; the application behind does as it is told."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from multimodal.api.bodies import ByteGate
from multimodal.errors import CapacityError, TooLargeError
from multimodal.limits import Limits
from multimodal.web.request_limits import RequestLimits
from multimodal.web.uploads import UploadLedger

LIMITS = replace(
    Limits(),
    upload_bytes=1000,
    visitor_upload_bytes=2000,
    uploads_in_all_bytes=3000,
    words_body_bytes=500,
    least_file_bytes=1,
)
HUGE = replace(
    LIMITS, upload_bytes=10**18, visitor_upload_bytes=10**18, uploads_in_all_bytes=10**18
)
UPLOAD = "/gradio_api/upload"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def form(size: int) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    return head + bytes(size) + b"\r\n--x--\r\n"


async def reads(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


async def fills_the_disk(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def post(app: Any, path: str, limits: Limits, folder: Path, **more: Any) -> httpx.Response:
    return post_to(RequestLimits(app, limits, folder, 3600), path, **more)


def post_to(app: Any, path: str, **more: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return await client.post(path, **more)

    return asyncio.run(send())


def test_a_disk_that_fills_up_in_mid_upload_is_told(tmp_path: Path) -> None:
    reply = post(fills_the_disk, UPLOAD, LIMITS, tmp_path, content=form(100), headers=FORM)
    assert reply.status_code == 503
    assert "the server's disk is full" in reply.text


def test_a_disk_that_is_full_is_told_before_anything_is_written(tmp_path: Path) -> None:
    ledger = UploadLedger(tmp_path, HUGE, 3600)
    with pytest.raises(CapacityError, match="disk is full"), ledger.receiving("ann", 10**17):
        raise AssertionError("it was taken")


def test_another_fault_of_the_disk_is_not_called_a_full_one(tmp_path: Path) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        post(breaks, UPLOAD, LIMITS, tmp_path, content=form(10), headers=FORM)


def receive(ledger: UploadLedger, visitor: str, size: int) -> None:
    with ledger.receiving(visitor, size):
        pass


def test_uploads_are_counted_by_visitor_and_in_all(tmp_path: Path) -> None:
    ledger = UploadLedger(tmp_path, LIMITS, 3600)
    for visitor in ("ann", "ann", "bob"):
        receive(ledger, visitor, 900)
    with pytest.raises(CapacityError, match="You have sent"):
        receive(ledger, "ann", 900)
    with pytest.raises(CapacityError, match="holds too many"):
        receive(ledger, "eve", 900)
    with pytest.raises(TooLargeError):
        receive(ledger, "eve", 1001)
    receive(ledger, "eve", 100)


def test_what_was_deleted_counts_no_longer_but_what_was_cut_off_does(tmp_path: Path) -> None:
    ledger = UploadLedger(tmp_path, LIMITS, 0)
    for _ in range(5):
        receive(ledger, "ann", 900)
    for _ in range(2):
        with pytest.raises(RuntimeError), ledger.receiving("ann", 900):
            raise RuntimeError
    with pytest.raises(CapacityError, match="You have sent"):
        receive(ledger, "ann", 900)


def test_small_files_count_for_the_room_that_each_takes(tmp_path: Path) -> None:
    limits = replace(Limits(), visitor_upload_bytes=10 * 65_536)
    bounded = RequestLimits(reads, limits, tmp_path, 3600)
    answers = [post_to(bounded, UPLOAD, content=form(1), headers=FORM) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [503]
    assert "You have sent" in answers[-1].text


def test_an_upload_counts_for_what_came_of_it(tmp_path: Path) -> None:
    """Its length was not told, so that it might have been the largest."""
    limits = replace(LIMITS, visitor_upload_bytes=1500)
    bounded = RequestLimits(reads, limits, tmp_path, 3600)

    async def pieces() -> AsyncIterator[bytes]:
        yield form(10)

    for _ in range(3):
        assert post_to(bounded, UPLOAD, content=pieces(), headers=FORM).status_code == 200


def test_counting_an_upload_takes_no_longer_the_more_are_kept(tmp_path: Path) -> None:
    ledger = UploadLedger(tmp_path, HUGE, 3600)

    def calls() -> int:
        made = 0

        def note(*_: object) -> None:
            nonlocal made
            made += 1

        sys.setprofile(note)
        try:
            receive(ledger, "ann", 1)
        finally:
            sys.setprofile(None)
        return made

    calls()
    few = calls()
    for _ in range(2000):
        receive(ledger, "ann", 1)
    assert calls() < 2 * few


def test_what_is_left_of_an_upload_that_was_cut_off_is_deleted(tmp_path: Path) -> None:
    old, young, whole = (tmp_path / name for name in ("tmpold", "tmpyoung", "kept"))
    for path in (old, young, whole):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    os.utime(whole, (0, 0))
    UploadLedger(tmp_path, LIMITS, 3600).remove_abandoned()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "tmpyoung"]


def test_bodies_reach_the_page_as_they_were_sent(tmp_path: Path) -> None:
    event = {"json": {"data": ["hello"]}}
    assert post(reads, "/gradio_api/queue/join", LIMITS, tmp_path, **event).text == "18"
    upload = {"content": form(700), "headers": FORM}
    assert post(reads, UPLOAD, LIMITS, tmp_path, **upload).status_code == 200
    assert post(reads, "/login", LIMITS, tmp_path, data={"username": "ann"}).text == "12"
    long = post(reads, "/v1/audio/speech", LIMITS, tmp_path, content=bytes(5000))
    assert long.text == "5000", "what has bounds of its own passes"


def test_an_endless_upload_is_cut(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield form(0)[:-9]
        for _ in range(100):
            yield bytes(100)

    reply = post(reads, UPLOAD, LIMITS, tmp_path, content=endless(), headers=FORM)
    assert reply.status_code == 413
    reply = post(reads, "/gradio_api/queue/join", LIMITS, tmp_path, content=endless())
    assert reply.status_code == 413


def test_large_bodies_are_parsed_in_turn_and_nobody_waits_for_who_has_left() -> None:
    gate, order = ByteGate(100), list[str]()

    class Caller:
        def __init__(self, has_left: bool) -> None:
            self.has_left = has_left

        async def is_disconnected(self) -> bool:
            return self.has_left

    async def parse(name: str, size: int, has_left: bool = False) -> None:
        caller: Any = Caller(has_left)
        async with gate.holding(size, caller):
            order.append(name)
            await asyncio.sleep(0.01)

    async def all_at_once() -> list[Any]:
        asked = [
            parse("first", 90),
            parse("left", 50, has_left=True),
            parse("large", 100),
            parse("small", 10),
        ]
        return await asyncio.gather(*asked, return_exceptions=True)

    async def held_up() -> list[Any]:
        async with gate.holding(100, Caller(False)):  # type: ignore[arg-type]
            waiting = asyncio.gather(parse("left", 1, has_left=True), return_exceptions=True)
            return list(await waiting)

    (fault,) = asyncio.run(held_up())
    assert isinstance(fault, ClientDisconnect)
    asyncio.run(all_at_once())
    assert [name for name in order if name != "left"] == ["first", "large", "small"]
