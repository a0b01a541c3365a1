"""Addresses of stored media: who was not handed one cannot make it up."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fake_page import FakePage
from fakes import picture
from starlette.applications import Starlette

from multimodal.media.ingestion import MediaFolder
from multimodal.messages import ImagePart
from multimodal.settings import media_secret, page_secret
from multimodal.web.media_addresses import MediaAddresses

WORD = re.compile(r"[\w+/=.:-]{6,}")


@pytest.fixture(scope="module")
def kept(chat: FakePage) -> ImagePart:
    """A picture that somebody else sent."""
    return chat.program.media.add_image(picture((60, 40), "red", "PNG"), "theirs.png")


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield str(name)
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, str):
        yield value


def config_in(document: str) -> Any:
    """What Gradio writes into the page: every component with its properties."""
    text = document.partition("window.gradio_config = ")[2]
    return json.JSONDecoder().raw_decode(text)[0]


def status_of(chat: FakePage, part: ImagePart, secret: str) -> int:
    address = MediaAddresses(chat.program.media, secret).whole(part)
    return httpx.get(f"{chat.url}/{address}").status_code


def test_the_secret_in_the_page_opens_no_medium(chat: FakePage, kept: ImagePart) -> None:
    props = [one["props"] for one in config_in(httpx.get(chat.url).text)["components"]]
    told = [one["secret"] for one in props if one.get("secret")]
    assert told == [page_secret(chat.program.settings)], "the page's secret is told in another way"
    assert status_of(chat, kept, told[0]) == 404
    assert status_of(chat, kept, media_secret(chat.program.settings)) == 200


def test_nothing_that_is_served_before_a_message_opens_a_medium(
    chat: FakePage, kept: ImagePart
) -> None:
    """Every word of the page and of its configuration, and what one step makes of it."""
    document = httpx.get(chat.url).text
    words = {*WORD.findall(document), *strings_in(config_in(document))}
    assert page_secret(chat.program.settings) in words
    words |= {hashlib.sha256(word.encode()).hexdigest() for word in words}
    addresses = {MediaAddresses(chat.program.media, word).whole(kept) for word in words}
    right = MediaAddresses(chat.program.media, media_secret(chat.program.settings)).whole(kept)
    assert httpx.get(f"{chat.url}/{right}").status_code == 200
    assert right not in addresses
    for secret in (media_secret(chat.program.settings), file_secret(chat)):
        assert secret not in document


def file_secret(chat: FakePage) -> str:
    return (chat.program.settings.data / "secret").read_text("utf-8")


def test_the_secret_of_media_stays_and_is_not_the_pages(chat: FakePage, tmp_path: Path) -> None:
    settings = chat.program.settings
    assert media_secret(settings) == media_secret(settings)
    assert media_secret(settings) not in {page_secret(settings), file_secret(chat)}
    assert len(bytes.fromhex(media_secret(settings))) == 32


# ---------------------------------------------------------------- small pictures


class Decoder:
    """Decodes slowly, and counts how often it does so and how often at the same time."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.running = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> bytes:
        with self._lock:
            self.paths.append(path)
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.02)
        with self._lock:
            self.running -= 1
        return path.name.encode()


def get_all(addresses: MediaAddresses, parts: list[ImagePart]) -> list[httpx.Response]:
    """The small pictures of `parts`, all asked for at once."""
    application = Starlette(routes=addresses.routes())

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return await asyncio.gather(*(client.get(addresses.small(part)) for part in parts))

    return asyncio.run(ask())


def test_small_pictures_are_made_one_at_a_time_and_each_once(tmp_path: Path) -> None:
    media, decoder = MediaFolder(tmp_path), Decoder()
    parts = [
        media.add_image(picture((1000, 700), colour, "PNG"), "large.png")
        for colour in ("red", "green", "blue")
    ]
    addresses = MediaAddresses(media, "key", decoder)
    asked = parts * 7
    answers = get_all(addresses, asked)
    assert [answer.content for answer in answers] == [media.path(p).name.encode() for p in asked]
    assert decoder.most == 1
    assert sorted(decoder.paths) == sorted(map(media.path, parts))


def test_a_picture_that_is_damaged_on_the_disk_is_not_there(tmp_path: Path) -> None:
    media = MediaFolder(tmp_path)
    part = media.add_image(picture((1000, 700), "red", "PNG"), "large.png")
    media.path(part).write_bytes(b"no picture")
    (answer,) = get_all(MediaAddresses(media, "key"), [part])
    assert answer.status_code == 404
