"""The border around the whole application: what passes here is all that Gradio and /v1 ever see.

`AccessMiddleware` stands around another ASGI application. In this order it asks of every request:

1. Host and origin: does it name this server, and does it come from a page of this server, or from
   no page at all? (DNS rebinding, requests forged by other sites)
2. Route: is it one that is used (`route_table`)?
3. Login: with logins set, is there one; a wrong one is counted and slowed down.
4. File and session: are those that it names in a folder that is shown, and of who asks?

What goes out loses every header that would let pages of other origins read it, and its cookies are
closed to scripts and to requests from elsewhere. A refusal is one sentence that names the way out,
under /v1 in the form that OpenAI's clients read.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from multimodal.access import Hosts, LoginCheck, Logins, network_of
from multimodal.api.event_streams import in_thread
from multimodal.api.guard import IDLE_S, INVALID, TimedReceive, failure
from multimodal.errors import RequestError
from multimodal.limits import Limits
from multimodal.web.incoming import (
    WHOLE_S,
    BodyError,
    ReadingBudget,
    address_of,
    browser_of,
    credentials,
    login_form,
    login_of,
    replay_body,
    session_in,
    whole_body,
)
from multimodal.web.outgoing import BROWSER_COOKIE, ResponseHeaders, new_cookie
from multimodal.web.route_table import (
    ANSWERS,
    FILE,
    JOIN,
    LOGIN,
    LOGOUT,
    RESET,
    Access,
    AllowedRoute,
    RouteTable,
    Session,
)
from multimodal.web.sessions import Sessions

LIMITS = Limits()
MAX_FORM_BYTES = 16_384
FOREIGN_SITES = frozenset({"cross-site", "same-site"})
SHOWN_CHARACTERS = 100
RELOAD = {"Page-Reload": "once"}
"""The header of what a page is told that only opening it again mends; see `head.html`."""


class AccessMiddleware:
    """Stands around an application once `lifespan` has run.

    hosts: the names that are answered to; may be added to while it runs (a share link).
    logins: user names and passwords; none: everybody who reaches the server may use it.
    folders: what the page shows files from; no others are served.
    idle_s: how long a client may send nothing in the middle of a body of words.
    """

    def __init__(
        self, hosts: Hosts, logins: Logins, folders: Sequence[Path], idle_s: float = IDLE_S
    ) -> None:
        self.hosts = hosts
        self._logins = logins
        self._folders = [folder.resolve() for folder in folders]
        self._routes = RouteTable()
        self._sessions = Sessions()
        self._reading = ReadingBudget()
        self._idle_s = idle_s
        self._app: ASGIApp | None = None

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Step around everything that `app` has, for `launch(app_kwargs={"lifespan": ...})`.

        Middleware handed to Gradio would stand inside its own, which answers preflights of every
        origin; the stack is built before the first request, and this runs after that.
        """
        self._app, app.middleware_stack = app.middleware_stack, self
        yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None or scope["type"] not in {"http", "lifespan"}:
            return await _closed(scope, send)
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        request = Request(scope, receive)
        outgoing = ResponseHeaders(send, self._is_https(request))
        try:
            listed = self._check_origin(request)
            if listed and is_api(scope["path"]):
                outgoing.allow(listed)
                if request.method == "OPTIONS":
                    return await Response(status_code=204)(scope, receive, outgoing)
            inner = await self._admit(request, outgoing)
        except ClientDisconnect:
            return
        except (RequestError, RefusedError) as refusal:
            response = refusal_response(refusal, scope["path"])
            return await response(scope, receive, outgoing)
        await self._app(scope, inner, outgoing)

    async def _admit(self, request: Request, outgoing: ResponseHeaders) -> Receive:
        """What the application may receive of `request`. Raises RefusedError."""
        path = request.scope["path"]
        found = self._routes.find(request.method, path)
        if found is None:
            shown = f"{request.method} {path}"[:SHOWN_CHARACTERS]
            raise RefusedError(404, f"There is no {shown} here.", INVALID)
        row, match = found
        if row.path == LOGOUT:
            _check_logout(request)
        person = self._person(row, request, outgoing)
        if row.path == FILE:
            self._check_file(match["path"])
        if row.path == LOGIN:
            return await self._check_login_form(request)
        if row.path == RESET:
            return replay_body(await self._form(request, "The message"), request.receive)
        if row.session is Session.NONE:
            return request.receive
        session, receive = await self._check_session(row, match, request, person)
        if row.path == JOIN and not self._sessions.begin_event(session):
            sentence = "This page asks without taking the answers. Reload it."
            raise RefusedError(429, sentence, "rate_limit_error")
        if row.path == ANSWERS:
            outgoing.on_received = lambda: self._sessions.reset_unread(session)
        return receive

    # ------------------------------------------------------------ 1. host and origin

    def _check_origin(self, request: Request) -> str | None:
        """The origin if it is another site's that was listed. Raises RefusedError."""
        headers = request.headers
        host = headers.get("host", "")
        for name in (host, headers.get("x-forwarded-host", "").split(",")[0].strip()):
            if (name or name is host) and not self.hosts.is_allowed_host(name):
                raise RefusedError(
                    403,
                    f"This server does not answer to {name[:SHOWN_CHARACTERS]!r}. Use its own "
                    "address, or start it with --allow-origin and the address that you use, such "
                    "as --allow-origin https://chat.example.",
                )
        origin = headers.get("origin")
        if origin is not None:
            if self.hosts.is_same_origin(origin, host):
                return None
            if self.hosts.is_allowed_origin(origin):
                return origin
            raise foreign_origin(origin)
        if headers.get("sec-fetch-site") in FOREIGN_SITES and not _is_visit(request):
            raise foreign_origin("another site")
        return None

    def _is_https(self, request: Request) -> bool:
        host = request.headers.get("host", "")
        return request.scope.get("scheme") == "https" or self.hosts.is_https_only(host)

    # ------------------------------------------------------------ 3. logins

    def _person(self, row: AllowedRoute, request: Request, outgoing: ResponseHeaders) -> str:
        """Who asks, as `Sessions` tells people apart. Raises RefusedError for a missing login."""
        if self._logins and row.access is Access.PROGRAM:
            self._check_authorization(request)
        if row.access is not Access.PAGE:
            if not self._logins and row.path == "/" and browser_of(request.cookies) is None:
                outgoing.cookies.append(new_cookie(BROWSER_COOKIE, secrets.token_hex(16)))
            return ""
        if self._logins:
            if (login := login_of(request)) is None:
                sentence = "Log in first; open the page again."
                raise RefusedError(401, sentence, "authentication_error", **RELOAD)
            return f"login:{login}"
        return f"browser:{browser_of(request.cookies) or ''}"

    def _check_authorization(self, request: Request) -> None:
        found = credentials(request.headers.get("authorization", ""))
        if found is not None:
            check = self._logins.check(*found, address_of(request))
            raise_if_throttled(check)
        if found is None or not check.is_right:
            way = "Send a login: Authorization: Bearer USER:PASSWORD."
            challenge = {"WWW-Authenticate": "Bearer"}
            raise RefusedError(401, way, "authentication_error", **challenge)

    async def _check_login_form(self, request: Request) -> Receive:
        body = await self._form(request, "The login form")
        if self._logins:
            user, password = await login_form(request, body)
            check = self._logins.check(user, password, address_of(request))
            raise_if_throttled(check)
            if not check.is_right:
                raise RefusedError(400, "Incorrect credentials.", "authentication_error")
        return replay_body(body, request.receive)

    # ------------------------------------------------------------ 4. files

    def _check_file(self, path: str) -> None:
        """Raises RefusedError unless `path` is plain, absolute and in a folder that is shown.

        An address in its place would be fetched by Gradio and passed on as if it were ours.
        """
        named = Path(path)
        is_plain = (
            named.is_absolute()
            and ".." not in named.parts
            and not path.startswith(("//", "\\\\"))
            and path.isprintable()
        )
        real = named.resolve() if is_plain else named
        if not (is_plain and any(real.is_relative_to(folder) for folder in self._folders)):
            raise RefusedError(404, "There is no such file here.", INVALID)

    # ------------------------------------------------------------ 4. sessions

    async def _check_session(
        self, row: AllowedRoute, match: re.Match[str], request: Request, person: str
    ) -> tuple[str, Receive]:
        """The session that a request belongs to, and what the application may receive of it.
        Raises RefusedError where it is somebody else's."""
        receive = request.receive
        if person == "browser:":
            raise RefusedError(403, "Allow this site its cookie, and open the page again.")
        if row.session is Session.PATH:
            session: object = match["session_hash"]
        elif row.session is Session.QUERY:
            session = request.query_params.get("session_hash")
        else:
            body, session = await self._event(request)
            receive = replay_body(body, receive)
        admit = self._sessions.admit
        if not isinstance(session, str) or not admit(session, person, address_of(request)):
            sentence = "This page was opened by somebody else. Open it again."
            raise RefusedError(403, sentence, **RELOAD)
        return session, receive

    async def _event(self, request: Request) -> tuple[bytes, object]:
        """The body of an event, and the session that it names."""
        with self._reading.reading(network_of(address_of(request))) as grow:
            body = await whole_body(
                self._timed(request), LIMITS.words_body_bytes, "The message", grow
            )
            return body, await in_thread(lambda: session_in(body, LIMITS))

    async def _form(self, request: Request, what: str) -> bytes:
        return await whole_body(self._timed(request), MAX_FORM_BYTES, what)

    def _timed(self, request: Request) -> TimedReceive:
        return TimedReceive(request.receive, self._idle_s, WHOLE_S)


