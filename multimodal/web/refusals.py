"""Why a request goes no further, in one sentence and in the form that whoever asks can read."""

from __future__ import annotations

from starlette.responses import JSONResponse, PlainTextResponse, Response

from multimodal.access import LoginCheck
from multimodal.api.guard import INVALID, failure
from multimodal.errors import RequestError
from multimodal.web.incoming import BodyError
from multimodal.web.route_table import LOGIN

SHOWN_CHARACTERS = 100
RELOAD = {"Page-Reload": "once"}
"""The header of what a page is told that only opening it again mends; see `head.html`."""


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


def raise_if_waiting(check: LoginCheck) -> None:
    if check.wait_s:
        raise RefusedError(
            429,
            f"Too many wrong passwords. Wait {check.wait_s} seconds, then try again.",
            "rate_limit_error",
            **{"Retry-After": str(check.wait_s)},
        )
