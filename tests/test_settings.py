"""How the program is started: options before environment before defaults, refused in sentences."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from multimodal.errors import SettingsError
from multimodal.settings import Settings, page_secret, read_settings

SHOW = (
    "from multimodal.settings import read_settings\n"
    "s = read_settings(port={port})\n"
    "print(s.port, s.budget, s.offline, s.profile)"
)


def started(port: int | None = None, **environment: str) -> str:
    """What a fresh process with that environment reads."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith("MULTIMODAL_")}
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(port=port)],
        env={**kept, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.splitlines()[-1]


def test_an_option_wins_over_the_environment_and_that_over_the_default() -> None:
    assert started() == "7860 None False auto"
    environment = {"MULTIMODAL_PORT": "80", "MULTIMODAL_BUDGET": "12GB", "MULTIMODAL_OFFLINE": "1"}
    assert started(**environment) == "80 12000000000 True auto"
    assert started(port=90, **environment).startswith("90 ")


def test_an_empty_variable_counts_as_unset() -> None:
    assert started(MULTIMODAL_PORT="", MULTIMODAL_BUDGET="") == "7860 None False auto"


def test_a_wrong_variable_is_named() -> None:
    assert "SettingsError: --port many: " in started(MULTIMODAL_PORT="many")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"device": "tpu"}, "--device tpu: choose auto, cpu, cuda, or a simulated card"),
        ({"device": "sim:much"}, "--device sim:much: choose"),
        ({"device": "sim:0"}, "--device sim:0: choose"),
        ({"device": "sim:"}, "--device sim:: choose"),
        ({"budget": "lots"}, "--budget lots: write a size such as 12GB."),
        ({"budget": 0}, "--budget 0: "),
        ({"budget": "-5GB"}, "--budget -5GB: write a size"),
        ({"port": 70000}, "--port 70000: "),
        ({"port": -1}, "--port -1: "),
        ({"data": "~nobody-here/x"}, "--data ~nobody-here/x: there is no such home folder."),
        ({"weights": "~nobody-here"}, "--weights ~nobody-here: there is no such home folder."),
        ({"models": "~nobody-here"}, "--models ~nobody-here: there is no such home folder."),
        ({"auth_file": "~nobody-here"}, "--auth-file ~nobody-here: there is no such home folder."),
        (
            {"profile": "~nobody-here/x.toml"},
            "--profile ~nobody-here/x.toml: there is no such home",
        ),
        ({"auth_fil": "x"}, "--auth-fil x: "),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(**given)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_sizes_are_read_in_the_units_people_write() -> None:
    assert read_settings(budget="12GB").budget == 12_000_000_000
    assert read_settings(budget="2GiB").budget == 2 * 2**30
    simulated = read_settings(device="sim:8GB")
    assert (simulated.device_kind, simulated.simulated_bytes) == ("sim", 8_000_000_000)
    assert read_settings(device="cpu").device_kind == "cpu"


def test_everything_written_goes_below_the_data_folder(tmp_path: Path) -> None:
    settings = read_settings(data=tmp_path)
    assert settings.weights_folder == tmp_path / "weights"
    assert settings.media_folder.is_relative_to(tmp_path)
    assert settings.page_cache.is_relative_to(tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/conversations.sqlite3"
    elsewhere = read_settings(data=tmp_path, weights=tmp_path / "w", database="sqlite://")
    assert (elsewhere.weights_folder, elsewhere.database_url) == (tmp_path / "w", "sqlite://")


def test_folders_are_absolute_whatever_was_typed() -> None:
    assert read_settings(data="some/folder").data == Path.cwd() / "some" / "folder"
    assert read_settings(data="~/chats").data == Path.home() / "chats"


def test_settings_cannot_change_after_the_start() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().port = 1


def logins_of(tmp_path: Path, content: bytes) -> dict[str, str]:
    (tmp_path / "logins").write_bytes(content)
    return read_settings(auth_file=tmp_path / "logins").logins()


def test_logins_come_from_the_option_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "logins"
    file.write_text("# who may come in\nann:a:b\n\n  bob:secret  \n", "utf-8")
    settings = read_settings(auth="eve:apple", auth_file=file)
    assert settings.logins() == {"eve": "apple", "ann": "a:b", "bob": "secret"}
    assert read_settings().logins() == {}


def test_what_an_editor_leaves_in_a_file_of_logins_locks_nobody_out(tmp_path: Path) -> None:
    for content in (b"\xef\xbb\xbfann:x\nbob:y\n", b"ann:x\r\nbob:y\r\n", b"ann :x\nbob:y"):
        assert logins_of(tmp_path, content) == {"ann": "x", "bob": "y"}
    strange = "ann:a\u2028b\x1cc\u0085d"  # some programs end a line at these; an editor does not
    assert logins_of(tmp_path, strange.encode()) == {"ann": "a\u2028b\x1cc\u0085d"}


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\xef\xbb\xbf", b"# nobody yet\n"])
def test_a_file_of_logins_that_names_nobody_opens_nothing(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SettingsError, match=r"logins names nobody.*open to everybody") as caught:
        logins_of(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["", "  ", ":", "ann", "ann:", "ann:  ", ":secret", "ann secret"])
def test_a_login_without_user_or_password_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match="USER:PASSWORD") as caught:
        read_settings(auth=line).logins()
    assert "secret" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"names nobody|Line 2 .*USER:PASSWORD") as caught:
        logins_of(tmp_path, f"\n{line}\n".encode())
    assert "secret" not in str(caught.value)


def test_a_user_who_is_named_twice_is_told_which(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="“ann” twice") as caught:
        logins_of(tmp_path, b"ann:pear\nbob:plum\nann:fig")
    assert "pear" not in str(caught.value)
    with pytest.raises(SettingsError, match="“ann” twice"):
        read_settings(auth="ann:other", auth_file=tmp_path / "logins").logins()


@pytest.mark.parametrize("name", ["MULTIMODAL_AUTH", "MULTIMODAL_AUTH_FILE", "multimodal_auth"])
def test_a_login_from_an_empty_variable_is_refused_and_not_dropped(name: str) -> None:
    """`MULTIMODAL_AUTH=$PASSWORDS` where that is unset would open the page to everybody."""
    told = started(**{name: ""})
    assert "SettingsError: " in told
    assert f"{name} is set and empty" in told
    assert started(AUTH="") == "7860 None False auto", "that variable is another program's"


def test_an_unreadable_file_of_logins_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent: No such file"):
        read_settings(auth_file=tmp_path / "absent").logins()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError, match=r"folder: Is a directory"):
        read_settings(auth_file=tmp_path / "folder").logins()
    for content in (b"\xff\xfe\x00", "ann:x".encode("utf-16-le"), "é:x".encode("latin-1")):
        with pytest.raises(SettingsError, match=r"logins: not UTF-8"):
            logins_of(tmp_path, content)


def test_the_secret_of_a_folder_stays_and_is_the_owners_alone(tmp_path: Path) -> None:
    settings: Settings = read_settings(data=tmp_path)
    first = page_secret(settings)
    assert page_secret(settings) == first
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    (tmp_path / "secret").write_bytes(b"")
    assert page_secret(settings) != first, "a secret that was emptied is none"
    assert (tmp_path / "secret").stat().st_size == 64
    (tmp_path / "other").mkdir()
    assert page_secret(read_settings(data=tmp_path / "other")) != first
