"""`/v1/chat/completions`: the assistant's events in the words of OpenAI's chat interface.

A picture that was made comes as OpenRouter and LiteLLM send one: in the message's (or delta's)
`images`, each `{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}`. It is not
put into `content`, which clients send back with the next question and models would have to read.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from multimodal.api.bodies import parsed
from multimodal.api.chat_schema import ChatRequest
from multimodal.api.drive import events, format_sse, while_connected
from multimodal.api.fingerprint import fingerprint
from multimodal.api.guard import error_response
from multimodal.api.images import encoded
from multimodal.build import Program
from multimodal.catalog.cards import AUTO
from multimodal.events import (
    Description,
    Done,
    Event,
    ImageStored,
    RouteChosen,
    TextDelta,
    Transcript,
)
from multimodal.messages import Conversation, Outcome, Route, new_id

_outcome = TypeAdapter(Outcome)


async def completions(request: Request, program: Program) -> Response:
    conversation, is_streamed, has_usage = await _read(request, program)
    reply = _Reply(conversation.controls.model, program)
    stream = events(lambda stop: program.assistant.reply(conversation, stop), request)
    if is_streamed:
        first = await anext(stream, None)  # an error before the first event keeps its status
        lines = _lines(reply, first, stream, has_usage)
        return StreamingResponse(lines, media_type="text/event-stream")
    async with aclosing(stream) as happening:
        async for event in happening:
            reply.saw(event)
    return JSONResponse(reply.whole())


async def _read(request: Request, program: Program) -> tuple[Conversation, bool, bool]:
    """What is said, whether the answer is streamed, and whether its stream ends with its usage;
    nothing else of the body, which may be large, is kept while the answer is written."""
    async with parsed(request, ChatRequest, program.media.limits) as asked:
        # An unknown model is refused before anything is decoded.
        model = AUTO if asked.model == AUTO else program.card(asked.model).name
        conversation = await while_connected(
            lambda stop: asked.conversation(program.media, stop), request
        )
        controls = replace(conversation.controls, model=model)
        conversation = replace(conversation, controls=controls)
        return conversation, asked.stream, asked.stream_options.include_usage


class _Reply:
    """What the reply has come to."""

    def __init__(self, model: str, program: Program) -> None:
        self._program = program
        self.id = f"chatcmpl-{new_id()}"
        self.created = int(time.time())
        self.model = model
        self.text: list[str] = []
        self.found: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.outcome = Outcome()
        self.fingerprint: str | None = None

    def saw(self, event: Event | None) -> str | None:
        """Take one event in; the piece of text it brought, if any."""
        match event:
            case TextDelta(text):
                self.text.append(text)
                return text
            case Transcript(part):
                self.found.append(
                    {
                        "transcript": part.transcript,
                        "language": part.language,
                        "english": part.english,
                    }
                )
            case Description(part):
                self.found.append({"description": part.description})
            case ImageStored(part):
                address = {"url": f"data:{part.media_type};base64,{encoded(self._program, part)}"}
                self.images.append({"type": "image_url", "image_url": address})
            case RouteChosen(Route(steps=(*_, last))):
                self.model = last.card
                self.fingerprint = fingerprint(self._program.catalog.card(last.card))
            case Done(outcome):
                self.outcome = outcome
        return None

    @property
    def finish(self) -> str:
        return "length" if self.outcome.finish == "length" else "stop"

    def usage(self) -> dict[str, Any]:
        told = self.outcome
        return {
            "prompt_tokens": told.prompt_tokens,
            "completion_tokens": told.completion_tokens,
            "total_tokens": told.prompt_tokens + told.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": told.cached_tokens},
        }

    def route(self) -> dict[str, Any]:
        told = _outcome.dump_python(self.outcome, mode="json")
        kept = ("routes", "timings", "notices", "seconds", "first_token_s", "decode_s", "seed")
        return {**{name: told[name] for name in kept}, "found": self.found}

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.text)}
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
    first: Event | None,
    stream: AsyncGenerator[Event | None, None],
    include_usage: bool,
) -> AsyncGenerator[str, None]:
    reply.saw(first)
    yield reply.chunk({"role": "assistant", "content": ""})
    try:
        async with aclosing(stream) as happening:
            async for event in happening:
                if text := reply.saw(event):
                    yield reply.chunk({"content": text})
                elif isinstance(event, ImageStored):
                    yield reply.chunk({"images": reply.images[-1:]})
                elif event is None:
                    yield ": still at it\n\n"
    except Exception as error:  # the status is sent already, so it is told in the stream
        yield format_sse(error_response(error)[1])
        return
    yield reply.chunk({}, reply.finish, x_route=reply.route())
    if include_usage:
        yield reply.usage_chunk()
    yield "data: [DONE]\n\n"
