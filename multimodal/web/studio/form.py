"""The form of a new job: which fields it has, and what a person filled in as `JobSettings`.

A field is declared once, in `JobSettings`: its choices, its default and what it is for come from
there. What is left empty is left to the default, so that the command stays short.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import ValidationError

from multimodal.errors import RequestError, SettingsError
from multimodal.studio.settings import (
    CHATS,
    HUB,
    SHARED_METHODS,
    JobSettings,
    Reward,
    Role,
    job_settings,
)

Kind = Literal["number", "text", "choice", "switch", "several"]
Fields = Mapping[str, str | bool | list[str]]
"""What the browser sends: the values of the form's fields by their names."""

METHODS: dict[str, tuple[str, str]] = {
    "lora": (
        "LoRA",
        "Learns from texts or from questions with answers; trains a small adapter beside the "
        "model, which stays as it is.",
    ),
    "qlora": (
        "QLoRA",
        "The same with the model kept in 4 bits: for models that would not fit otherwise, a "
        "little slower.",
    ),
    "full": (
        "Full",
        "Changes every weight of the model: learns most and takes most memory; for small models "
        "and much data.",
    ),
    "dpo": ("DPO", "Learns from pairs of answers, of which one was preferred to the other."),
    "kto": ("KTO", "Learns from single answers that were rated good or bad, such as thumbs."),
    "reward": (
        "Reward model",
        "Teaches a judge that says how good an answer is, from pairs of answers.",
    ),
    "grpo": (
        "GRPO",
        "Lets the model answer prompts several times and reinforces what a reward counts as good.",
    ),
    "classify": (
        "Picture classifier",
        "Learns to tell classes of pictures apart, from a folder for each; begins with a "
        "classifier, or from scratch.",
    ),
    "diffusion": (
        "Diffusion",
        "Learns to draw small pictures like yours, from scratch: of each class that has a folder, "
        "or of one style.",
    ),
    "style": (
        "Stable Diffusion",
        "Learns a style or a subject from pictures with captions; trains a small adapter beside a "
        "model that draws, which stays as it is.",
    ),
    "transcribe": (
        "Speech recognizer",
        "Learns names, terms and voices that it mishears, from recordings with what is said in "
        "them.",
    ),
    "describe": (
        "Model that sees",
        "Learns what to say of pictures, from captions or from questions with answers; trains a "
        "small adapter beside the model, which stays as it is.",
    ),
}
PREFERENCE = frozenset({"dpo", "kto", "grpo"})
ADAPTERS = frozenset({"lora", "qlora", "dpo", "kto", "reward", "grpo", "style"})
SUPERVISED = frozenset({"lora", "qlora", "full"})
ALL = frozenset(METHODS)
CLASSIFY = frozenset({"classify"})
DIFFUSION = frozenset({"diffusion"})
STYLE = frozenset({"style"})
PICTURES = CLASSIFY | DIFFUSION | STYLE
TRANSCRIBE = frozenset({"transcribe"})
DESCRIBE = frozenset({"describe"})
TEXT = ALL - PICTURES - TRANSCRIBE - DESCRIBE
LORA = ADAPTERS | TRANSCRIBE | DESCRIBE
SHAPES: dict[str, str] = {
    **dict.fromkeys(
        SUPERVISED,
        ".txt with one sample a line; .csv or .parquet with a column text; .jsonl with text, with "
        "prompt and completion, or with messages.",
    ),
    **dict.fromkeys(
        ("dpo", "reward"), ".jsonl, .csv or .parquet with prompt, chosen and rejected."
    ),
    "kto": ".jsonl, .csv or .parquet with prompt, completion and label (true or false).",
    "grpo": ".jsonl, .csv or .parquet with prompt; with answer, where the reward compares.",
    "classify": ".zip of a folder with a folder of pictures for each class, as cat/1.jpg and "
    "dog/1.jpg, or with those below train and test.",
    "diffusion": ".zip of a folder with a folder of pictures for each class, or of pictures alone.",
    "style": ".zip of a folder of pictures, each beside its caption (1.jpg and 1.txt), or named in "
    "a metadata.csv with file_name and text; or with those below train and test.",
    "transcribe": ".zip of a folder of recordings, each beside its text (1.wav and 1.txt), or "
    "named in a metadata.csv with file_name and text; or with those below train and test.",
    "describe": ".zip of a folder of pictures, each beside its caption (1.jpg and 1.txt), or named "
    "in a metadata.csv with file_name and text, and question where something is asked; or with "
    "those below train and test.",
}
"""What data a method learns from."""


