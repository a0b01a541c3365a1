"""The requests of OpenAI's HTTP interface for a picture and for speech, and what all of them share;
that for an answer is in `chat_schema.py`.

Which of OpenAI's fields are refused is in `fields.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from multimodal.api.fields import IMAGES, SPEECH, RequestFields
from multimodal.backends.sampling import MAX_SEED
from multimodal.build import Program
from multimodal.catalog.cards import AUTO, ModelCard, truncate
from multimodal.errors import PromptError, RequestError
from multimodal.media.audio_encoder import FORMATS
from multimodal.messages import Task
from multimodal.requests import ImageGenerationRequest


class RequestModel(BaseModel):
    model_config = ConfigDict(extra="ignore")
    fields: ClassVar[RequestFields | None] = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """A field that is null counts as not given. Raises UnsupportedFieldError."""
        if not isinstance(data, dict):
            return data
        if cls.fields is not None:
            cls.fields.check(data)
        return {name: value for name, value in data.items() if value is not None}


MAX_INTEGER, RANDOM_SEED = 2**63, -1


def normalize_seed(seed: int) -> int | None:
    """A seed of 64 bits as one of the 31 that engines take; -1 asks for any."""
    return None if seed == RANDOM_SEED else seed % MAX_SEED


Seed = Annotated[int, Field(ge=-MAX_INTEGER, lt=2 * MAX_INTEGER)]


Pixels = Annotated[int, Field(ge=1, le=8192)]


def _as_sides(size: Any) -> Any:
    """“512x768” as two numbers; “auto” as none."""
    if size == AUTO or not isinstance(size, str):
        return None if size == AUTO else size
    sides = size.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise RequestError(f"size {truncate(size)!r} is not one such as 512x512, width first.")
    return sides


class ImagesRequest(RequestModel):
    """The body of `/v1/images/generations`; the last four fields are not OpenAI's."""

    fields = IMAGES

    prompt: str = Field(min_length=1, max_length=32_000)
    model: str = AUTO
    n: int = Field(1, ge=1, le=10)
    size: Annotated[tuple[Pixels, Pixels] | None, BeforeValidator(_as_sides)] = None
    response_format: Literal["b64_json"] = "b64_json"
    negative_prompt: str = Field("", max_length=32_000)
    steps: int | None = Field(None, ge=1, le=200)
    guidance_scale: float | None = Field(None, ge=0, le=30)
    seed: Seed | None = None

    @field_validator("response_format", mode="before")
    @classmethod
    def _inside_the_reply(cls, wanted: Any) -> Any:
        if wanted == "url":
            raise RequestError(
                "Pictures are kept at no address that others could open: ask for response_format "
                "b64_json."
            )
        return wanted

    def drawing(self) -> ImageGenerationRequest:
        """Raises PromptError where there is nothing to draw."""
        if not (prompt := self.prompt.strip()):
            raise PromptError("The prompt is empty. Say what to draw.")
        width, height = self.size or (None, None)
        return ImageGenerationRequest(
            prompt=prompt,
            negative_prompt=self.negative_prompt.strip(),
            width=width,
            height=height,
            steps=self.steps,
            guidance=self.guidance_scale,
            seed=None if self.seed is None else normalize_seed(self.seed),
            count=self.n,
            preview_every_s=None,
        )


LANGUAGE_CHARACTERS = 100
MAX_VOICE_CHARACTERS = 100
MAX_INPUT_CHARACTERS = 4096


def _voice_id(voice: Any) -> Any:
    """A voice by its name, also where it is an object with an `id`; numbers as text."""
    if isinstance(voice, dict):
        voice = voice.get("id")
    return str(voice) if isinstance(voice, int) and not isinstance(voice, bool) else voice


class SpokenText(RequestModel):
    """Of `/v1/audio/speech`. `language` and `text_language` (ISO 639-1) are this program's own."""

    fields = SPEECH

    model: str = AUTO
    input: str = Field(min_length=1)
    voice: Annotated[str, BeforeValidator(_voice_id), Field(max_length=MAX_VOICE_CHARACTERS)] = (
        "alloy"
    )
    response_format: str = "mp3"
    stream_format: str = "audio"
    speed: float = 1.0
    language: str | None = Field(None, max_length=LANGUAGE_CHARACTERS)
    text_language: str | None = Field(None, max_length=LANGUAGE_CHARACTERS)

    @field_validator("input")
    @classmethod
    def _is_not_too_long(cls, text: str) -> str:
        if len(text) > MAX_INPUT_CHARACTERS:
            raise RequestError(
                f"input is {len(text):,} characters long and at most {MAX_INPUT_CHARACTERS:,} are "
                "spoken at once. Send it in parts."
            )
        return text

    @field_validator("speed")
    @classmethod
    def _is_within_bounds(cls, speed: float) -> float:
        if not 0.5 <= speed <= 2:
            raise RequestError(f"speed {speed:g} is not one from 0.5 to 2.")
        return speed

    @field_validator("response_format")
    @classmethod
    def _is_made_here(cls, name: str) -> str:
        if name not in FORMATS:
            raise RequestError(
                f"response_format {truncate(name)!r} is not made here; {', '.join(FORMATS)} are."
            )
        return name

    @field_validator("stream_format")
    @classmethod
    def _is_a_way_to_stream(cls, name: str) -> str:
        if name not in {"audio", "sse"}:
            raise RequestError(f"stream_format {truncate(name)!r} is neither audio nor sse.")
        return name


ALIASES = {Task.DRAW: {"dall-e-2", "dall-e-3", "gpt-image-1"}, Task.SPEECH: {"whisper-1"}}
"""OpenAI's names, which stand for the profile's own model."""


def choose_card(program: Program, task: Task, name: str) -> ModelCard:
    """The model of that name, else the profile's own for the task. Raises RequestError."""
    verb, ability = {Task.DRAW: ("draw", "that draws"), Task.SPEECH: ("hear", "for speech")}[task]
    if name not in {AUTO, "", *ALIASES[task]}:
        card = program.card(name)
        if card.task is not task:
            raise RequestError(f"{card.title} does not {verb}; choose a model for {task}.")
        return card
    if (default := program.defaults.name(task)) is None:
        raise RequestError(f"The profile {program.profile.title} has no model {ability}.")
    return program.catalog.card(default)
