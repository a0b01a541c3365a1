"""What the chat pane may ask of the server: one frozen value an action, checked field by field.

The browser's words are not trusted: whatever does not fit these types and bounds is refused as a
whole, and the ids and paths in them are checked against what the session may use.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from multimodal.errors import RequestError
from multimodal.limits import Limits
from multimodal.messages import Rating

MAX_TEXT = 4_000_000
MAX_FILES = Limits().message_files
ID = r"^[0-9a-f]{1,64}$"
Id = Annotated[str, Field(pattern=ID)]
Nonce = Annotated[str, Field(pattern=r"^[0-9a-z-]{1,64}$")]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Upload(_Value):
    """A file that the browser has uploaded; `path` is where Gradio put it."""

    path: str = Field(max_length=4096)
    name: str = Field("file", max_length=1000)


class KeptAttachment(_Value):
    """A picture or recording of an earlier message; `key` proves that it was handed out."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    media_type: str = Field(pattern=r"^(image|audio)/[a-z]{1,8}$")
    key: str = Field(max_length=64)
    name: str = Field("file", max_length=1000)


class _Asked(_Value):
    """Every action has a name, under which its receipt is given, and says up to which receipt the
    page has them all."""

    nonce: Nonce
    seen: int = Field(0, ge=0, le=2**53)


class _OfChat(_Asked):
    """What changes a conversation names it: `chat` is the one under whose words it was pressed, ""
    one that is not begun yet."""

    chat: str = Field(pattern=r"^[0-9a-f]{0,64}$")


class SpokenTurn(_Value):
    """Words that were said, not typed: their answer is to be heard while it is written. `address`:
    of the conversation in speech; `language` (ISO 639-1): the one that the person spoke, "" where
    that is not known."""

    address: str = Field(max_length=100)
    language: str = Field("", pattern=r"^[a-z]{0,3}$")


class Send(_OfChat):
    do: Literal["send"]
    text: str = Field("", max_length=MAX_TEXT)
    spoken: SpokenTurn | None = None
    files: tuple[Upload | KeptAttachment, ...] = Field((), max_length=10 * MAX_FILES, strict=False)


class SendExample(_OfChat):
    do: Literal["example"]
    index: int = Field(ge=0, le=100)


class Retry(_OfChat):
    do: Literal["retry"]
    message: Id
    model: str | None = Field(None, max_length=200)


class ChooseVersion(_OfChat):
    """Show this answer in the place of another one to the same question."""

    do: Literal["choose"]
    message: Id


class Rate(_OfChat):
    """What the person thinks of an answer; nothing takes back what they said."""

    do: Literal["rate"]
    message: Id
    rating: Rating | None


class Edit(_OfChat):
    do: Literal["edit"]
    message: Id
    text: str = Field("", max_length=MAX_TEXT)


class TakeBack(_OfChat):
    do: Literal["take_back"]
    message: Id


class ReadAloud(_OfChat):
    do: Literal["read_aloud"]
    message: Id


class Dictate(_OfChat):
    """Write down what was recorded, so that it can be edited before it is sent; without a file,
    leave what is being written down."""

    do: Literal["dictate"]
    file: Upload | None = None


class HandsFree(_OfChat):
    """Open a microphone that stays open; see `hands_free`."""

    do: Literal["hands_free"]


class Stop(_OfChat):
    do: Literal["stop"]


class Sync(_Asked):
    """The browser has missed something: show it all again."""

    do: Literal["sync"]


class CheckUploads(_Asked):
    """Which of these uploads are no longer there?"""

    do: Literal["check"]
    paths: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(
        (), max_length=10 * MAX_FILES, strict=False
    )


Action = Annotated[
    Send
    | SendExample
    | Retry
    | ChooseVersion
    | Rate
    | Edit
    | TakeBack
    | ReadAloud
    | Dictate
    | HandsFree
    | Stop
    | Sync
    | CheckUploads,
    Field(discriminator="do"),
]
_action: TypeAdapter[Action] = TypeAdapter(Action)


def read_action(data: Any) -> Action:
    """Raises RequestError for anything that is no action."""
    try:
        return _action.validate_python(data)
    except ValidationError as error:
        raise unknown_action() from error


def field_of(event: object, name: str) -> Any:
    """What a browser says of its event under that name; None where it says nothing."""
    try:
        return getattr(event, name, None)
    except TypeError:  # Gradio looks into anything that was sent as if it were a mapping
        return None


def read_conversation(event: object) -> str:
    """Which conversation an event of the list of chats names. Raises RequestError."""
    found = field_of(event, "conversation")
    if isinstance(found, str) and re.fullmatch(ID, found):
        return found
    raise unknown_action()


def read_moment(value: object) -> float:
    """When something was pressed, in milliseconds. Raises RequestError."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise unknown_action()


def unknown_action() -> RequestError:
    return RequestError("The page sent something this program does not know. Reload the page.")


def nonce_of(data: Any) -> str:
    """What the pane calls this action, so that it knows the receipt; "" where it has no name."""
    nonce = data.get("nonce") if isinstance(data, dict) else None
    return nonce if isinstance(nonce, str) and len(nonce) <= 64 else ""
