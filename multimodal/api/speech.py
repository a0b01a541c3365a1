"""`/v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

import re
from contextlib import aclosing

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from multimodal.api.drive import events, in_thread
from multimodal.build import Program
from multimodal.cards import AUTO
from multimodal.errors import RequestError
from multimodal.messages import AudioPart, Task, Transcript

ALIASES = {AUTO, "whisper-1", ""}
FORMATS = ("json", "text", "verbose_json")
LANGUAGE = re.compile("[a-z]{2,3}")


async def transcriptions(request: Request, program: Program) -> Response:
    return await _heard(request, program, english=False)


async def translations(request: Request, program: Program) -> Response:
    return await _heard(request, program, english=True)


async def _heard(request: Request, program: Program, english: bool) -> Response:
    async with request.form(max_files=1, max_part_size=program.media.limits.file_bytes) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("The form has no file; send the recording in the field “file”.")
        data, name = await file.read(), file.filename or "recording"
        card = _card(program, str(form.get("model", "")))
        kind = str(form.get("response_format", "json"))
        language = str(form.get("language", "")) or None
    if kind not in FORMATS:
        raise RequestError(f"response_format {kind!r} is not one of {', '.join(FORMATS)}.")
    if language and not LANGUAGE.fullmatch(language):
        raise RequestError(f"language {language!r} is not a code such as en or fr.")
    part = await in_thread(lambda: program.media.add_audio(data, name))
    heard = part
    stream = events(
        lambda stop: program.assistant.transcribe(part, card, stop, language, english), request
    )
    async with aclosing(stream) as happening:
        async for event in happening:
            if isinstance(event, Transcript):
                heard = event.part
    return _answer(heard, kind, english)


def _card(program: Program, name: str) -> str:
    if name not in ALIASES:
        card = program.catalog.card(name)
        if card.task is not Task.SPEECH:
            raise RequestError(f"{card.title} does not hear; choose a model for {Task.SPEECH}.")
        return card.name
    default = program.profile.default(Task.SPEECH)
    if default is None:
        raise RequestError(f"The profile {program.profile.title} has no model for speech.")
    return default


def _answer(heard: AudioPart, kind: str, english: bool) -> Response:
    text = (heard.english if english else None) or heard.transcript or ""
    if kind == "text":
        return PlainTextResponse(text + "\n")
    body: dict[str, object] = {"text": text}
    if kind == "verbose_json":
        task = "translate" if english else "transcribe"
        body |= {"task": task, "language": heard.language, "duration": heard.seconds}
    return JSONResponse(body)