@dataclass(frozen=True, slots=True)
class Field:
    """One input. `methods`: those that have it; `is_own`: only for who runs this machine."""

    name: str
    label: str
    kind: Kind = "number"
    methods: frozenset[str] = ALL
    is_own: bool = False

    @property
    def help(self) -> str:
        return JobSettings.model_fields[self.name].description or ""

    @property
    def default(self) -> Any:
        return JobSettings.model_fields[self.name].default

    @property
    def shown_default(self) -> str:
        """What stands in the empty input."""
        return "automatic" if self.default is None else f"{self.default:g}"

    @property
    def choices(self) -> tuple[str, ...]:
        if self.name == "rewards":
            return get_args(Reward)
        if self.name in THREE_STATES:
            return ("on", "off")
        return get_args(JobSettings.model_fields[self.name].annotation)


IMPORTANT = (
    Field("epochs", "Epochs"),
    Field("learning_rate", "Learning rate"),
    Field("batch", "Batch"),
    Field("accumulation", "Accumulation"),
    Field("max_length", "Longest sample (tokens)", methods=TEXT | DESCRIBE),
    Field("lora_rank", "LoRA rank", methods=LORA),
    Field("beta", "Beta", methods=PREFERENCE),
    Field("rewards", "Rewards", "several", frozenset({"grpo"})),
    Field("augmentation", "Vary pictures by", "choice", PICTURES),
    Field("resolution", "Pixels on a side", methods=DIFFUSION | STYLE),
    Field("language", "Language (as en)", "text", TRANSCRIBE),
    Field("trained_weights", "Weights that are trained", "choice", TRANSCRIBE),
    Field("four_bits", "Keep the model in 4 bits", "switch", DESCRIBE),
)
OTHERS = (
    Field("test_share", "Held out (share)"),
    Field("seed", "Seed"),
    Field("max_steps", "Most updates"),
    Field("scheduler", "Scheduler", "choice"),
    Field("warmup_share", "Warm-up (share)"),
    Field("weight_decay", "Weight decay"),
    Field("optimizer", "Optimizer", "choice"),
    Field("precision", "Precision", "choice"),
    Field("devices", "Graphics cards that share the batches", methods=SHARED_METHODS),
    Field("lora_alpha", "LoRA alpha", methods=LORA),
    Field("lora_dropout", "LoRA dropout", methods=LORA),
    Field("evaluate_every", "Evaluate every (updates)"),
    Field("save_every", "Checkpoint every (updates)"),
    Field("patience", "Patience (evaluations)"),
    Field("generations", "Answers to each prompt", methods=frozenset({"grpo"})),
    Field("answer_tokens", "Longest answer (tokens)", methods=frozenset({"grpo"})),
    Field("answer_words", "Words that the reward for length aims at", methods=frozenset({"grpo"})),
    Field("loss_on", "Learn from", "choice", SUPERVISED),
    Field("columns", "Columns", "text", TEXT),
    Field("packing", "Packing", "switch", SUPERVISED),
    Field("gradient_checkpointing", "Gradient checkpointing", "choice"),
    Field("offload", "Use host memory, too", "switch", TEXT),
    Field("may_shorten", "May shorten samples", "switch", TEXT),
    Field("reward_file", "Reward file", "text", frozenset({"grpo"}), is_own=True),
    Field("run_code", "Run the reward file", "switch", frozenset({"grpo"}), is_own=True),
)
FIELDS = {field.name: field for field in (*IMPORTANT, *OTHERS)}
ROLES: tuple[str, ...] = get_args(Role)
THREE_STATES = frozenset({"gradient_checkpointing"})
"""On, off, or as the program chooses."""


