"""The requests of OpenAI's HTTP interface that are understood, and how they become a conversation.

Which of OpenAI's fields are refused is in `fields.py`. Pictures and sound come inside the request;
an address is never fetched.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from multimodal.api.base64_media import audio_payload, decode_base64, image_payload
from multimodal.api.fields import CHAT, IMAGES, SPEECH, RequestFields
from multimodal.backends.base import DrawRequest, SpeakRequest
from multimodal.backends.sampling import MAX_SEED
from multimodal.cards import AUTO
from multimodal.errors import PromptError, RequestError
from multimodal.limits import Limits
from multimodal.media import Intake, MediaFolder
from multimodal.messages import Controls, Conversation, Message, Part, Sampling, TextPart


class _Request(BaseModel):
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


# A short form is brought into its long one first, so that a fault is named by one place.
def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_address(url: Any) -> Any:
    return {"url": url} if isinstance(url, str) else url


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class Text(_Request):
    type: Literal["text", "input_text"]
    text: str


class ImageAddress(_Request):
    url: str


class Picture(_Request):
    type: Literal["image_url"]
    image_url: Annotated[ImageAddress, BeforeValidator(_as_address)]


class SoundData(_Request):
    data: str
    format: str = "wav"


class Sound(_Request):
    type: Literal["input_audio"]
    input_audio: SoundData


class Declined(_Request):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


Content = Annotated[Text | Picture | Sound | Declined, Field(discriminator="type")]


class FunctionCall(_Request):
    name: str = ""
    arguments: str = ""


class ToolCall(_Request):
    id: str = ""
    function: FunctionCall = FunctionCall()


class ChatMessage(_Request):
    """No model here calls tools; in a history that another one led, a call and its result are read
    as text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[list[Content], BeforeValidator(_as_parts)] = []
    name: str = ""
    tool_call_id: str = ""
    tool_calls: list[ToolCall] = []
    function_call: FunctionCall | None = None

    @property
    def calls(self) -> list[FunctionCall]:
        old = [self.function_call] if self.function_call else []
        return [call.function for call in self.tool_calls] + old


class StreamOptions(_Request):
    include_usage: bool = False


MAX_INTEGER, RANDOM_SEED = 2**63, -1


def _as_seed(seed: int) -> int | None:
    """A seed of 64 bits as one of the 31 that engines take; -1 asks for any."""
    return None if seed == RANDOM_SEED else seed % MAX_SEED


Seed = Annotated[int, Field(ge=-MAX_INTEGER, lt=2 * MAX_INTEGER)]


class ChatRequest(_Request):
    """The body of `/v1/chat/completions`; `repeat_penalty` is not OpenAI's."""

    fields = CHAT

    messages: list[ChatMessage] = Field(min_length=1, max_length=2000)
    model: str = AUTO
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(
        None, ge=0.5, le=2, validation_alias=AliasChoices("repeat_penalty", "repetition_penalty")
    )
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: Seed | None = None
    stop: Annotated[list[str], BeforeValidator(_as_list)] = []

    def conversation(self, media: MediaFolder, stop: threading.Event) -> Conversation:
        """What was said, with its media normalised.

        Raises RequestError for what cannot be, and TurnStoppedError once `stop` is set.
        """
        self._check(media.limits)
        intake = media.intake(stop)
        system = "\n\n".join(_words(m) for m in self.messages if m.role in {"system", "developer"})
        tools = {call.id: call.function.name for m in self.messages for call in m.tool_calls}
        said = tuple(
            Message(
                "assistant" if m.role == "assistant" else "user",
                _parts(m, media, intake, m.name or tools.get(m.tool_call_id, "")),
            )
            for m in self.messages
            if m.role not in {"system", "developer"}
        )
        if not said or said[-1].role != "user":
            raise PromptError("The last message must be the user's.")
        words = tuple(filter(None, self.stop))
        limit = self.max_completion_tokens or self.max_tokens
        seed = None if self.seed is None else _as_seed(self.seed)
        greedy = self.top_p == 0  # of the likeliest tokens, only the first
        temperature, top_p = (0.0, None) if greedy else (self.temperature, self.top_p)
        sampling = Sampling(temperature, top_p, self.repeat_penalty, limit, seed, words)
        return Conversation(said, Controls(self.model, system, sampling))

    def _check(self, limits: Limits) -> None:
        """Refuse what is out of bounds, before anything is decoded or tokenized."""
        limits.check_conversation(_words(message) for message in self.messages)
        files = [sum(not isinstance(p, Text) for p in message.content) for message in self.messages]
        limits.check_files(max(files), sum(files))


