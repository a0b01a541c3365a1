"""What the chat pane may ask of the server: one frozen value an action, checked field by field.

The browser's words are not trusted: whatever does not fit these types and bounds is refused as a
whole, and the ids and paths in them are checked against what the session may use.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from multimodal.errors import RequestError
from multimodal.limits import Limits

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


class Kept(_Value):
    """A picture or recording of an earlier message; `key` proves that it was handed out."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    media_type: str = Field(pattern=r"^(image|audio)/[a-z]{1,8}$")
    key: str = Field(max_length=64)
    name: str = Field("file", max_length=1000)


class Send(_Value):
    do: Literal["send"]
    nonce: Nonce
    text: str = Field("", max_length=MAX_TEXT)
    files: tuple[Upload | Kept, ...] = Field((), max_length=10 * MAX_FILES, strict=False)
    chat: str = Field("", max_length=64)


class SendExample(_Value):
    do: Literal["example"]
    nonce: Nonce
    index: int = Field(ge=0, le=100)


class Retry(_Value):
    do: Literal["retry"]
    nonce: Nonce
    message: Id
    model: str | None = Field(None, max_length=200)


class Edit(_Value):
    do: Literal["edit"]
    nonce: Nonce
    message: Id
    text: str = Field("", max_length=MAX_TEXT)


class TakeBack(_Value):
    do: Literal["take_back"]
    nonce: Nonce


class Stop(_Value):
    do: Literal["stop"]


class Sync(_Value):
    """The browser has missed something: show it all again."""

    do: Literal["sync"]


class CheckUploads(_Value):
    """Which of these uploads are no longer there?"""

    do: Literal["check"]
    nonce: Nonce
    paths: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(
        (), max_length=10 * MAX_FILES, strict=False
    )


Action = Annotated[
    Send | SendExample | Retry | Edit | TakeBack | Stop | Sync | CheckUploads,
    Field(discriminator="do"),
]
_action: TypeAdapter[Action] = TypeAdapter(Action)


def read_action(data: Any) -> Action:
    """Raises RequestError for anything that is no action."""
    try:
        return _action.validate_python(data)
    except ValidationError as error:
        raise RequestError(
            "The page sent something this program does not know. Reload the page."
        ) from error


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
    raise RequestError("The page sent something this program does not know. Reload the page.")


def nonce_of(data: Any) -> str:
    """What the pane calls this action, so that it knows the receipt; "" where it has no name."""
    nonce = data.get("nonce") if isinstance(data, dict) else None
    return nonce if isinstance(nonce, str) and len(nonce) <= 64 else ""
