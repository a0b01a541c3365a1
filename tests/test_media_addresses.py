"""Addresses of stored media: who was not handed one cannot make it up."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fake_page import FakePage, running_page
from fakes import picture

from multimodal.messages import ImagePart
from multimodal.settings import media_secret, page_secret
from multimodal.web.media_addresses import MediaAddresses

WORD = re.compile(r"[\w+/=.:-]{6,}")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePage]:
    with running_page(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(scope="module")
def kept(page: FakePage) -> ImagePart:
    """A picture that somebody else sent."""
    return page.program.media.add_image(picture((60, 40), "red", "PNG"), "theirs.png")


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


def status_of(page: FakePage, part: ImagePart, secret: str) -> int:
    address = MediaAddresses(page.program.media, secret).whole(part)
    return httpx.get(f"{page.url}/{address}").status_code


def test_the_secret_in_the_page_opens_no_medium(page: FakePage, kept: ImagePart) -> None:
    props = [one["props"] for one in config_in(httpx.get(page.url).text)["components"]]
    told = [one["secret"] for one in props if one.get("secret")]
    assert told == [page_secret(page.program.settings)], "the page's secret is told in another way"
    assert status_of(page, kept, told[0]) == 404
    assert status_of(page, kept, media_secret(page.program.settings)) == 200


def test_nothing_that_is_served_before_a_message_opens_a_medium(
    page: FakePage, kept: ImagePart
) -> None:
    """Every word of the page and of its configuration, and what one step makes of it."""
    document = httpx.get(page.url).text
    words = {*WORD.findall(document), *strings_in(config_in(document))}
    assert page_secret(page.program.settings) in words
    words |= {hashlib.sha256(word.encode()).hexdigest() for word in words}
    addresses = {MediaAddresses(page.program.media, word).whole(kept) for word in words}
    right = MediaAddresses(page.program.media, media_secret(page.program.settings)).whole(kept)
    assert httpx.get(f"{page.url}/{right}").status_code == 200
    assert right not in addresses
    for secret in (media_secret(page.program.settings), file_secret(page)):
        assert secret not in document


def file_secret(page: FakePage) -> str:
    return (page.program.settings.data / "secret").read_text("utf-8")


def test_the_secret_of_media_stays_and_is_not_the_pages(page: FakePage, tmp_path: Path) -> None:
    settings = page.program.settings
    assert media_secret(settings) == media_secret(settings)
    assert media_secret(settings) not in {page_secret(settings), file_secret(page)}
    assert len(bytes.fromhex(media_secret(settings))) == 32
