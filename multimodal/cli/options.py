"""Options of the command line, made from the fields of `Settings`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from multimodal.errors import ConfigurationError, MultimodalError, RequestError
from multimodal.settings import Settings, read_settings


def with_settings(
    *names: str, **renamed: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these settings; it receives all settings as `settings`, read
    and checked. `renamed`: options of other names than their settings, where the command has one
    of that name itself. An error of the program ends the command with one line and its exit status.
    """
    options = {name: name for name in names} | renamed

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            chosen = {
                setting: value if (value := given.pop(option)) != [] else None
                for option, setting in options.items()
            }
            try:
                command(settings=read_settings(**chosen), **given)
            except MultimodalError as error:
                print(f"multimodal: {error}", file=sys.stderr)
                is_misuse = isinstance(error, ConfigurationError | RequestError)
                raise typer.Exit(2 if is_misuse else 1) from error

        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [
            *(p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != "settings"),
            *(_option(*pair) for pair in options.items()),
        ]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _option(name: str, setting: str) -> inspect.Parameter:
    """None where the option is not given: the environment is read then, or the default holds."""
    field = Settings.model_fields[setting]
    kinds = field.annotation, *get_args(field.annotation)
    kind: Any = next((kind for kind in (bool, int, Path) if kind in kinds), str)
    if get_origin(field.annotation) is tuple:
        kind = list[kind]
    flag = f"--{name.replace('_', '-')}"
    if field.default is True:
        flag += f"/--no-{flag.removeprefix('--')}"
    option = Annotated[kind | None, typer.Option(flag, help=field.description)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