def _is_visit(request: Request) -> bool:
    """Whether a person followed a link of another site to the page itself."""
    return (
        request.method == "GET"
        and request.scope["path"] in {"/", "/health"}
        and request.headers.get("sec-fetch-mode") == "navigate"
        and request.headers.get("sec-fetch-dest") == "document"
    )


def _check_logout(request: Request) -> None:
    """Raise RefusedError unless a person opened it: a picture must not log anybody out."""
    headers = request.headers
    kind = headers.get("sec-fetch-dest")  # sent over TLS, and to this machine
    if kind == "document" or (kind is None and "text/html" in headers.get("accept", "")):
        return
    raise RefusedError(403, "Open /logout in the address bar of the browser to log out.")


async def _closed(scope: Scope, send: Send) -> None:
    """Refuse what is no HTTP: nothing here speaks over web sockets."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})


# ------------------------------------------------------------ refusals


class RefusedError(Exception):
    """Why a request goes no further. Never leaves the border."""

    def __init__(
        self, status: int, sentence: str, kind: str = "permission_error", **headers: str
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind
        self.headers = headers


def refusal_response(refusal: RequestError | RefusedError, path: str) -> Response:
    """A refusal in the words of whoever asks: OpenAI's clients, Gradio's page, or a person."""
    sentence, status, kind, headers = str(refusal), 400, INVALID, {}
    if isinstance(refusal, BodyError):
        status = refusal.status
    elif isinstance(refusal, RefusedError):
        status, kind, headers = refusal.status, refusal.kind, refusal.headers
    if is_api(path) or path == "/metrics":
        return failure(status, sentence, kind, **headers)
    if path.startswith("/gradio_api/") or path == LOGIN:
        return JSONResponse({"detail": sentence}, status, headers)
    return PlainTextResponse(sentence, status, headers)


def is_api(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def foreign_origin(origin: str) -> RefusedError:
    return RefusedError(
        403,
        f"Pages of other sites ({origin[:SHOWN_CHARACTERS]}) may not use this. Call it from a "
        "program, or start the server with --allow-origin and the address of the page, such as "
        "--allow-origin https://chat.example.",
    )


def raise_if_throttled(check: LoginCheck) -> None:
    if check.wait_s:
        raise RefusedError(
            429,
            f"Too many wrong passwords. Wait {check.wait_s} seconds, then try again.",
            "rate_limit_error",
            **{"Retry-After": str(check.wait_s)},
        )
