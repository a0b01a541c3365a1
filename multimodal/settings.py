"""How the program was started: the only reader of the environment, and the defaults.

Each option of the command line is also read from MULTIMODAL_<NAME>; the command line wins.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import ByteSize, Field, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from multimodal.errors import SettingsError
from multimodal.paths import expand_home

APP = "multimodal-chat"
SIMULATED = "sim:"
SECRET_BYTES = 32
LOGIN_VARIABLES = {"MULTIMODAL_AUTH": "auth", "MULTIMODAL_AUTH_FILE": "auth_file"}

_byte_size = TypeAdapter(ByteSize)


class CommonSettings(BaseSettings):
    """Settings of every command that plans or runs models.

    A field is the whole declaration of a setting: its name is that of the option and of the
    environment variable, its description the option's help, and a boolean that is true by default
    is switched off by --no-NAME.
    """

    model_config = SettingsConfigDict(
        env_prefix="MULTIMODAL_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    profile: str = Field(
        "auto", description="auto, embedded, another profile's name, or a TOML file."
    )
    budget: ByteSize | None = Field(None, gt=0, description="Memory for all models, such as 12GB.")
    device: str = Field("auto", description="auto, cpu, cuda, or a simulated sim:12GB.")
    data: Path = Field(
        default_factory=lambda: platformdirs.user_data_path(APP),
        description="Folder that everything is written to.",
    )
    weights: Path | None = Field(None, description="Folder of the weights (DATA/weights).")
    models: Path | None = Field(None, description="A folder with more cards and profiles.")
    offline: bool = Field(False, description="Fetch nothing.")
    quantized_checkpoints: ByteSize = Field(
        ByteSize(40_000_000_000),
        ge=0,
        description="Disk for models saved in 4 or 8 bits, which start sooner (40GB); 0: none.",
    )
    upgrade: bool = Field(True, description="Fetch better models behind the first ones.")


class Settings(CommonSettings):
    """Checked settings, those of the server as well; made by `read_settings`."""

    calibrate: bool = Field(True, description="Measure an NVIDIA card before its first use.")
    host: str = Field("127.0.0.1", description="Address to listen on (127.0.0.1).")
    port: int = Field(
        7860, ge=0, le=65535, description="Port to listen on (7860); 0 takes a free one."
    )
    share: bool = Field(False, description="Make a public Gradio link.")
    auth: str | None = Field(None, description="USER:PASSWORD that visitors must give.")
    auth_file: Path | None = Field(None, description="File with one USER:PASSWORD a line.")
    allow_origin: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="An address such as https://chat.example that this is reached by, too."
    )
    database: str | None = Field(None, description="SQLAlchemy URL for the conversations.")

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if value in {"auto", "cpu", "cuda"}:
            return value
        if value.startswith(SIMULATED) and _bytes(value.removeprefix(SIMULATED)) > 0:
            return value
        raise ValueError("choose auto, cpu, cuda, or a simulated card such as sim:12GB")

    @field_validator("allow_origin", mode="before")
    @classmethod
    def _separated(cls, value: Any) -> Any:
        """In the environment, several are separated by spaces."""
        return value.split() if isinstance(value, str) else value

    @field_validator("profile")
    @classmethod
    def _name_or_path(cls, value: str) -> str:
        return str(expand_home(Path(value))) if value.endswith(".toml") else value

    @field_validator("data", "weights", "models", "auth_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else expand_home(value).absolute()

    @property
    def weights_folder(self) -> Path:
        return self.weights or self.data / "weights"

    @property
    def media_folder(self) -> Path:
        return self.data / "media"

    @property
    def jobs_folder(self) -> Path:
        return self.data / "studio" / "jobs"

    @property
    def page_cache(self) -> Path:
        return self.data / "page-cache"

    @property
    def database_url(self) -> str:
        if self.database:
            return self.database
        from sqlalchemy import URL  # takes a fifth of a second, which `--help` need not wait

        address = URL.create("sqlite", database=str(self.data / "conversations.sqlite3"))
        return address.render_as_string()

    @property
    def device_kind(self) -> Literal["auto", "cpu", "cuda", "sim"]:
        if self.device.startswith(SIMULATED):
            return "sim"
        return self.device  # type: ignore[return-value]

    @property
    def simulated_bytes(self) -> int:
        return int(_byte_size.validate_python(self.device.removeprefix(SIMULATED)))

    def logins(self) -> dict[str, str]:
        """User names and passwords; empty when the page is open to everyone who reaches it.

        A password may hold colons. Lines of --auth-file that are blank or begin with # say nothing.
        Raises SettingsError where an option was given and nobody could log in by it.
        """
        pairs = [_login("--auth", self.auth)] if self.auth is not None else []
        if self.auth_file is not None:
            pairs += _logins_in(self.auth_file)
        logins: dict[str, str] = {}
        for user, password in pairs:
            if user in logins:
                raise SettingsError(
                    f"The logins name “{user}” twice. Leave the one whose password counts."
                )
            logins[user] = password
        return logins


def _login(place: str, line: str) -> tuple[str, str]:
    """The user and the password of one line; `place` names it, since a password is never shown."""
    user, _, password = line.strip().partition(":")
    if not (user.strip() and password):
        raise SettingsError(f"{place} must read USER:PASSWORD, neither of them empty.")
    return user.strip(), password


def _logins_in(path: Path) -> list[tuple[str, str]]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"--auth-file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"--auth-file {path}: not UTF-8 text.") from error
    if "\0" in text:  # UTF-16 without its mark decodes, with a zero beside every letter
        raise SettingsError(f"--auth-file {path}: not UTF-8 text.")
    lines = enumerate(text.split("\n"), start=1)
    said = [(n, line) for n, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not said:
        raise SettingsError(
            f"--auth-file {path} names nobody, so the page would be open to everybody. Write one "
            "USER:PASSWORD a line into it, or leave the option out."
        )
    return [_login(f"Line {n} of --auth-file {path}", line) for n, line in said]


def read_settings(**given: Any) -> Settings:
    """Settings from the environment, overridden by those of `given` that are not None.

    Raises SettingsError naming the option and the way out.
    """
    _refuse_empty_logins(given)
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][0]).replace("_", "-")
        reason = fault["msg"].removeprefix("Value error, ").removeprefix(f"{fault['input']}: ")
        if fault["type"].startswith("byte_size"):
            reason = "write a size such as 12GB"
        raise SettingsError(f"--{option} {fault['input']}: {reason}.") from error


def _refuse_empty_logins(given: Mapping[str, Any]) -> None:
    """Any other variable that is empty counts as unset; one of these would open the page."""
    for name, value in os.environ.items():
        option = LOGIN_VARIABLES.get(name.upper(), "")
        if option and not value.strip() and given.get(option) is None:
            raise SettingsError(
                f"{name} is set and empty, so the page would be open to everybody. Give it a "
                "value, or unset it."
            )


def page_secret(settings: Settings) -> str:
    """What browsers encrypt their own notes with; the same for a data folder, so that they keep
    their conversations. Gradio writes it into every page, so it guards nothing on the server."""
    return hashlib.sha256(_folder_secret(settings)).hexdigest()


def media_secret(settings: Settings) -> str:
    """The key of the addresses of media, 32 bytes in hexadecimal digits; the same for a data
    folder. It never leaves the server and does not follow from `page_secret`."""
    return hmac.new(_folder_secret(settings), b"addresses of media", hashlib.sha256).hexdigest()


def _folder_secret(settings: Settings) -> bytes:
    """Random bytes that are made once for a data folder."""
    path = settings.data / "secret"
    if not path.exists() or path.stat().st_size < SECRET_BYTES:  # anybody knows an empty one
        fresh = path.with_name(f".secret-{secrets.token_hex(4)}")
        fresh.touch(0o600)
        fresh.write_text(secrets.token_hex(SECRET_BYTES), "utf-8")
        fresh.replace(path)
    return path.read_bytes()


def byte_size(option: str, size: str) -> int:
    """“12GB” in bytes. Raises SettingsError naming the option."""
    if (found := _bytes(size)) <= 0:
        raise SettingsError(f"--{option} {size}: write a size such as 12GB.")
    return found


def _bytes(size: str) -> int:
    try:
        return int(_byte_size.validate_python(size))
    except ValidationError:
        return 0
