"""What the studio's part of the page may ask of the server; see `web/actions.py`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from multimodal.web.actions import Nonce, Upload, unknown_action

JobId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
FieldName = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
Value = Annotated[str, Field(max_length=10_000)]
MAX_ROWS = 5_000
View = Literal["jobs", "job", "new", "chats"]


class _Action(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    nonce: Nonce
    seen: int = Field(0, ge=0, le=2**53)
    """The newest frame that the browser has."""


class Look(_Action):
    """The tab shows this part of the studio from now on; "" when it shows the chat."""

    do: Literal["look"]
    view: View | Literal[""]
    job: JobId | Literal[""] = ""


class _WithForm(_Action):
    fields: dict[FieldName, Value | bool | list[Value]] = Field(max_length=60)


class Plan(_WithForm):
    """What would a job of this form do?"""

    do: Literal["plan"]


class Preview(_WithForm):
    do: Literal["preview"]


class Start(_WithForm):
    do: Literal["start"]


class KeepData(_Action):
    """A file to learn from was uploaded."""

    do: Literal["keep_data"]
    file: Upload


class ImportSettings(_Action):
    do: Literal["import_settings"]
    text: str = Field(max_length=100_000)


class ImportJob(_Action):
    """A job that ran on another machine, as a file."""

    do: Literal["import_job"]
    file: Upload


class JobAction(_Action):
    do: Literal[
        "begin", "stop", "resume", "remove", "install", "uninstall", "chat", "again", "stop_export"
    ]
    job: JobId


class Export(_Action):
    """Write the result for other programs; `kind` is “format:quantization”."""

    do: Literal["export"]
    job: JobId
    kind: Annotated[str, Field(pattern=r"^[a-z]{1,20}:[a-z0-9_]{1,20}$")]


class ChatExport(_Action):
    """Offer an export in ONNX in the chat; `folder` is the name of its folder."""

    do: Literal["chat_export"]
    job: JobId
    folder: Annotated[str, Field(pattern=r"^onnx(-[0-9]{1,4})?$")]


class ShowRows(_Action):
    """What the person's own chats make for a method."""

    do: Literal["rows"]
    method: Literal["kto", "dpo"]


class Row(BaseModel):
    """A row as the person left it; `id` is its place among those that were shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: int = Field(ge=0, lt=MAX_ROWS)
    texts: dict[Literal["completion", "chosen", "rejected"], str] = Field(default_factory=dict)


class KeepRows(_Action):
    """Learn from these rows; those that are not named are dropped."""

    do: Literal["keep_rows"]
    method: Literal["kto", "dpo"]
    stamp: Annotated[str, Field(max_length=64)]
    """Names the rows as they were shown."""
    rows: tuple[Row, ...] = Field(max_length=MAX_ROWS, strict=False)


Action = Annotated[
    Look
    | Plan
    | Preview
    | Start
    | KeepData
    | ImportSettings
    | ImportJob
    | JobAction
    | Export
    | ChatExport
    | ShowRows
    | KeepRows,
    Field(discriminator="do"),
]
_action: TypeAdapter[Action] = TypeAdapter(Action)


def read_action(data: Any) -> Action:
    """Raises RequestError for anything that is no action."""
    try:
        return _action.validate_python(data)
    except ValidationError as error:
        raise unknown_action() from error
