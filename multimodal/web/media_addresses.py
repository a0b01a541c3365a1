"""Addresses of stored pictures and recordings: `/media/KEY/SHA256.TYPE`, small pictures at
`/media/KEY/small/SHA256.TYPE`.

An address carries a key that only this program can make (an HMAC of the digest), and it is handed
out only with a message of its owner. So the route needs no cookie, the address shows no folder of
the server, and who knows a picture but not the key is told no more than that nothing is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from multimodal.errors import MediaError
from multimodal.media.ingestion import FORMATS, MediaFolder
from multimodal.messages import AudioPart, ImagePart

SMALL_SIDE = 640
SMALL_KEPT = 128
"""Small pictures in memory, of some ten kilobytes each."""
KEY_CHARACTERS = 32
HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Content-Disposition": "inline",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg", "flac": "audio/flac"}


def make_small(path: Path) -> bytes:
    """A stored picture made smaller, as WebP. Raises OSError."""
    buffer = io.BytesIO()
    with Image.open(path, formats=FORMATS) as picture:
        picture.thumbnail((SMALL_SIDE, SMALL_SIDE))
        picture.save(buffer, "WEBP", quality=82)
    return buffer.getvalue()


class SmallPictures:
    """What `make` makes of stored pictures, the newest of it kept. For one event loop.

    One picture is decoded at a time, since each takes far more memory than its file; who waits for
    that holds no thread, and who waits for the same picture shares what is made of it.
    """

    def __init__(self, make: Callable[[Path], bytes]) -> None:
        self._make = make
        self._made: OrderedDict[Path, bytes] = OrderedDict()
        self._turn = asyncio.Lock()

    async def get(self, path: Path) -> bytes:
        """Raises OSError where there is no picture at `path`."""
        if path not in self._made:
            async with self._turn:
                if path not in self._made:
                    self._keep(path, await run_in_threadpool(self._make, path))
        self._made.move_to_end(path)
        return self._made[path]

    def _keep(self, path: Path, data: bytes) -> None:
        self._made[path] = data
        if len(self._made) > SMALL_KEPT:
            self._made.popitem(last=False)


class MediaAddresses:
    """Makes the addresses of one program and serves what lies behind them. `secret`: the key of the
    HMAC, known to nobody outside the server; `make_small`: makes the WebP of a small picture."""

    def __init__(
        self, media: MediaFolder, secret: str, make_small: Callable[[Path], bytes] = make_small
    ) -> None:
        self._media = media
        self._secret = secret.encode()
        self._small = SmallPictures(make_small)

    def whole(self, part: ImagePart | AudioPart) -> str:
        return f"media/{self.key(part.sha256)}/{_file(part)}"

    def small(self, part: ImagePart) -> str:
        """At most `SMALL_SIDE` pixels wide and high."""
        if max(part.width, part.height) <= SMALL_SIDE:
            return self.whole(part)
        return f"media/{self.key(part.sha256)}/small/{_file(part)}"

    def key(self, sha256: str) -> str:
        """Proves that the program itself handed out what has this digest."""
        mac = hmac.new(self._secret, f"media:{sha256}".encode(), hashlib.sha256)
        return mac.hexdigest()[:KEY_CHARACTERS]

    def is_key(self, key: str, sha256: str) -> bool:
        return hmac.compare_digest(self.key(sha256).encode(), key.encode())

    def routes(self) -> list[Route]:
        return [
            Route("/media/{key}/{file}", self._serve_whole),
            Route("/media/{key}/small/{file}", self._serve_small),
        ]

    async def _serve_whole(self, request: Request) -> Response:
        path = await self._find(request)
        if path is None:
            return _nothing()
        return FileResponse(path, media_type=_TYPES[path.suffix[1:]], headers=HEADERS)

    async def _serve_small(self, request: Request) -> Response:
        path = await self._find(request)
        if path is None or not _TYPES[path.suffix[1:]].startswith("image/"):
            return _nothing()
        try:
            data = await self._small.get(path)
        except OSError:  # removed meanwhile, or damaged on the disk
            return _nothing()
        return Response(data, media_type="image/webp", headers=HEADERS)

    async def _find(self, request: Request) -> Path | None:
        sha256, _, suffix = request.path_params["file"].partition(".")
        if not _DIGEST.fullmatch(sha256) or suffix not in _TYPES:
            return None
        if not self.is_key(request.path_params["key"], sha256):
            return None
        media_type = _TYPES[suffix]
        try:
            return await run_in_threadpool(self._media.path, ImagePart(sha256, media_type, 0, 0))
        except MediaError:
            return None


def _file(part: ImagePart | AudioPart) -> str:
    return f"{part.sha256}.{part.media_type.partition('/')[2]}"


def _nothing() -> Response:
    return PlainTextResponse("There is nothing at this address.", 404)
