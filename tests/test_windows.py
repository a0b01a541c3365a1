"""What Windows does otherwise than Linux, as far as Linux can show that it is borne."""

from __future__ import annotations

import ast
import codecs
import io
import threading
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pytest
from card_texts import CARD
from conftest import ROOT

from multimodal.catalog.cards import Catalog, read_card
from multimodal.cli.commands import replace_unprintable
from multimodal.doctor.torch_wheels import INDEX, TORCH, WHEELS
from multimodal.errors import CardError
from multimodal.web.launch import WAIT_S, wait_for_event
from multimodal.weights.quantized import FOLDER, QuantizationSettings

WORDS = "→ “Grüße”, 光合成は… ✓"


# ------------------------------------------------------------ signals


class WatchedEvent(threading.Event):
    """Notes how long it is waited for; set after so many times."""

    def __init__(self, set_after: int) -> None:
        super().__init__()
        self.waited_s: list[float] = []
        self._set_after = set_after

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "nothing interrupts this on Windows"
        self.waited_s.append(timeout)
        if len(self.waited_s) == self._set_after:
            self.set()
        return self.is_set()


def test_the_main_thread_waits_in_pieces_so_that_ctrl_c_is_heard_on_windows() -> None:
    stopped = WatchedEvent(set_after=50)
    assert wait_for_event(stopped, 3600.0)
    assert len(stopped.waited_s) == 50
    assert max(stopped.waited_s) <= WAIT_S <= 1


def test_a_wait_that_nothing_ends_takes_the_time_it_was_given() -> None:
    stopped = threading.Event()
    assert not wait_for_event(stopped, 0.01)
    stopped.set()
    assert wait_for_event(stopped, 0.0)


# ------------------------------------------------------------ text


def written(encoding: str, is_windows: bool) -> bytes:
    """What a file of that encoding holds after the words were printed to it."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    replace_unprintable((stream, None), is_windows)
    print(WORDS, file=stream, end="", flush=True)
    return buffer.getvalue()


def test_a_reply_in_any_language_goes_to_a_file_on_windows_as_utf8() -> None:
    assert written("cp1252", is_windows=True).decode() == WORDS


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf_8"])
def test_utf8_stays_as_it_is(encoding: str) -> None:
    assert written(encoding, is_windows=False).decode() == WORDS


def test_an_encoding_that_the_person_set_is_kept_elsewhere() -> None:
    assert written("iso-8859-1", is_windows=False).decode("iso-8859-1").startswith("? ?Grüße?, ")


def calls(source: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))


def test_what_other_programs_write_is_read_whatever_its_encoding() -> None:
    """A driver's tool and Windows' own messages are in its language's encoding, or an older one."""
    started = 0
    for path in sorted((ROOT / "multimodal").rglob("*.py")):
        for call in calls(path.read_text("utf-8")):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            if ast.unparse(call.func) in {"subprocess.run", "subprocess.Popen"}:
                started += 1
                assert "text" not in given or "errors" in given, f"{path}:{call.lineno}"
    assert started >= 4


def card(folder: Path, path: str) -> Path:
    """A card as Notepad writes it: a mark in front, and Windows' line ends."""
    text = CARD.replace('"/weights"', path).replace("\n", "\r\n")
    (folder / "tiny.toml").write_bytes(codecs.BOM_UTF8 + text.encode())
    return folder / "tiny.toml"


def test_a_card_of_notepad_with_a_path_of_windows_is_read(tmp_path: Path) -> None:
    read = read_card(card(tmp_path, r"'C:\models\my model.gguf'"))
    assert read.source.model_dump()["path"] == Path(r"C:\models\my model.gguf")


def test_a_path_between_the_wrong_quotes_says_which_are_right(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"not valid TOML: .*between single quotes$"):
        read_card(card(tmp_path, r'"C:\models\my model.gguf"'))


# ------------------------------------------------------------ names


HOME = r"C:\Users\A person of 20 char\AppData\Local\multimodal-chat\multimodal-chat\weights"
MOST_CHARACTERS = 259
"""Of a path, where Windows is set as it comes (MAX_PATH, less the zero at its end)."""
SHARD = r"text_encoder_2\model-00001-of-00005.safetensors.part"


def test_paths_of_weights_are_within_what_windows_allows() -> None:
    for card in Catalog([ROOT / "models"]).cards:
        saved = QuantizationSettings(
            kind="nf4-double",
            compute="bfloat16",
            model=card.base,
            source="",
            libraries={"bitsandbytes": "0.50.2", "transformers": "5.24.0"},
        )
        fetched = PureWindowsPath(HOME, card.base, SHARD)
        kept = PureWindowsPath(HOME, f"{card.base}{FOLDER}", f"{saved.folder_name}-01234567.part")
        assert len(str(fetched)) <= MOST_CHARACTERS
        assert len(str(kept / "model-00001-of-00005.safetensors")) <= MOST_CHARACTERS


@pytest.mark.parametrize("page", ["README.md", "docs/windows.md"])
def test_the_lines_for_windows_install_what_the_program_asks_for(page: str) -> None:
    newest = f"{INDEX}/{WHEELS[0].name}"
    assert f'pip install "{TORCH}" --index-url {newest}\n' in (ROOT / page).read_text("utf-8")
