"""Model cards, profiles and the catalog that holds them: facts in TOML, checked by pydantic.

Adding a model is adding one card. No code asks for a model by its name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from multimodal.catalog.architectures import Architecture, CardLimits, PictureInput, StrictModel
from multimodal.catalog.sources import Source, UrlSource, comes_from
from multimodal.errors import CardError, UnknownModelError
from multimodal.messages import Task


class Voice(StrictModel):
    """A voice of a model for speech. `language`: the one it was recorded in, as BCP 47 (en-US);
    `also`: others that it speaks intelligibly, with an accent."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    title: str
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z][A-Za-z]+)?$")]
    also: tuple[str, ...] = ()
    file: str = ""
    """Where a voice is a table of its own: the file that holds it, below the card's folder."""

    @property
    def languages(self) -> tuple[str, ...]:
        """By ISO 639 codes, its own first."""
        return (self.language.partition("-")[0], *self.also)


def best_voice(voices: Iterable[Voice], language: str) -> Voice | None:
    """The first of those recorded in that language (ISO 639), else the first that speaks it."""
    able = [voice for voice in voices if language in voice.languages]
    return min(able, key=lambda voice: voice.languages.index(language) > 0, default=None)


KINDS = {
    *("measured", "modules", "gguf"),
    *("files", "wheels", "folder", "package", "hub", "file", "parts"),
}
"""Which of several tables a card has; pydantic names it beside the field, TOML does not."""


def first_fault(error: ValidationError, model: type[BaseModel]) -> str:
    """The fault that helps most, in one clause that names its place in the file."""
    # A misspelt field is also a missing one: the misspelling is what helps.
    fault: Any = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = _place(fault["loc"])
    if fault["type"] == "missing":
        return f"the field '{place}' is missing"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(fault["loc"][-1]), model.model_fields, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown field '{place}'{hint}"
    if fault["type"] == "value_error":  # our own sentence, which names what is wrong
        return f"{place}: {fault['msg'].removeprefix('Value error, ')}"
    return f"{place}: {fault['msg']} (it says {fault['input']!r})"


def _place(location: Iterable[str | int]) -> str:
    """Where a fault is, as TOML would name it: without the kinds of tables. A step that follows a
    kind is a field, even one that is called like a kind ("files" of a source of the kind "files").
    """
    steps: list[str] = []
    is_field = False
    for step in location:
        if step in KINDS and not is_field:
            is_field = True
            continue
        is_field = False
        steps.append(str(step))
    return ".".join(steps)


AUTO = "auto"
ALIASES = frozenset(
    {AUTO, "whisper-1", "dall-e-2", "dall-e-3", "gpt-image-1"}
    | {"tts-1", "tts-1-hd", "gpt-4o-mini-tts"}
)
"""What requests may name in place of a card: the router, or the default of a task. A card called so
would never be reached."""


WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
)
"""Names that Windows keeps for devices, with any ending."""


def _reachable(name: str) -> str:
    if name in ALIASES:
        raise ValueError(
            f"'{name}' leaves the choice to the program, so what is called so would never be "
            "reached; choose another name"
        )
    return name


def _names_a_folder(name: str) -> str:
    """Its weights lie in a folder called so, on Windows too."""
    if name.partition(".")[0] in WINDOWS_DEVICES or name.endswith("."):
        raise ValueError(
            f"'{name}' cannot be the name of a folder on Windows, where weights of that name would "
            "lie; choose another name"
        )
    return name


Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$"),
    AfterValidator(_reachable),
    AfterValidator(_names_a_folder),
]
Choice = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*(:[a-z0-9_-]+)?(@[1-9][0-9]{0,7})?$")
]
"""A card's name, one of its quantizations, a shorter context in tokens, or both:
"mistral-7b-instruct:int8@4096"."""
SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class ModelName:
    """What a `Choice` is made of; `quantization` and `context` are "" where it leaves them to the
    card."""

    base: str
    quantization: str = ""
    context: str = ""

    @classmethod
    def parse(cls, name: str) -> ModelName:
        name, _, context = name.partition("@")
        base, _, quantization = name.partition(":")
        return cls(base, quantization, context)

    def __str__(self) -> str:
        kind = f":{self.quantization}" if self.quantization else ""
        return f"{self.base}{kind}{f'@{self.context}' if self.context else ''}"


