"""What a browser may do with a reply: the content security policy of the page, and of the rest.

Stands inside Gradio's own middleware, where replies are not compressed yet, so that the scripts
that Gradio writes into its page can be allowed by their hashes. No other inline script runs:
nothing that a model wrote, or that a person typed, can become one.

'unsafe-eval' is needed: Gradio compiles the templates and handlers of its HTML component, and the
JavaScript of events, with `new Function`; both come from this program's own source.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html.parser import HTMLParser

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "frame-src": "'none'",
    "frame-ancestors": "'none'",
    "form-action": "'self'",
    "base-uri": "'self'",
}
FILE = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; sandbox"
)
"""Of a picture or a recording that is opened by itself."""
DATA = "default-src 'none'; frame-ancestors 'none'; sandbox"
ACTIVE = ("text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml")
"""Kinds of content that a browser runs scripts of."""
OWN_FOLDERS = ("/assets/", "/static/")


class ContentPolicy:
    """ASGI middleware. `scripts`: further inline scripts of the page, without their tags."""

    def __init__(self, app: ASGIApp, scripts: Iterable[str] = ()) -> None:
        self._app = app
        self._hashes = [script_hash(script) for script in scripts]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        await self._app(scope, receive, _Reply(scope["path"], send, self._hashes))


class _Reply:
    """`send` that adds the headers; it keeps a page back until all its scripts are known."""

    def __init__(self, path: str, send: Send, hashes: list[str]) -> None:
        self._path = path
        self._send = send
        self._hashes = hashes
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            message = {**message, "headers": headers.raw}
            if self._path == "/" and headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
            self._guard(headers)
        elif message["type"] == "http.response.body" and self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body", False):
                return
            await self._send_page(self._start)
            message = {"type": "http.response.body", "body": bytes(self._body)}
        await self._send(message)

    async def _send_page(self, start: Message) -> None:
        scripts = inline_scripts(bytes(self._body).decode("utf-8", "replace"))
        headers = MutableHeaders(raw=start["headers"])
        headers["Content-Security-Policy"] = page_policy(
            [*self._hashes, *map(script_hash, scripts)]
        )
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Permissions-Policy"] = "microphone=(self), camera=(), geolocation=()"
        headers["Cache-Control"] = "no-store"
        await self._send(start)

    def _guard(self, headers: MutableHeaders) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if self._path.startswith(OWN_FOLDERS):
            # A worker's script brings the policy that the worker runs under.
            headers["Content-Security-Policy"] = page_policy(())
        elif kind.startswith(("image/", "audio/", "video/")):
            headers["Content-Security-Policy"] = FILE
        else:
            headers["Content-Security-Policy"] = DATA
        if kind in ACTIVE and not self._path.startswith((*OWN_FOLDERS, "/favicon.ico")):
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Disposition"] = "attachment"


def page_policy(hashes: Iterable[str]) -> str:
    """The page's policy, with the inline scripts of these hashes allowed."""
    parts = dict(PAGE)
    parts["script-src"] = " ".join([parts["script-src"], *dict.fromkeys(hashes)])
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def script_hash(script: str) -> str:
    """The source expression that allows an inline script (CSP level 3)."""
    text = script.replace("\r\n", "\n").replace("\r", "\n")  # as browsers read it
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def inline_scripts(page: str) -> list[str]:
    """The scripts that a page holds itself, in order."""
    found = _Scripts()
    found.feed(page)
    found.close()
    return found.scripts


class _Scripts(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.scripts: list[str] = []
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script" and "src" not in dict(attrs):
            self._is_inside = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.scripts[-1] += data