class FormError(RequestError):
    """What is wrong with the form: a sentence by the name of each field."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__(next(iter(faults.values()), ""))
        self.faults = dict(faults)


def read_form(fields: Fields, data: str, is_own: bool) -> JobSettings:
    """The job of a form whose data is called `data`. `is_own`: who asks runs this machine.
    Raises FormError."""
    method = str(fields.get("method") or "lora")
    faults: dict[str, str] = {}
    given: dict[str, Any] = {
        "name": str(fields.get("name") or "").strip(),
        "model": str(fields.get("model") or ""),
        "method": method,
        "data": data,
    }
    for field in FIELDS.values():
        if method not in field.methods or (field.is_own and not is_own):
            continue
        try:
            given |= _given(field, fields.get(field.name, ""))
        except RequestError as error:
            faults[field.name] = str(error)
    try:
        settings = JobSettings.model_validate({k: v for k, v in given.items() if v != ""})
    except ValidationError as error:
        faults = _faults(error) | faults
    if faults:
        raise FormError(faults)
    return settings


def fields_of(settings: JobSettings) -> dict[str, str | bool | list[str]]:
    """The form that these settings fill in; what is as by default stays empty."""
    kept = settings.model_dump(mode="json", exclude_defaults=True)
    shown = {field.name: _shown(field, kept.get(field.name)) for field in FIELDS.values()}
    named = {"name": settings.name, "model": settings.model, "method": settings.method}
    return {**shown, **named, **_source(settings.data)}


def read_toml(text: str) -> dict[str, str | bool | list[str]]:
    """The form of a job's TOML file. Raises RequestError."""
    try:
        return fields_of(job_settings(tomllib.loads(text)))
    except (tomllib.TOMLDecodeError, SettingsError) as error:
        raise RequestError(f"These are no settings of a job: {error}") from error


def _source(data: str) -> dict[str, str | bool | list[str]]:
    if data == CHATS:
        return {"source": "chats"}
    if data.startswith(HUB):
        return {"source": "hub", "hub": data.removeprefix(HUB)}
    return {"source": "place", "place": data}


def _given(field: Field, value: str | bool | list[str]) -> dict[str, Any]:
    """What a field says of the settings; nothing where it is empty."""
    if field.name == "columns":
        found = dict(_columns(str(value)))
        return {"columns": found} if found else {}
    if field.name in THREE_STATES:
        return {field.name: value == "on"} if value else {}
    if isinstance(value, str):
        value = value.strip()
    return {field.name: value} if value not in ("", [], False) else {}


def _columns(text: str) -> Iterator[tuple[str, str]]:
    """The columns of “question=prompt, answer=completion”. Raises RequestError."""
    for pair in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        column, equals, role = (part.strip() for part in pair.rpartition("="))
        if not (column and equals and role in ROLES):
            raise RequestError(
                f"“{pair[:80]}” does not read COLUMN=ROLE. A role is one of {', '.join(ROLES)}."
            )
        yield column, role


def _shown(field: Field, value: Any) -> str | bool | list[str]:
    match value:
        case None if field.kind == "switch":
            return False
        case None if field.kind == "several":
            return []
        case None:
            return ""
        case dict():
            return ", ".join(f"{column}={role}" for column, role in value.items())
        case bool() if field.kind != "switch":
            return "on" if value else "off"
        case bool() | list():
            return value
    return str(value)


def _faults(error: ValidationError) -> dict[str, str]:
    return {
        str(fault["loc"][0]) if fault["loc"] else "reward_file": _sentence(fault)
        for fault in reversed(error.errors())
    }


def _sentence(fault: Any) -> str:
    """What pydantic found, in the words of a form."""
    limits = fault.get("ctx") or {}
    match fault["type"]:
        case "missing":
            return _MISSING.get(str(fault["loc"][0]), "Fill this in.")
        case "int_parsing" | "int_from_float":
            return "Write a whole number."
        case "float_parsing":
            return "Write a number such as 0.1."
        case "greater_than":
            return f"Must be greater than {limits['gt']:g}."
        case "greater_than_equal":
            return f"Must be {limits['ge']:g} or more."
        case "less_than":
            return f"Must be less than {limits['lt']:g}."
        case "less_than_equal":
            return f"Must be {limits['le']:g} or less."
        case "string_pattern_mismatch":
            return "Use small letters, digits, dots and dashes, beginning with a letter or digit."
        case "literal_error":
            return f"Choose one of {limits['expected']}."
    sentence = str(fault["msg"]).removeprefix("Value error, ")
    return f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}."


_MISSING = {
    "name": "Give the result a name.",
    "model": "Choose the model to begin with.",
    "data": "Choose what it is to learn from.",
}
