"""Pictures and sound inside a JSON body: base64 as clients really write it."""

from __future__ import annotations

import binascii
import re
from math import ceil

from multimodal.errors import RequestError, TooLargeError
from multimodal.media.ingestion import is_picture

DATA_URI = re.compile(r"\s*data:[^,]{0,200};\s*base64\s*,", re.IGNORECASE)
BARE = re.compile(r"[A-Za-z0-9+/_\-\s]{64}")
"""How base64 without a data: URI begins; an address has a colon or a dot by then."""
STANDARD = bytes.maketrans(b"-_", b"+/")
WHITESPACE = b" \t\r\n\f\v"
ESCAPED = b"+/=-_ \r\n\t"
"""What clients percent-encode of base64 in a data: URI (RFC 3986); letters and digits need none."""
LINE_ENDS = 1.1
"""How much longer than its base64 a text may be for being broken into lines."""


def image_payload(url: str) -> str:
    """The base64 in `url`: a data: URI, or base64 alone if it is plainly that of a picture.

    Raises RequestError for any other address.
    """
    if (uri := DATA_URI.match(url)) is not None:
        return url[uri.end() :]
    if BARE.match(url) and is_picture(decode_base64(url[:64], "image_url", 64)):
        return url
    raise RequestError(
        "image_url must be a data: URI with base64; addresses on the net are never fetched."
    )


def audio_payload(data: str) -> str:
    """The base64 in `data`, which may be a data: URI."""
    uri = DATA_URI.match(data)
    return data[uri.end() :] if uri else data


def decode_base64(text: str, field: str, most_bytes: int) -> bytes:
    """The bytes; line ends, missing padding and the URL-safe alphabet (RFC 4648, 5) are taken.

    Raises TooLargeError before anything is decoded, and RequestError for what is no base64.
    """
    if len(text) > most_bytes * 4 / 3 * LINE_ENDS + 4:
        raise TooLargeError(
            f"{field} has {ceil(len(text) * 3 / 4e6)} MB and at most {most_bytes / 1e6:.0f} MB can "
            "be sent. Make it smaller."
        )
    try:
        raw = text.encode("ascii")
        if b"%" in raw:
            for sign in ESCAPED:
                raw = raw.replace(b"%%%02X" % sign, b"%c" % sign)
                raw = raw.replace(b"%%%02x" % sign, b"%c" % sign)
        raw = raw.translate(STANDARD, WHITESPACE).rstrip(b"=")
        return binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
    except ValueError as error:
        raise RequestError(f"{field} is not valid base64.") from error
