"""Base64 as clients write it, and what is none."""

from __future__ import annotations

import base64
import io
import math

import pytest
from PIL import Image

from multimodal.api.base64_media import audio_payload, decode_base64, image_payload
from multimodal.errors import RequestError, TooLargeError

MOST = 100_000
DATA = bytes(range(256)) * 7 + b"\xff"


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    return buffer.getvalue()


def lines(text: str, end: str) -> str:
    return end.join(text[at : at + 76] for at in range(0, len(text), 76)) + end


STANDARD = base64.b64encode(DATA).decode()
FORMS = {
    "standard": STANDARD,
    "unix lines": lines(STANDARD, "\n"),
    "mail lines": lines(STANDARD, "\r\n"),
    "spaces": f"  {STANDARD[:40]} {STANDARD[40:]}\t",
    "unpadded": STANDARD.rstrip("="),
    "url-safe": base64.urlsafe_b64encode(DATA).decode(),
    "url-safe, unpadded": base64.urlsafe_b64encode(DATA).decode().rstrip("="),
    "percent": STANDARD.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_base64_is_taken_as_clients_write_it(form: str) -> None:
    assert decode_base64(FORMS[form], "data", MOST) == DATA


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_pictures_and_sound_may_be_data_uris(form: str) -> None:
    for head in ("data:image/png;base64,", "DATA:image/png;charset=x;Base64,", " data:;base64,"):
        assert decode_base64(image_payload(head + FORMS[form]), "data", MOST) == DATA
        assert decode_base64(audio_payload(head + FORMS[form]), "data", MOST) == DATA
    assert decode_base64(audio_payload(FORMS[form]), "data", MOST) == DATA


def test_a_picture_may_be_base64_alone_where_it_is_plainly_one() -> None:
    for text in (
        base64.b64encode(picture()).decode(),
        base64.urlsafe_b64encode(picture()).decode(),
    ):
        assert decode_base64(image_payload(text), "image_url", MOST) == picture()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/cat.jpg",
        "file:///etc/passwd",
        "cat.jpg",
        "images/cat",
        "data:image/png,abc",
        "data:text/html;base64",
        "a" * 200,
        STANDARD,
        "",
    ],
)
def test_an_address_is_never_taken_for_a_picture(url: str) -> None:
    with pytest.raises(RequestError, match="never fetched"):
        image_payload(url)


@pytest.mark.parametrize("text", ["?", "a", "ab=c", "abcde", "é" * 8, "ab\0cd", "a%zzb", "abc!"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"data is not valid base64\."):
        decode_base64(text, "data", MOST)


def test_what_is_too_large_is_refused_before_it_is_decoded() -> None:
    whole = base64.b64encode(bytes(MOST)).decode()
    assert len(decode_base64(lines(whole, "\r\n"), "data", MOST)) == MOST
    with pytest.raises(TooLargeError, match="data has 1 MB and at most 0 MB"):
        decode_base64("A" * math.ceil(MOST * 1.5), "data", MOST)
