"""The request for an answer, in the words of OpenAI's chat interface, and how it becomes a
conversation.

Pictures and sound come inside the request; an address is never fetched. What a model reads of a
message is made once, by `ChatMessage.read`, and is both what is counted and what is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BeforeValidator, FailFast, Field

from multimodal.api.base64_media import audio_payload, decode_base64, image_payload
from multimodal.api.fields import CHAT, MESSAGE, PICTURE, SOUND, RequestFields
from multimodal.api.schemas import RequestModel, Seed, normalize_seed
from multimodal.catalog.cards import AUTO
from multimodal.errors import PromptError, RequestError
from multimodal.limits import Limits
from multimodal.media.ingestion import MediaFolder, MediaIntake
from multimodal.messages import Controls, Conversation, Message, Part, Sampling, TextPart

MESSAGES = 2000
PARTS = 1000
"""Of one message, and calls in it."""
NAME_CHARACTERS = 256
STOP_WORDS, STOP_CHARACTERS = 16, 500
"""Each is looked for at every token."""
SYSTEM = frozenset({"system", "developer"})


# A short form is brought into its long one first, so that a fault is named by one place.
def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_address(url: Any) -> Any:
    return {"url": url} if isinstance(url, str) else url


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class Text(RequestModel):
    type: Literal["text", "input_text"]
    text: str


class ImageAddress(RequestModel):
    fields: ClassVar[RequestFields] = PICTURE

    url: str


class Picture(RequestModel):
    type: Literal["image_url"]
    image_url: Annotated[ImageAddress, BeforeValidator(_as_address)]


class SoundData(RequestModel):
    fields: ClassVar[RequestFields] = SOUND

    data: str


class Sound(RequestModel):
    type: Literal["input_audio"]
    input_audio: SoundData


class RefusalPart(RequestModel):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


Content = Annotated[Text | Picture | Sound | RefusalPart, Field(discriminator="type")]
Contents = Annotated[list[Content], Field(max_length=PARTS), FailFast(), BeforeValidator(_as_parts)]
StopWords = Annotated[
    list[Annotated[str, Field(max_length=STOP_CHARACTERS)]],
    Field(max_length=STOP_WORDS),
    FailFast(),
    BeforeValidator(_as_list),
]
Name = Annotated[str, Field(max_length=NAME_CHARACTERS)]


class FunctionCall(RequestModel):
    name: Name = ""
    arguments: str = ""


class CustomCall(RequestModel):
    name: Name = ""
    input: str = ""


class ToolCall(RequestModel):
    id: str = ""
    function: FunctionCall | None = None
    custom: CustomCall | None = None

    @property
    def name(self) -> str:
        return (self.function or self.custom or FunctionCall()).name

    @property
    def arguments(self) -> str:
        return self.custom.input if self.custom else (self.function or FunctionCall()).arguments


ToolCalls = Annotated[list[ToolCall], Field(max_length=PARTS), FailFast()]


class ChatMessage(RequestModel):
    """No model here calls tools; in a history that another one led, a call and its result are read
    as text. Of many faults only the first is looked for."""

    fields: ClassVar[RequestFields] = MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Contents = Field(default_factory=list)
    refusal: str = ""
    name: Name = ""
    tool_call_id: str = ""
    tool_calls: ToolCalls = Field(default_factory=list)
    function_call: FunctionCall | None = None

    def read(self, tool: str) -> list[str | Picture | Sound]:
        """What a model reads, in its order: words, of which none are empty, and files. The result
        of a `tool` says which one's it is."""
        found: list[str | Picture | Sound] = []
        if self.role in {"tool", "function"}:
            found.append(f"Result of {tool or 'a tool'}:")
        for part in self.content:
            match part:
                case Text():
                    found.append(part.text)
                case RefusalPart():
                    found.append(part.refusal)
                case _:
                    found.append(part)
        found.append(self.refusal)
        calls: list[ToolCall | FunctionCall] = [*self.tool_calls]
        calls += [self.function_call] if self.function_call else []
        found += [f"Call of {call.name}: {call.arguments}" for call in calls]
        return [part for part in found if part != ""]


Read = Sequence[str | Picture | Sound]


class StreamOptions(RequestModel):
    include_usage: bool = False


class ChatRequest(RequestModel):
    """The body of `/v1/chat/completions`; `repeat_penalty` is not OpenAI's."""

    fields = CHAT

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES), FailFast()]
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
    stop: StopWords = Field(default_factory=list)

    def conversation(self, media: MediaFolder, stop: threading.Event) -> Conversation:
        """What was said, with its media normalised.

        Raises RequestError for what cannot be, and TurnStoppedError once `stop` is set.
        """
        tools = {call.id: call.name for m in self.messages for call in m.tool_calls}
        read = [m.read(m.name or tools.get(m.tool_call_id, "")) for m in self.messages]
        self._check(read, media.limits)
        intake = media.intake(stop)
        roles = [message.role for message in self.messages]
        system = "\n\n".join(
            _words(parts) for role, parts in zip(roles, read, strict=True) if role in SYSTEM
        )
        said = tuple(
            Message(
                "assistant" if role == "assistant" else "user",
                tuple(_part(part, media, intake) for part in parts),
            )
            for role, parts in zip(roles, read, strict=True)
            if role not in SYSTEM
        )
        if not said or said[-1].role != "user":
            raise PromptError("The last message must be the user's.")
        words = tuple(filter(None, self.stop))
        limit = self.max_completion_tokens or self.max_tokens
        seed = None if self.seed is None else normalize_seed(self.seed)
        greedy = self.top_p == 0  # of the likeliest tokens, only the first
        temperature, top_p = (0.0, None) if greedy else (self.temperature, self.top_p)
        sampling = Sampling(temperature, top_p, self.repeat_penalty, limit, seed, words)
        return Conversation(said, Controls(self.model, system, sampling))

    def _check(self, read: Sequence[Read], limits: Limits) -> None:
        """Refuse what is out of bounds, before anything is decoded or tokenized."""
        limits.check_conversation(map(_words, read))
        files = [sum(not isinstance(part, str) for part in parts) for parts in read]
        limits.check_files(max(files), sum(files))
        if any(n and m.role in SYSTEM for n, m in zip(files, self.messages, strict=True)):
            raise RequestError(
                "A system message holds words alone. Send pictures and recordings in a message of "
                "the user."
            )


def _words(read: Read) -> str:
    return "\n".join(part for part in read if isinstance(part, str))


def _part(part: str | Picture | Sound, media: MediaFolder, intake: MediaIntake) -> Part:
    if isinstance(part, str):
        return TextPart(part)
    most = media.limits.file_bytes
    if isinstance(part, Sound):
        sound = audio_payload(part.input_audio.data)
        read = partial(decode_base64, sound, "input_audio.data", most)
        return media.add_audio(read, "input_audio", intake)
    picture = image_payload(part.image_url.url)
    return media.add_image(partial(decode_base64, picture, "image_url", most), "image_url", intake)