class SamplingDefaults(StrictModel):
    """How a model that writes is sampled unless the person says otherwise. What is left out is the
    model's own: what its authors published with it, or else plain sampling."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: PositiveInt | None = None
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=0.5, le=2)
    max_tokens: PositiveInt = 512
    stop: tuple[str, ...] = ()


Scheduler = Literal[
    "ddim", "pndm", "euler", "euler a", "dpm++ 2m", "dpm++ 2m karras", "unipc", "lcm"
]
"""How a diffusion model steps from noise to a picture, by the names people know."""


class DrawingDefaults(StrictModel):
    """How a model for pictures draws unless the person says otherwise."""

    steps: PositiveInt = 25
    guidance: float = Field(7.5, ge=0, le=30)
    """How closely the prompt is followed; 1 or less leaves out the pass without the prompt, and
    the negative prompt with it."""
    strength: float = Field(0.6, gt=0, le=1)
    """How much of a given picture is drawn anew."""
    width: PositiveInt | None = None
    height: PositiveInt | None = None
    """In pixels; what the checkpoint was trained for unless given."""
    max_pixels: PositiveInt = 1024 * 1024
    scheduler: Scheduler | None = None
    """The checkpoint's own unless given."""


class ModelCard(StrictModel):
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
    translates: tuple[str, ...] = ("en",)
    """For a model that hears: the languages in which it writes what is said in others; "*" stands
    for all of `languages`."""
    speaks: tuple[str, ...] = ()
    """For a model that hears: the languages in which it also says a text aloud."""
    voices: tuple[Voice, ...] = ()
    """For a model for speech: those it has, the first of a language being its usual one."""
    system_prompt: str = ""
    chat_template: str = ""
    """Jinja, where the checkpoint's tokenizer brings none, or a wrong one."""
    sampling: SamplingDefaults = SamplingDefaults()
    drawing: DrawingDefaults = DrawingDefaults()
    picture: PictureInput = PictureInput()
    limits: CardLimits = CardLimits()
    engine: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    device: Literal["any", "cpu"] = "any"
    """With "cpu" it is kept off a graphics card that its engine could use; engines that have no
    other are known (`backends/compute_device.py`)."""
    priority: int = 0

    @property
    def base(self) -> str:
        """The name of the card that this one is a quantization of, or its own."""
        return ModelName.parse(self.name).base

    @property
    def translates_to(self) -> tuple[str, ...]:
        return self.languages if "*" in self.translates else self.translates

    def quantized(self, kind: str) -> ModelCard:
        """The same model in another of the card's quantizations. Raises UnknownModelError."""
        if kind not in self.quantization:
            raise UnknownModelError(
                f"{self.title} is not offered in '{truncate(kind)}'. Known: "
                f"{', '.join(self.quantization)}."
            )
        changed = {"name": f"{self.base}:{kind}", "title": f"{self.title} ({kind})"}
        return self.model_copy(update={**changed, "quantization": (kind,)})

    def shortened(self, context: str) -> ModelCard:
        """The same model with a shorter context, in tokens. Raises UnknownModelError."""
        longest = self.context_tokens or 0
        if not context.isdecimal() or not 0 < int(context) <= longest:
            reads = f"at most {longest:,} tokens" if longest else "no tokens"
            raise UnknownModelError(f"{self.title} reads {reads}, not '{truncate(context)}'.")
        changed = {"name": f"{self.name}@{context}", "context_tokens": int(context)}
        return self.model_copy(update=changed)


