"""Which routes of the server anybody may reach, and why each of the others is closed.

`ALLOWED` is the whole of what the page and the HTTP interface use; everything else answers 404
before Gradio sees it. A path is written as Starlette writes it in its routes. To open another one,
add a row: the methods, what it is used for, who may use it and, where a request names a session of
the page, where it does (`Session`). `CLOSED` holds the judgement of each other route of Gradio. A
test compares both with the routes of the installed version, so a new route is judged by a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from starlette.routing import compile_path

READ = frozenset({"GET", "HEAD"})
SEND = frozenset({"POST"})
ANY = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Access(StrEnum):
    """Who may use a route of a server with logins. Without logins, everybody may."""

    EVERYBODY = "everybody"
    PAGE = "page"
    """Who logged in on the page: Gradio's cookie."""
    PROGRAM = "program"
    """Who sends a login in the Authorization header."""


class Session(StrEnum):
    """Where a request says which session of the page it belongs to."""

    NONE = "none"
    PATH = "path"
    QUERY = "query"
    BODY = "body"
    """As `session_hash` of a JSON object."""


@dataclass(frozen=True, slots=True)
class AllowedRoute:
    path: str
    methods: frozenset[str]
    use: str
    access: Access = Access.PAGE
    session: Session = Session.NONE


GRADIO = "/gradio_api"
FILE = f"{GRADIO}/file={{path:path}}"
JOIN = f"{GRADIO}/queue/join"
ANSWERS = f"{GRADIO}/queue/data"
RESET = f"{GRADIO}/reset"
LOGIN = "/login"
LOGOUT = "/logout"

ALLOWED: tuple[AllowedRoute, ...] = (
    AllowedRoute("/", READ, "the page, and its login form", Access.EVERYBODY),
    AllowedRoute(LOGIN, SEND, "the login form", Access.EVERYBODY),
    AllowedRoute(LOGOUT, READ, "logging out", Access.EVERYBODY),
    AllowedRoute("/assets/{path:path}", READ, "the page's scripts and styles", Access.EVERYBODY),
    AllowedRoute("/static/{path:path}", READ, "the page's icons and fonts", Access.EVERYBODY),
    AllowedRoute("/theme.css", READ, "the page's colours", Access.EVERYBODY),
    AllowedRoute(f"{GRADIO}/theme.css", READ, "the page's colours", Access.EVERYBODY),
    AllowedRoute("/manifest.json", READ, "the page's name and icon", Access.EVERYBODY),
    AllowedRoute("/favicon.ico", READ, "the page's icon", Access.EVERYBODY),
    AllowedRoute("/robots.txt", READ, "search engines", Access.EVERYBODY),
    AllowedRoute(f"{GRADIO}/startup-events", READ, "Gradio's own start", Access.EVERYBODY),
    AllowedRoute(f"{GRADIO}/app_id", READ, "whether the server was started anew", Access.EVERYBODY),
    AllowedRoute(JOIN, SEND, "every event of the page", session=Session.BODY),
    AllowedRoute(ANSWERS, READ, "what events answer", session=Session.QUERY),
    AllowedRoute(f"{GRADIO}/cancel", SEND, "ending an event", session=Session.BODY),
    AllowedRoute(RESET, SEND, "ending an event; does nothing by now"),
    AllowedRoute(
        f"{GRADIO}/heartbeat/{{session_hash}}", READ, "an open page", session=Session.PATH
    ),
    AllowedRoute(f"{GRADIO}/upload", SEND, "attaching files"),
    AllowedRoute(f"{GRADIO}/upload_progress", READ, "attaching files"),
    AllowedRoute(FILE, READ, "files that were uploaded and not sent yet"),
    AllowedRoute("/media/{key}/{file}", READ, "stored pictures and recordings"),
    AllowedRoute("/media/{key}/small/{file}", READ, "stored pictures, made smaller"),
    AllowedRoute("/aloud/{ticket}", READ, "answers read aloud"),
    AllowedRoute("/listen/{ticket}", frozenset({"POST", "DELETE"}), "talking hands-free"),
    AllowedRoute("/studio/{key}/{id}.zip", READ, "a job of the studio as a file"),
    AllowedRoute("/studio/{key}/{id}/{file:path}", READ, "a file of an exported model"),
    AllowedRoute("/microphone.js", READ, "talking hands-free"),
    AllowedRoute("/health", READ, "watching the server", Access.EVERYBODY),
    AllowedRoute("/metrics", READ, "Prometheus", Access.PROGRAM),
    AllowedRoute("/v1", ANY, "the HTTP interface", Access.PROGRAM),
    AllowedRoute("/v1/{path:path}", ANY, "the HTTP interface", Access.PROGRAM),
)

_CLOSED = {
    "describes routes that are closed": "/openapi.json",
    "tells nothing that the page does not have already": """
        /config /gradio_api/user /gradio_api/login_check /gradio_api/queue/status""",
    "scripts of components that this page does not have": "/svelte/{path:path}",
    "this page is not installed as an app": "/pwa_icon /pwa_icon/{size}",
    "statistics of every visitor": "/monitoring /monitoring/summary /monitoring/{key}",
    "copies a session, known by its name alone, to an address": "/gradio_api/deep_link",
    "reads the login cookie out to scripts": "/gradio_api/token",
    "a tool for who writes Gradio apps": """
        /gradio_api/dev/reload /gradio_api/vibe-edit /gradio_api/undo-vibe-edit
        /gradio_api/vibe-code /gradio_api/vibe-starter-queries""",
    "a history that is off": """
        /gradio_api/runs /gradio_api/run-history/connect /gradio_api/run-history/buckets
        /gradio_api/run-history/records
        /gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}""",
    "the page sends its events through the queue, and programs use /v1": """
        /gradio_api/info /gradio_api/openapi.json /gradio_api/api/{api_name}
        /gradio_api/run/{api_name} /gradio_api/call/{api_name}
        /gradio_api/call/{api_name}/{event_id} /gradio_api/call/v2/{api_name}
        /gradio_api/call/v2/{api_name}/{event_id}""",
    "no component of this page has functions on the server": "/gradio_api/component_server",
    "this page has no custom components": """
        /gradio_api/custom_component/{id}/{environment}/{type}/{file_name}""",
    "fetches from other servers": "/gradio_api/proxy={url_path}",
    "an old name of file=": "/gradio_api/file/{path}",
    "this page has no streaming inputs": """
        /gradio_api/stream/{event_id} /gradio_api/stream/{event_id}/close""",
    "this page has no streaming outputs": """
        /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8
        /gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}
        /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file""",
    "runs ffmpeg on what it is sent": "/gradio_api/process_recording",
}
CLOSED = {path: reason for reason, paths in _CLOSED.items() for path in paths.split()}
"""Why each other route of Gradio is closed; with a stroke at its end, it is the same route."""


class RouteTable:
    """Finds the row of a request."""

    def __init__(self, rows: Iterable[AllowedRoute] = ALLOWED) -> None:
        self._rows = [(compile_path(row.path)[0], row) for row in rows]

    def find(self, method: str, path: str) -> tuple[AllowedRoute, re.Match[str]] | None:
        """The row for `path`, decoded as an ASGI server hands it on, and what its parameters
        match; None where the route is closed to this method or altogether."""
        for pattern, row in self._rows:
            if method in row.methods and (match := pattern.fullmatch(path)):
                return row, match
        return None
