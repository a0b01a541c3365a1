"""Each setting is declared once: its option, its help and its environment variable follow."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from multimodal.cli.commands import app
from multimodal.cli.options import with_settings
from multimodal.settings import CommonSettings, Settings

VALUES = {
    **dict.fromkeys(("budget", "quantized_checkpoints"), "7GB"),
    **{"device": "cpu", "port": "7", "database": "sqlite://", "auth": "ann:x"},
}
UNSET = {f"MULTIMODAL_{name.upper()}": None for name in Settings.model_fields}
OWN = typer.Typer()


@OWN.command()
@with_settings(*Settings.model_fields)
def show(settings: Settings) -> None:
    print(settings.model_dump_json())


def help_of(command: str) -> dict[str, Any]:
    group: Any = get_command(app)
    return {option.name: getattr(option, "help", "") for option in group.commands[command].params}


def shown(*arguments: str, **environment: str) -> str:
    done = CliRunner().invoke(OWN, arguments, env={**UNSET, **environment})
    assert done.exit_code == 0, done.output
    return done.output


def test_every_setting_is_an_option_of_the_server_and_says_what_it_is() -> None:
    told = {name: field.description for name, field in Settings.model_fields.items()}
    assert help_of("serve") == told
    assert all(told.values())


@pytest.mark.parametrize("command", ["models", "fit", "doctor", "chat"])
def test_every_common_setting_is_an_option_of_each_command(command: str) -> None:
    assert help_of(command).keys() >= CommonSettings.model_fields.keys()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_option_and_its_environment_variable_say_the_same(name: str) -> None:
    field, option = Settings.model_fields[name], f"--{name.replace('_', '-')}"
    variable = f"MULTIMODAL_{name.upper()}"
    if field.annotation is bool:
        usual = field.default is True
        given = shown(f"--no{option[1:]}" if usual else option)
        named = shown(**{variable: "0" if usual else "1"})
    else:
        value = VALUES.get(name, "/there")
        given, named = shown(option, value), shown(**{variable: value})
    assert given == named != shown()


def test_an_option_that_is_given_twice_holds_both() -> None:
    both = shown("--allow-origin", "https://a", "--allow-origin", "https://b")
    assert both == shown(MULTIMODAL_ALLOW_ORIGIN="https://a https://b")
