"""Model cards, profiles and the catalog that holds them: facts in TOML, checked by pydantic.

Adding a model is adding one card. No code asks for a model by its name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ByteSize,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from multimodal.architectures import Architecture, Facts
from multimodal.errors import CardError, UnknownModelError
from multimodal.messages import Task

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
AUTO = "auto"
KINDS = {"measured", "modules", "gguf", "wheels", "folder", "package", "hub"}
"""Which of several tables a card has; pydantic names it beside the field, TOML does not."""


class Wheel(Facts):
    """One package of the person's package index that carries weights."""

    project: str
    version: str
    sha256: Sha256
    size_bytes: PositiveInt


class WeightFile(Facts):
    """A file as the backend reads it, joined from `members` ("project:path inside the wheel")."""

    path: str
    members: tuple[str, ...] = Field(min_length=1)
    sha256: Sha256
    size_bytes: PositiveInt


class WheelSource(Facts):
    kind: Literal["wheels"]
    wheels: tuple[Wheel, ...] = Field(min_length=1)
    files: tuple[WeightFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _members_name_a_wheel(self) -> Self:
        known = {wheel.project for wheel in self.wheels}
        for file in self.files:
            for member in file.members:
                if member.partition(":")[0] not in known:
                    raise ValueError(f"'{member}' names no wheel of this card")
        return self


class FolderSource(Facts):
    """Weights that are already on this machine; nothing is ever fetched."""

    kind: Literal["folder"]
    path: Path


class PackageSource(Facts):
    """Weights that came with an installed Python package; the backend finds them itself."""

    kind: Literal["package"]
    project: str


class HubSource(Facts):
    """A repository of the Hugging Face hub."""

    kind: Literal["hub"]
    repo: str


Source = Annotated[
    WheelSource | FolderSource | PackageSource | HubSource, Field(discriminator="kind")
]


class SamplingDefaults(Facts):
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    repeat_penalty: float = Field(1.1, ge=0.5, le=2)
    max_tokens: PositiveInt = 512
    stop: tuple[str, ...] = ()


class Limits(Facts):
    """What one request may bring."""

    audio_s: PositiveInt | None = None


class ModelCard(Facts):
    """One model: what it does, where its weights are, what it costs, how it is run."""

    name: Name
    title: str
    summary: str = ""
    task: Task
    family: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    license: str
    source: Source
    architecture: Architecture
    quantization: tuple[str, ...] = ()
    context_tokens: PositiveInt | None = None
    concurrency: PositiveInt = 1
    languages: tuple[str, ...] = ()
    converses: bool = False
    """For a model that sees: it answers any question itself, in a conversation."""
    speaks: bool = False
    """For a model that hears: it also says a text aloud."""
    system_prompt: str = ""
    chat_template: str = ""
    """Jinja, where the checkpoint's tokenizer brings none, or a wrong one."""
    sampling: SamplingDefaults = SamplingDefaults()
    limits: Limits = Limits()
    engine: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    priority: int = 0


class Profile(Facts):
    """Which card answers each task, inside which budget, on which kind of device."""

    name: Name
    title: str
    device: Literal["cpu", "cuda"]
    budget: ByteSize
    models: Mapping[Task, tuple[Name, ...]]
    """Per task, the cards this profile offers; the first one is the default."""

    def default(self, task: Task) -> str | None:
        names = self.models.get(task, ())
        return names[0] if names else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for names in self.models.values() for name in names)


class Catalog:
    """All cards and profiles found in folders, by name. Later folders win, so that a person's
    own card may replace one that was shipped."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._cards: dict[str, ModelCard] = {}
        self._profiles: dict[str, Profile] = {}
        for folder in folders:
            for path in sorted(folder.glob("cards/*/*.toml")):
                card = read_card(path)
                self._cards[card.name] = card
            for path in sorted(folder.glob("profiles/*.toml")):
                profile = read_profile(path)
                self._profiles[profile.name] = profile
        for profile in self._profiles.values():
            self._check(profile)

    @cached_property
    def cards(self) -> tuple[ModelCard, ...]:
        """Every card, by task, then by falling priority, then by name."""
        return tuple(
            sorted(self._cards.values(), key=lambda card: (card.task, -card.priority, card.name))
        )

    @property
    def profiles(self) -> tuple[Profile, ...]:
        return tuple(self._profiles.values())

    def card(self, name: str) -> ModelCard:
        if name not in self._cards:
            raise UnknownModelError(_no_such("model", name, self._cards))
        return self._cards[name]

    def profile(self, name: str) -> Profile:
        """The profile of that name, or of that TOML file."""
        if name.endswith(".toml"):
            profile = read_profile(Path(name))
            self._check(profile)
            return profile
        if name not in self._profiles:
            raise CardError(_no_such("profile", name, self._profiles))
        return self._profiles[name]

    def _check(self, profile: Profile) -> None:
        for task, names in profile.models.items():
            for name in names:
                if name not in self._cards:
                    raise CardError(
                        f"profile {profile.name}: " + _no_such("model", name, self._cards)
                    )
                if self._cards[name].task is not task:
                    raise CardError(
                        f"profile {profile.name}: {name} is listed under '{task}', "
                        f"but its card says '{self._cards[name].task}'"
                    )


_M = TypeVar("_M", bound=Facts)


def read_card(path: Path) -> ModelCard:
    """Parse and check one card. Raises CardError naming file, field and the likely spelling."""
    return _read(path, ModelCard)


def read_profile(path: Path) -> Profile:
    """Parse and check one profile. Raises CardError naming file, field and the likely spelling."""
    return _read(path, Profile)


def _read(path: Path, model: type[_M]) -> _M:
    try:
        facts = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CardError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path.name}: not valid TOML: {error}") from error
    try:
        return model.model_validate(facts)
    except ValidationError as error:
        raise CardError(f"{path.name}: {_first_fault(error, model)}") from error


def _first_fault(error: ValidationError, model: type[BaseModel]) -> str:
    # A misspelt field is also a missing one: the misspelling is what helps.
    fault: Any = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = ".".join(str(step) for step in fault["loc"] if step not in KINDS)
    if fault["type"] == "missing":
        return f"the field '{place}' is missing"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(fault["loc"][-1]), model.model_fields, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown field '{place}'{hint}"
    return f"{place}: {fault['msg']} (it says {fault['input']!r})"


def _no_such(kind: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"there is no {kind} '{name}'{hint} Known: {', '.join(sorted(known)) or 'none'}."
