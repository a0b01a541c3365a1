"""Options of `multimodal finetune`, made from the fields of `JobSettings`."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from multimodal.errors import SettingsError
from multimodal.studio.settings import JobSettings


def with_job_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field; it receives those that were given as `chosen`."""

    def run(**given: Any) -> None:
        fields = {name: given.pop(name) for name in JobSettings.model_fields}
        chosen = {name: value for name, value in fields.items() if value not in (None, [])}
        if "columns" in chosen:
            chosen["columns"] = dict(map(column_role, chosen["columns"]))
        command(chosen=chosen, **given)

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [
        *(_option(name, field) for name, field in JobSettings.model_fields.items()),
        *(p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != "chosen"),
    ]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def column_role(told: str) -> tuple[str, str]:
    """“question=prompt” in two. Raises SettingsError."""
    name, equals, role = told.rpartition("=")
    if not (name and equals and role):
        raise SettingsError(f"--columns {told}: write COLUMN=ROLE, such as question=prompt.")
    return name, role


def given_settings(file: Path | None, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of that TOML file, over which options win; not checked yet. Raises
    SettingsError."""
    if file is None:
        return dict(chosen)
    try:
        return tomllib.loads(file.read_text("utf-8-sig")) | dict(chosen)
    except OSError as error:
        raise SettingsError(f"{file} cannot be read ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file.name} is not valid TOML: {error}") from error


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """None where it is not given; values are checked by `JobSettings`."""
    kinds = {_plain(kind) for kind in (field.annotation, *get_args(field.annotation))}
    kind: Any = next((kind for kind in (bool, int, float, Path) if kind in kinds), str)
    if get_origin(field.annotation) in {tuple, Mapping}:
        kind = list[str]
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        flag += f"/--no-{flag.removeprefix('--')}"
    option = Annotated[kind | None, typer.Option(flag, help=_help(field), metavar=_metavar(field))]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)


def _plain(kind: Any) -> Any:
    """Without what is annotated to it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """What may be written, where that is one of a few words."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


def _metavar(field: FieldInfo) -> str | None:
    if get_origin(field.annotation) is Mapping:
        return "COLUMN=ROLE"
    return "|".join(_choices(field)) or None


def _help(field: FieldInfo) -> str:
    """With the usual value."""
    told = field.description or ""
    usual = field.default
    if field.is_required() or usual in (None, False, ()) or field.default_factory is not None:
        return told
    return f"{told} ({usual})"
