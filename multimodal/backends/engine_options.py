"""What a card may say under `engine`: each family has a pydantic model of it, in a module that
imports no engine, so that a misspelt option is found when the card is read."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from multimodal.backends.registry import FAMILIES, find_family, import_object
from multimodal.catalog.architectures import StrictModel
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.errors import CardError


class EngineOptions(StrictModel):
    """The base of all, and what a family without options has. Nothing is converted: "3" and true
    are no numbers."""

    model_config = ConfigDict(strict=True)


Options = TypeVar("Options", bound=EngineOptions)


def parse_options(card: ModelCard, model: type[Options]) -> Options:
    """What `card` says, and the defaults of what it leaves out. Raises CardError."""
    try:
        return model.model_validate(dict(card.engine))
    except ValidationError as error:
        raise CardError(f"{card.name}: {_sentence(error, model, card.family)}") from error


def check_options(card: ModelCard) -> EngineOptions | None:
    """What `card` says, as its family declares it; None where the engine of another package
    declares no options and takes any. Raises CardError for what the family has no option for, or
    refuses."""
    family = find_family(card.family)
    model = None if family is None else import_object(family.options)
    return None if model is None else parse_options(card, model)


def default_language(card: ModelCard) -> str | None:
    """The option `language`: in which one an engine hears, writes and speaks unless it is asked
    for another. None for an engine without it, which finds out."""
    language: str | None = getattr(check_options(card), "language", None)
    return language


def check_catalog(catalog: Catalog) -> None:
    """`check_options` for every card of the program's own families; the module of another
    package's engine is not imported before it is used."""
    for card in catalog.cards:
        if card.family in FAMILIES:
            check_options(card)


def _sentence(error: ValidationError, model: type[EngineOptions], family: str) -> str:
    # A misspelling explains what else is wrong.
    fault: Any = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    if fault["type"] == "value_error":  # our own sentence, on options that exclude each other
        return str(fault["ctx"]["error"])
    name, known = fault["loc"][0], sorted(model.model_fields)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(name), known, n=1)
        names = ", ".join(f"engine.{option}" for option in known)
        hint = f"did you mean engine.{near[0]}?" if near else f"it has {names or 'none'}"
        return f"engine.{name} is no option of {family}; {hint}"
    allowed = _allowed(model.model_json_schema()["properties"][name]) or fault["msg"]
    return f"engine.{name} is {fault['input']!r}; write {allowed}, or leave it out"


def _allowed(schema: dict[str, Any]) -> str | None:
    """The values that the JSON schema of an option allows, in words."""
    match schema:
        case {"enum": names}:
            return " or ".join(map(repr, names))
        case {"type": "integer", "minimum": least}:
            return f"a whole number of at least {least}"
        case {"type": "number", "minimum": least, "maximum": most}:
            return f"a number from {least} to {most}"
        case {"type": "string"}:
            return "a text between quotation marks"
    return None