Pixels = Annotated[int, Field(ge=1, le=8192)]


def _as_sides(size: Any) -> Any:
    """“512x768” as two numbers; “auto” as none."""
    if size == AUTO or not isinstance(size, str):
        return None if size == AUTO else size
    sides = size.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise RequestError(f"size {size!r} is not one such as 512x512, width first.")
    return sides


class ImagesRequest(_Request):
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

    def drawing(self) -> DrawRequest:
        """Raises PromptError where there is nothing to draw."""
        if not (prompt := self.prompt.strip()):
            raise PromptError("The prompt is empty. Say what to draw.")
        width, height = self.size or (None, None)
        return DrawRequest(
            prompt=prompt,
            negative_prompt=self.negative_prompt.strip(),
            width=width,
            height=height,
            steps=self.steps,
            guidance=self.guidance_scale,
            seed=None if self.seed is None else _as_seed(self.seed),
            count=self.n,
            preview_every_s=None,
        )


class SpokenText(_Request):
    """Of `/v1/audio/speech`. `language` and `text_language` (ISO 639-1) are this program's own."""

    fields = SPEECH

    model: str
    input: str = Field(min_length=1, max_length=4096)
    voice: str = "0"
    response_format: str = "wav"
    speed: float = 1.0
    language: str | None = None
    text_language: str | None = None

    def request(self) -> SpeakRequest:
        """Raises RequestError for what is not offered."""
        if self.response_format != "wav":
            raise RequestError(
                f"response_format {self.response_format!r} is not made here; wav is."
            )
        if self.speed != 1:
            raise RequestError("speed cannot be changed here; leave it out.")
        if not self.voice.isdecimal():
            raise RequestError(
                f"voice {self.voice!r} is unknown here; voices are numbers, beginning with 0."
            )
        return SpeakRequest(self.input, self.language, self.text_language, int(self.voice))


def _words(message: ChatMessage) -> str:
    return "\n".join(part.text for part in message.content if isinstance(part, Text))


def _parts(message: ChatMessage, media: MediaFolder, intake: Intake, tool: str) -> tuple[Part, ...]:
    """What was said, in its order; the result of a `tool` says which one's it is."""
    said = (part for part in message.content if not isinstance(part, Text) or part.text)
    parts = [_part(part, media, intake) for part in said]
    if message.role in {"tool", "function"}:
        parts.insert(0, TextPart(f"Result of {tool or 'a tool'}:"))
    parts += [TextPart(f"Call of {call.name}: {call.arguments}") for call in message.calls]
    return tuple(parts)


def _part(part: Text | Picture | Sound | Declined, media: MediaFolder, intake: Intake) -> Part:
    if isinstance(part, Text):
        return TextPart(part.text)
    if isinstance(part, Declined):
        return TextPart(part.refusal)
    most = media.limits.file_bytes
    if isinstance(part, Sound):
        sound = audio_payload(part.input_audio.data)
        read = partial(decode_base64, sound, "input_audio.data", most)
        return media.add_audio(read, "input_audio", intake)
    picture = image_payload(part.image_url.url)
    return media.add_image(partial(decode_base64, picture, "image_url", most), "image_url", intake)
