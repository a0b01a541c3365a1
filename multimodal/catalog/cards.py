"""Model cards, profiles and the catalog that holds them: facts in TOML, checked by pydantic.

Adding a model is adding one card. No code asks for a model by its name.
"""

from __future__ import annotations

import difflib
import logging
import threading
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from multimodal.catalog.architectures import Architecture, CardLimits, PictureInput, StrictModel
from multimodal.catalog.sources import LocalPath, Source, UrlSource, comes_from
from multimodal.errors import CardError, UnknownModelError
from multimodal.messages import Task

log = logging.getLogger(__name__)


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


ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, as PEFT names them."""
KINDS = {
    *("measured", "modules", "gguf"),
    *("files", "wheels", "folder", "package", "hub", "file", "parts", "untrained"),
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


def _check_alias(name: str) -> str:
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
    AfterValidator(_check_alias),
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
    base_model: Choice | None = None
    """For a model that was fine-tuned here: the card that it began with."""
    adapter: LocalPath | None = None
    """The folder of a PEFT adapter (`ADAPTER_CONFIG`, `ADAPTER_WEIGHTS`). The weights are those of
    `base_model`, and so is everything under `BASE_FACTS`."""

    @model_validator(mode="after")
    def _adapter_has_a_base(self) -> Self:
        if self.adapter is not None and self.base_model is None:
            raise ValueError("an 'adapter' needs the 'base_model' that it belongs to")
        return self

    @property
    def base(self) -> str:
        """The name of the card that this one is a quantization of, or its own."""
        return ModelName.parse(self.name).base

    @property
    def weights_name(self) -> str:
        """The name under which its weights are kept: those of an adapter's base are never kept
        twice."""
        whose = self.name if self.adapter is None else self.base_model or self.name
        return ModelName.parse(whose).base

    @property
    def translates_to(self) -> tuple[str, ...]:
        return self.languages if "*" in self.translates else self.translates

    def variant(self, asked: ModelName) -> ModelCard:
        """The same model in the quantization and with the context that `asked` names. Raises
        UnknownModelError."""
        card = self.quantized(asked.quantization) if asked.quantization else self
        return card.shortened(asked.context) if asked.context else card

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


BASE_FACTS = (
    *("family", "source", "architecture", "quantization", "context_tokens", "concurrency"),
    *("chat_template", "engine", "device"),
)
"""What a card with an adapter takes from its base whatever it says itself, so that a base whose
facts change takes its adapters along."""


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
    own card may replace one that was shipped; the first folder is the shipped one.

    A fine-tuned model replaces nothing. Such cards come and go while the program runs; every method
    is thread-safe.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._lock = threading.Lock()
        self._profiles: dict[str, Profile] = {}
        cards: dict[str, ModelCard] = {}
        for place, folder in enumerate(folders):
            for path in sorted(folder.glob("cards/*/*.toml")):
                card = read_card(path)
                if place and comes_from(card.source, UrlSource):
                    raise CardError(
                        f"{path.name}: source: only shipped cards are fetched from an address; "
                        "fetch the file yourself and name its folder"
                    )
                if card.base_model is not None and card.name in cards:
                    log.warning("%s is left out: there is another model '%s'", path, card.name)
                else:
                    cards[card.name] = card
            for path in sorted(folder.glob("profiles/*.toml")):
                profile = read_profile(path)
                self._profiles[profile.name] = profile
        self._set(cards)
        for profile in self._profiles.values():
            self._check(profile)

    def _set(self, cards: Mapping[str, ModelCard]) -> None:
        """Take these in one step: whoever reads sees all of them or none."""
        self._cards = {name: _with_base_facts(card, cards) for name, card in cards.items()}
        self._finetuned = tuple(card for card in self._cards.values() if card.base_model)

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Every card, by task, then by falling priority, then by name."""
        return tuple(
            sorted(self._cards.values(), key=lambda card: (card.task, -card.priority, card.name))
        )

    @property
    def finetuned(self) -> tuple[ModelCard, ...]:
        """The cards with a `base_model`; the same tuple until one comes or goes."""
        return self._finetuned

    def add(self, card: ModelCard) -> None:
        """Add a fine-tuned model, in place of another one of that name. Raises CardError where the
        name is that of any other model."""
        with self._lock:
            known = self._cards.get(card.name)
            if known is not None and known.base_model is None:
                raise CardError(
                    f"'{card.name}' is the name of {known.title}, which a fine-tuned model cannot "
                    "replace; choose another name"
                )
            self._set({**self._cards, card.name: card})

    def remove(self, name: str) -> None:
        """Take a fine-tuned model out; no error for one that is not there."""
        with self._lock:
            known = self._cards.get(name)
            if known is not None and known.base_model is not None:
                self._set({it: card for it, card in self._cards.items() if it != name})

    @property
    def profiles(self) -> tuple[Profile, ...]:
        return tuple(self._profiles.values())

    def card(self, name: str) -> ModelCard:
        """The card of that name; "name:int8" is the same model in that quantization, "name@2048"
        with a context of that many tokens.

        Raises UnknownModelError with the likely spelling.
        """
        asked, cards = ModelName.parse(name), self._cards
        if asked.base not in cards:
            raise UnknownModelError(_no_such("model", asked.base, cards))
        return cards[asked.base].variant(asked)

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


def _with_base_facts(card: ModelCard, cards: Mapping[str, ModelCard]) -> ModelCard:
    base = cards.get(card.weights_name)
    if card.adapter is None or base is None or base.adapter is not None:
        return card
    return card.model_copy(update={fact: getattr(base, fact) for fact in BASE_FACTS})


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
