"""The headers of what leaves: no origin but ours may read it, and cookies are closed to others."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

BROWSER_COOKIE = "multimodal-browser"
COOKIE_S = 365 * 24 * 3600


class ResponseHeaders:
    """`send` that sees to the headers of what leaves."""

    def __init__(self, send: Send, is_https: bool) -> None:
        self._send = send
        self._is_https = is_https
        self._allowed: str | None = None
        self.cookies: list[str] = []
        self.on_received: Callable[[], None] = lambda: None
        """Called whenever a piece of the body was taken off our hands."""

    def allow(self, origin: str) -> None:
        """Let pages of `origin` read the reply, without cookies."""
        self._allowed = origin

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            self._rewrite(headers)
            message = {**message, "headers": headers.raw}
        await self._send(message)
        if message.get("body"):
            self.on_received()

    def _rewrite(self, headers: MutableHeaders) -> None:
        for name in {key for key in headers if key.startswith("access-control-")}:
            del headers[name]
        if self._allowed is not None:
            headers["Access-Control-Allow-Origin"] = self._allowed
            headers["Access-Control-Allow-Methods"] = "GET, POST"
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
            headers.add_vary_header("Origin")
        cookies = [*headers.getlist("set-cookie"), *self.cookies]
        del headers["set-cookie"]
        for cookie in cookies:
            headers.append("set-cookie", _strict(cookie, self._is_https))
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "same-origin")
        headers.setdefault("X-Frame-Options", "DENY")
        headers.setdefault("X-Robots-Tag", "noindex")
        if self._allowed is None:
            headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")


def _strict(cookie: str, is_https: bool) -> str:
    """A Set-Cookie header closed to scripts, to plain connections where there are others, and to
    requests that begin elsewhere. Login by form and the page itself need no more; only the cookie
    that tells browsers apart comes along from a link elsewhere (Lax), since a page that is opened
    so would else be given a new one, and the pages open already would no longer be recognised."""
    parsed: SimpleCookie = SimpleCookie()
    try:
        parsed.load(cookie)
    except CookieError:
        return cookie
    for name, morsel in parsed.items():
        morsel["httponly"] = True
        morsel["samesite"] = "Lax" if name == BROWSER_COOKIE else "Strict"
        if is_https:
            morsel["secure"] = True
        return morsel.OutputString()
    return cookie


def new_cookie(name: str, value: str) -> str:
    cookie: SimpleCookie = SimpleCookie()
    cookie[name] = value
    cookie[name]["path"] = "/"
    cookie[name]["max-age"] = COOKIE_S
    return cookie[name].OutputString()
