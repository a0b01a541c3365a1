"""`/v1/chat/completions`: the assistant's events in the words of OpenAI's chat interface.

A picture that was made comes as OpenRouter and LiteLLM send one: in the message's (or delta's)
`images`, each `{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}`. It is not
put into `content`, which clients send back with the next question and models would have to read.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from multimodal.api.bodies import parse_body
from multimodal.api.chat_schema import ChatRequest
from multimodal.api.event_streams import events, format_sse, while_connected
from multimodal.api.guard import with_error_events
from multimodal.api.images import encode_picture
from multimodal.backends.base import cores
from multimodal.build import Program
from multimodal.catalog.cards import AUTO, ModelCard
from multimodal.distributions import installed_version
from multimodal.events import ImageStored, PartAnnotated, RouteChosen, TextDelta, TurnEvent
from multimodal.messages import AudioPart, Conversation, ImagePart, Outcome, Route, new_id
from multimodal.turn.draft import Draft

_outcome = TypeAdapter(Outcome)


async def completions(request: Request, program: Program) -> Response:
    conversation, is_streamed, has_usage = await _read(request, program)
    reply = _Reply(conversation, program)
    stream = events(lambda stop: program.assistant.reply(conversation, stop), request)
    if is_streamed:
        first = await anext(stream, None)  # an error before the first event keeps its status
        lines = _lines(reply, first, stream, has_usage)
        return StreamingResponse(with_error_events(lines), media_type="text/event-stream")
    async with aclosing(stream) as happening:
        async for event in happening:
            reply.saw(event)
    return JSONResponse(reply.whole())


async def _read(request: Request, program: Program) -> tuple[Conversation, bool, bool]:
    """What is said, whether the answer is streamed, and whether its stream ends with its usage;
    nothing else of the body, which may be large, is kept while the answer is written."""
    async with parse_body(request, ChatRequest, program.media.limits) as asked:
        # An unknown model is refused before anything is decoded.
        model = AUTO if asked.model == AUTO else program.card(asked.model).name
        conversation = await while_connected(
            lambda stop: asked.conversation(program.media, stop), request
        )
        controls = replace(conversation.controls, model=model)
        conversation = replace(conversation, controls=controls)
        return conversation, asked.stream, asked.stream_options.include_usage


class _Reply:
    """What the reply has come to, as OpenAI's interface tells it."""

    def __init__(self, conversation: Conversation, program: Program) -> None:
        self._program = program
        self._draft = Draft(conversation)
        self.id = f"chatcmpl-{new_id()}"
        self.created = int(time.time())
        self.model = conversation.controls.model
        self.found: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.fingerprint: str | None = None

    def saw(self, event: TurnEvent | None) -> str | None:
        """Take one event in; the piece of text it brought, if any."""
        if event is None:
            return None
        self._draft = self._draft.apply(event)
        match event:
            case TextDelta(text):
                return text
            case PartAnnotated(AudioPart() as part):
                names = ("transcript", "language", "english")
                self.found.append({name: getattr(part, name) for name in names})
            case PartAnnotated(ImagePart() as part):
                self.found.append({"description": part.description})
            case ImageStored(part):
                address = {
                    "url": f"data:{part.media_type};base64,{encode_picture(self._program, part)}"
                }
                self.images.append({"type": "image_url", "image_url": address})
            case RouteChosen(Route(steps=(*_, last))):
                self.model = last.card
                self.fingerprint = fingerprint(self._program.catalog.card(last.card))
        return None

    @property
    def finish(self) -> str:
        return "length" if self._draft.outcome.finish == "length" else "stop"

    def usage(self) -> dict[str, Any]:
        used = self._draft.outcome.usage
        read, written = (used.prompt_tokens, used.completion_tokens) if used else (0, 0)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": used.cached_tokens if used else 0},
        }

    def route(self) -> dict[str, Any]:
        told = _outcome.dump_python(self._draft.outcome, mode="json")
        used = told["usage"] or {"decode_s": 0.0, "seed": None}
        kept = ("routes", "timings", "notices", "seconds", "first_token_s")
        return {
            **{name: told[name] for name in kept},
            "decode_s": used["decode_s"],
            "seed": used["seed"],
            "found": self.found,
        }

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self._draft.reply.text}
        if self.images:
            message["images"] = self.images
        choice = {"index": 0, "message": message, "finish_reason": self.finish, "logprobs": None}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": self.usage(),
            "x_route": self.route(),
        }

    def chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {**self._head("chat.completion.chunk"), "choices": [choice], **more}
        return format_sse(body)

    def usage_chunk(self) -> str:
        body = {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}
        return format_sse(body)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


async def _lines(
    reply: _Reply,
    first: TurnEvent | None,
    stream: AsyncGenerator[TurnEvent | None, None],
    include_usage: bool,
) -> AsyncGenerator[str, None]:
    reply.saw(first)
    yield reply.chunk({"role": "assistant", "content": ""})
    async with aclosing(stream) as happening:
        async for event in happening:
            if text := reply.saw(event):
                yield reply.chunk({"content": text})
            elif isinstance(event, ImageStored):
                yield reply.chunk({"images": reply.images[-1:]})
            elif event is None:
                yield ": still at it\n\n"
    yield reply.chunk({}, reply.finish, x_route=reply.route())
    if include_usage:
        yield reply.usage_chunk()
    yield "data: [DONE]\n\n"


ENGINES = ("xllamacpp", "torch", "transformers", "bitsandbytes", "diffusers", "numpy")
"""Packages that compute an answer's tokens, or load the weights they are computed from."""


def fingerprint(card: ModelCard) -> str:
    """`system_fingerprint`: what an answer depends on beside its request. Of a card (weights,
    quantization, slots and engine options are in it), the versions of the engines, the processor
    and the number of threads: "fp_" and ten hexadecimal digits.

    Two answers with one fingerprint, one request and one seed are the same text if the engine
    computes each conversation by itself, as llama.cpp does here: every slot has its own cache
    (docs/decisions/0003-slots.md). Where a fingerprint differs, nothing is promised.
    """
    known = "\n".join((card.model_dump_json(), *_versions(), platform.machine(), str(cores())))
    return f"fp_{hashlib.sha256(known.encode()).hexdigest()[:10]}"


@cache
def _versions() -> tuple[str, ...]:
    return tuple(f"{name} {installed_version(name) or 'none'}" for name in ENGINES)
