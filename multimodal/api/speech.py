"""`/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/audio/speech`."""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from multimodal.api.bodies import parsed
from multimodal.api.drive import events, while_connected
from multimodal.api.schemas import SpokenText
from multimodal.api.subtitles import srt, vtt
from multimodal.build import Program
from multimodal.cards import AUTO, ModelCard
from multimodal.errors import BackendError, RequestError
from multimodal.events import Segment, SpeechMade, Transcript
from multimodal.messages import Task

ALIASES = {AUTO, "whisper-1", ""}
FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
LANGUAGE = re.compile("[a-z]{2,3}")
FIELDS = 50
GRANULARITIES = "timestamp_granularities[]"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the form says beside the recording."""

    card: ModelCard
    format: str
    language: str | None
    english: bool


async def transcriptions(request: Request, program: Program) -> Response:
    return await _heard(request, program, english=False)


async def translations(request: Request, program: Program) -> Response:
    return await _heard(request, program, english=True)


async def spoken(request: Request, program: Program) -> Response:
    """A text said aloud, as WAV."""
    async with parsed(request, SpokenText, program.media.limits) as text:
        asked, card = text.request(), program.card(text.model)
    if not card.speaks:
        able = ", ".join(card.name for card in program.cards if card.speaks) or "none"
        raise RequestError(f"{card.title} does not speak. Models that do: {able}.")
    stream = events(lambda stop: program.assistant.speak(asked, card.name, stop), request)
    made = None
    async with aclosing(stream) as happening:
        async for event in happening:
            made = event if isinstance(event, SpeechMade) else made
    if made is None:
        raise BackendError(f"{card.title} was stopped before it had spoken. Ask again.")
    return Response(made.wav, media_type="audio/wav")


async def _heard(request: Request, program: Program, english: bool) -> Response:
    async with request.form(max_files=1, max_fields=FIELDS) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("The form has no file; send the recording in the field “file”.")
        read, name = file.file.read, file.filename or "recording"
        asked = _asked(form, program, english)
        part = await while_connected(
            lambda stop: program.media.add_audio(read, name, program.media.intake(stop)), request
        )
    transcript = Transcript(part)
    stream = events(
        lambda stop: program.assistant.transcribe(
            part, asked.card.name, stop, asked.language, english
        ),
        request,
    )
    async with aclosing(stream) as happening:
        async for event in happening:
            if isinstance(event, Transcript):
                transcript = event
    return _answer(transcript, asked)


def _asked(form: FormData, program: Program, english: bool) -> _Asked:
    kind = str(form.get("response_format", "json"))
    if kind not in FORMATS:
        raise RequestError(f"response_format {kind!r} is not one of {', '.join(FORMATS)}.")
    language = str(form.get("language", "")) or None
    if language and not LANGUAGE.fullmatch(language):
        raise RequestError(f"language {language!r} is not a code such as en or fr.")
    for wanted in form.getlist(GRANULARITIES):
        if wanted != "segment":
            raise RequestError(f"{GRANULARITIES} {wanted!r} is not offered; segment is.")
    return _Asked(_card(program, str(form.get("model", ""))), kind, language, english)


def _card(program: Program, name: str) -> ModelCard:
    if name not in ALIASES:
        card = program.card(name)
        if card.task is not Task.SPEECH:
            raise RequestError(f"{card.title} does not hear; choose a model for {Task.SPEECH}.")
        return card
    default = program.profile.default(Task.SPEECH)
    if default is None:
        raise RequestError(f"The profile {program.profile.title} has no model for speech.")
    return program.catalog.card(default)


def _answer(transcript: Transcript, asked: _Asked) -> Response:
    text, segments = _wanted(transcript, asked)
    if asked.format == "text":
        return PlainTextResponse(text + "\n")
    if asked.format == "srt":
        return PlainTextResponse(srt(segments), media_type="application/x-subrip")
    if asked.format == "vtt":
        return PlainTextResponse(vtt(segments), media_type="text/vtt")
    body: dict[str, Any] = {"text": text}
    if asked.format == "verbose_json":
        heard = transcript.part
        body |= {
            "task": "translate" if asked.english else "transcribe",
            "language": heard.language,
            "duration": heard.seconds,
            "segments": [
                {"id": number, "start": s.start_s, "end": s.end_s, "text": s.text}
                for number, s in enumerate(segments)
            ],
        }
    return JSONResponse(body)


def _wanted(transcript: Transcript, asked: _Asked) -> tuple[str, tuple[Segment, ...]]:
    heard = transcript.part
    if not asked.english or not heard.transcript or heard.language == "en":
        return heard.transcript or "", transcript.segments
    if heard.english is None:
        raise RequestError(
            f"{asked.card.title} does not translate. Choose a model that does, such as Whisper, or "
            "ask for a transcription."
        )
    return heard.english, transcript.english_segments
