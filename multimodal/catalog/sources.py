"""Where a card's weights come from, as the card states it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from multimodal.catalog.architectures import StrictModel
from multimodal.paths import expand_home

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PUBLISHED_FILES = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "LICENSE*",
)
"""What a repository of the hub is read for: weights without code in them, and what they need."""
CODE = (".py", ".pyc", ".so")
SINGLE_FILES = (".gguf", ".pt")
"""Formats in which one file may be a whole model: llama.cpp's, and OpenAI's of Whisper."""


class Wheel(StrictModel):
    """One package of the person's package index that carries weights."""

    project: str
    version: str
    sha256: Sha256
    size_bytes: PositiveInt


Repository = Annotated[str, StringConstraints(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
InnerPath = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
"""A file below a folder: relative, without "..", its parts divided by "/"."""
LocalPath = Annotated[Path, AfterValidator(expand_home)]
"""Of a file or folder on this machine; "~" is the person's home."""


class HubPlace(StrictModel):
    """One file in a repository of the Hugging Face hub."""

    kind: Literal["hub"]
    repo: Repository
    path: InnerPath
    revision: Annotated[str, StringConstraints(min_length=1)] = "main"


class WheelsPlace(StrictModel):
    """A file in packages of the person's package index, in one piece or in several."""

    kind: Literal["wheels"]
    members: tuple[Annotated[str, StringConstraints(pattern=r"^[\w.-]+:.+$")], ...] = Field(
        min_length=1
    )
    """Each "project:path inside the wheel"; joined in this order."""


class FolderPlace(StrictModel):
    """A file on this machine: `path` is the file, or the folder with the file of that name."""

    kind: Literal["folder"]
    path: LocalPath


FilePlace = Annotated[HubPlace | WheelsPlace | FolderPlace, Field(discriminator="kind")]


class WeightFile(StrictModel):
    """A file as the backend reads it, and where it can be had; the first place that answers is
    used."""

    path: InnerPath
    sha256: Sha256
    size_bytes: PositiveInt
    places: tuple[FilePlace, ...] = Field(min_length=1)

    @field_validator("path")
    @classmethod
    def _no_code(cls, path: str) -> str:
        if path.endswith(CODE):
            raise ValueError("code is never fetched")
        return path


class FilesSource(StrictModel):
    """Files that are known by their SHA-256, each of which may lie in several places."""

    kind: Literal["files"]
    files: tuple[WeightFile, ...] = Field(min_length=1)
    wheels: tuple[Wheel, ...] = ()
    """The packages that `places` of the kind "wheels" name."""

    @model_validator(mode="after")
    def _members_name_a_wheel(self) -> Self:
        known = {wheel.project for wheel in self.wheels}
        for file in self.files:
            for place in file.places:
                for member in place.members if isinstance(place, WheelsPlace) else ():
                    if member.partition(":")[0] not in known:
                        raise ValueError(f"'{member}' names no wheel of this card")
        return self

    @model_validator(mode="after")
    def _files_differ(self) -> Self:
        paths = [file.path for file in self.files]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise ValueError(f"there are two files '{twice}'")
        return self


class FolderSource(StrictModel):
    """Weights that are already on this machine; nothing is ever fetched. `path` is their folder, or
    the one file that a model consists of (`SINGLE_FILES`)."""

    kind: Literal["folder"]
    path: LocalPath


class PackageSource(StrictModel):
    """Weights that came with an installed Python package; the backend finds them itself."""

    kind: Literal["package"]
    project: str


class UntrainedSource(StrictModel):
    """No weights: a shape that is taught from scratch, and cannot be used before."""

    kind: Literal["untrained"]


class HubSource(StrictModel):
    """A repository of the Hugging Face hub. Patterns are those of a shell; `*` also crosses "/"."""

    kind: Literal["hub"]
    repo: Repository
    revision: Annotated[str, StringConstraints(min_length=1)] | None = None
    """A commit, a tag or a pull request (`refs/pr/5`); without one, what `main` is at the first
    time stays in use."""
    files: tuple[str, ...] = Field(PUBLISHED_FILES, min_length=1)
    ignore: tuple[str, ...] = ()
    variant: Annotated[str, StringConstraints(pattern=r"^\w+$")] | None = None
    """Where a folder has weights of this variant, such as fp16, the others are left out."""
    weights: tuple[str, ...] = ()
    """Patterns of tensors' names: of a checkpoint in shards, those without any are left out."""
    gated: bool = False
    """Whether its licence is accepted on the hub before it may be fetched."""

    @field_validator("files")
    @classmethod
    def _no_code(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if pattern.endswith(CODE):
                raise ValueError("code is never fetched")
        return patterns


class UrlSource(StrictModel):
    """One file at a fixed address, known by its SHA-256. Only a shipped card may name one."""

    kind: Literal["file"]
    url: Annotated[str, StringConstraints(pattern=r"^https://[\w.-]+(/[\w.-]+)*/\w[\w.-]*$")]
    sha256: Sha256
    size_bytes: PositiveInt | None = None

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]


class ManualSource(StrictModel):
    """What a person puts into the part's folder, because it can be fetched from nowhere."""

    kind: Literal["folder"]
    files: tuple[Annotated[str, StringConstraints(pattern=r"^[^/\\\\]+$")], ...] = Field(
        min_length=1
    )
    """Patterns; for each there must be a file."""
    published: str
    """Where a person finds them."""


PartName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
PartSource = Annotated[HubSource | UrlSource | ManualSource, Field(discriminator="kind")]


class PartsSource(StrictModel):
    """A model that is published in several places; each part lies in a folder of its name."""

    kind: Literal["parts"]
    parts: Mapping[PartName, PartSource] = Field(min_length=1)


Source = Annotated[
    FilesSource
    | FolderSource
    | PackageSource
    | UntrainedSource
    | HubSource
    | UrlSource
    | PartsSource,
    Field(discriminator="kind"),
]


def comes_from(source: Source, kind: type[StrictModel]) -> bool:
    """Whether the source, or a part of it, is of that kind."""
    places = source.parts.values() if isinstance(source, PartsSource) else (source,)
    return any(isinstance(place, kind) for place in places)
