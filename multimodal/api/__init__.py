"""The OpenAI-compatible HTTP interface, served on the page's own port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from multimodal.api import chat, images, speech_synthesis, transcriptions
from multimodal.api.guard import INVALID, failure, guard
from multimodal.api.metrics import metrics
from multimodal.build import Program
from multimodal.catalog.cards import AUTO, truncate
from multimodal.errors import UnknownModelError

Endpoint = Callable[[Request, Program], Awaitable[Response]]

SHOWN_CHARACTERS = 100
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def routes(program: Program) -> list[BaseRoute]:
    """All routes, for Gradio's `launch(app_kwargs={"routes": ...})`. They ask nobody who they are:
    whatever serves them stands behind `web.border`."""
    limits = program.media.limits
    with_files = {chat.completions, transcriptions.transcriptions, transcriptions.translations}

    def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
        most = limits.body_bytes if endpoint in with_files else limits.words_body_bytes
        handler = guard(partial(_call, endpoint, program), most)
        return Route(path, handler, methods=list(methods))

    return [
        Route("/health", partial(_call, health, program), methods=["GET"]),
        route("/metrics", metrics, "GET"),
        route("/v1/models", models, "GET"),
        route("/v1/models/{name:path}", model, "GET"),
        route("/v1/chat/completions", chat.completions, "POST"),
        route("/v1/images/generations", images.generations, "POST"),
        route("/v1/audio/transcriptions", transcriptions.transcriptions, "POST"),
        route("/v1/audio/translations", transcriptions.translations, "POST"),
        route("/v1/audio/speech", speech_synthesis.create_speech, "POST"),
        route("/v1/audio/voices", speech_synthesis.voices, "GET"),
        route("/v1", unknown, *METHODS),
        route("/v1/{path:path}", unknown, *METHODS),
    ]


async def _call(endpoint: Endpoint, program: Program, request: Request) -> Response:
    return await endpoint(request, program)


async def health(request: Request, program: Program) -> Response:
    """Whether the server is up, and what state its models are in. Needs no login."""
    snapshot = program.memory.snapshot()
    held: dict[str, str] = {held.card: held.state for held in snapshot.held}
    fetching = dict.fromkeys(program.fetching.progress, "fetching")
    states = {card.name: "absent" for card in program.cards} | fetching | held
    states |= {
        card.name: states.get(program.offer.resident(card).name, "absent")
        for card in program.cards
        if card.adapter is not None
    }
    return JSONResponse(
        {
            "status": "ok",
            "profile": program.profile.name,
            "device": snapshot.device,
            "simulated": snapshot.simulated,
            "models": states,
            "leases": {held.card: held.leases for held in snapshot.held},
        }
    )


async def models(request: Request, program: Program) -> Response:
    """“auto”, then the profile's cards, then those that were fine-tuned here."""
    return JSONResponse({"object": "list", "data": _models(program)})


async def model(request: Request, program: Program) -> Response:
    """One of them. Raises UnknownModelError."""
    name = request.path_params["name"]
    for found in _models(program):
        if found["id"] == name:
            return JSONResponse(found)
    raise UnknownModelError(
        f"There is no model {truncate(name)!r} here. /v1/models lists those there are."
    )


def _models(program: Program) -> list[dict[str, Any]]:
    first: dict[str, Any] = {"id": AUTO, "object": "model", "created": 0, "owned_by": "router"}
    cards = [
        {
            "id": card.name,
            "object": "model",
            "created": 0,
            "owned_by": card.family,
            "x_task": card.task,
            "x_title": card.title,
            "x_license": card.license,
            "x_quantization": card.quantization,
            **({} if card.base_model is None else {"x_base_model": card.base_model}),
        }
        for card in program.cards
    ]
    return [first, *cards]


async def unknown(request: Request, program: Program) -> Response:
    known = (
        "/v1/models, /v1/chat/completions, /v1/images/generations, /v1/audio/transcriptions, "
        "/v1/audio/translations, /v1/audio/speech, /v1/audio/voices"
    )
    asked = f"{request.method} {request.url.path}"[:SHOWN_CHARACTERS]
    sentence = f"There is no {asked} here. Known: {known}."
    return failure(404, sentence, INVALID)
