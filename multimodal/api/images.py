"""`/v1/images/generations`: pictures from words, inside the reply."""

from __future__ import annotations

import base64
import time
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from multimodal.api.bodies import parse_body
from multimodal.api.event_streams import events, in_thread
from multimodal.api.schemas import ImagesRequest, choose_card
from multimodal.build import Program
from multimodal.errors import RequestError
from multimodal.events import ImageStored, Notice
from multimodal.messages import ImagePart, Task, Usage


async def generations(request: Request, program: Program) -> Response:
    async with parse_body(request, ImagesRequest, program.media.limits) as asked:
        drawing, card = asked.drawing(), choose_card(program, Task.DRAW, asked.model).name
    made: list[ImagePart] = []
    notices: list[str] = []
    told: dict[str, Any] = {"model": card}
    stream = events(lambda stop: program.assistant.draw(drawing, card, stop), request)
    async with aclosing(stream) as happening:
        async for event in happening:
            match event:
                case ImageStored(part):
                    made.append(part)
                case Notice(text):
                    notices.append(text)
                case Usage():
                    told |= {"seed": event.seed, "steps": event.steps, "seconds": event.decode_s}
    if not made:
        raise RequestError(" ".join(notices) or "No picture was made.")
    data = await in_thread(lambda: [{"b64_json": encode_picture(program, part)} for part in made])
    told["notices"] = notices
    return JSONResponse({"created": int(time.time()), "data": data, "x_drawing": told})


def encode_picture(program: Program, part: ImagePart) -> str:
    return base64.b64encode(program.media.path(part).read_bytes()).decode()