class Profile(StrictModel):
    """Which card answers each task, inside which budget, on which kind of device."""

    name: Name
    title: str
    device: Literal["cpu", "cuda"]
    budget: ByteSize
    memory_share: float | None = Field(None, gt=0, le=1)
    """Where given, the budget grows to this share of the machine's memory ..."""
    largest_budget: ByteSize | None = None
    """... and no further than this."""
    models: Mapping[Task, tuple[Choice, ...]]
    """Per task, the cards this profile offers; the first one is the default."""
    upgrades: Mapping[Task, tuple[Choice, ...]] = Field(default_factory=dict)
    """Per task, the cards that may take over from the default once they are fetched, the one to be
    tried first in front: the first that fits, can be had and is quick enough here does."""

    def default_name(self, task: Task) -> str | None:
        names = self.models.get(task, ())
        return names[0] if names else None

    def budget_for(self, memory_bytes: int) -> int:
        """The budget in bytes on a machine with that much memory."""
        share = int((self.memory_share or 0) * memory_bytes)
        most = share if self.largest_budget is None else min(share, int(self.largest_budget))
        return max(int(self.budget), most)

    @property
    def defaults(self) -> tuple[str, ...]:
        """One card a task: what answers unless the person chooses another."""
        return tuple(names[0] for names in self.models.values() if names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for names in self.models.values() for name in names)


class Catalog:
    """All cards and profiles found in folders, by name. Later folders win, so that a person's
    own card may replace one that was shipped; the first folder is the shipped one."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._cards: dict[str, ModelCard] = {}
        self._profiles: dict[str, Profile] = {}
        for place, folder in enumerate(folders):
            for path in sorted(folder.glob("cards/*/*.toml")):
                card = read_card(path)
                if place and comes_from(card.source, UrlSource):
                    raise CardError(
                        f"{path.name}: source: only shipped cards are fetched from an address; "
                        "fetch the file yourself and name its folder"
                    )
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
        """The card of that name; "name:int8" is the same model in that quantization, "name@2048"
        with a context of that many tokens.

        Raises UnknownModelError with the likely spelling.
        """
        asked = ModelName.parse(name)
        if asked.base not in self._cards:
            raise UnknownModelError(_no_such("model", asked.base, self._cards))
        card = self._cards[asked.base]
        card = card.quantized(asked.quantization) if asked.quantization else card
        return card.shortened(asked.context) if asked.context else card

    def title(self, name: str) -> str:
        """How the card of that name is called; the name itself where there is none any more."""
        try:
            return self.card(name).title
        except UnknownModelError:
            return name

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
                try:
                    card = self.card(name)
                except UnknownModelError as error:
                    raise CardError(f"profile {profile.name}: {error}") from error
                if card.task is not task:
                    raise CardError(
                        f"profile {profile.name}: {name} is listed under '{task}', "
                        f"but its card says '{card.task}'"
                    )
        for task, names in profile.upgrades.items():
            for name in names:
                if name not in profile.models.get(task, ())[1:]:
                    raise CardError(
                        f"profile {profile.name}: the upgrade {name} is not among the models "
                        f"listed under '{task}' after the first"
                    )


_M = TypeVar("_M", bound=StrictModel)


def shipped_models() -> Path:
    """The folder `models/`: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent.parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def read_card(path: Path) -> ModelCard:
    """Parse and check one card. Raises CardError naming file, field and the likely spelling."""
    return _read(path, ModelCard)


def read_profile(path: Path) -> Profile:
    """Parse and check one profile. Raises CardError naming file, field and the likely spelling."""
    return _read(path, Profile)


def _read(path: Path, model: type[_M]) -> _M:
    try:
        facts = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise CardError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        way = "; write a path of Windows between single quotes" if "'\\'" in str(error) else ""
        raise CardError(f"{path.name}: not valid TOML: {error}{way}") from error
    try:
        return model.model_validate(facts)
    except ValidationError as error:
        raise CardError(f"{path.name}: {first_fault(error, model)}") from error


def truncate(name: str) -> str:
    """A name that somebody else chose, short enough to be said back."""
    return name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"


def _no_such(kind: str, name: str, known: Iterable[str]) -> str:
    name = truncate(name)
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"there is no {kind} '{name}'{hint} Known: {', '.join(sorted(known)) or 'none'}."
