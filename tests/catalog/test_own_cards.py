"""Cards and profiles as people write them: from editors that mark UTF-8, with paths of their home
or of one file, and with names that mean something else."""

from __future__ import annotations

import codecs
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_gguf
from card_texts import CARD, PROFILE, catalog_of
from conftest import ROOT
from fake_hub import FakeHub, card_for
from fake_hub import weights as fake_weights
from tiny_gguf import LANGUAGE_FILE, PROJECTOR_FILE, save_gguf
from tiny_seeing import save_llava

from multimodal.api import schemas, speech_synthesis
from multimodal.backends.base import load
from multimodal.backends.describer.labels import Vocabulary
from multimodal.backends.llama_cpp.gguf_files import gguf_files
from multimodal.catalog.cards import ALIASES, Catalog, ModelCard, read_card, read_profile
from multimodal.errors import CardError, WeightsError
from multimodal.memory.peaks import Peaks
from multimodal.settings import read_settings
from multimodal.weights import Weights
from multimodal.weights.fetch_context import PINNED, RECORD

WINDOWS_NOTEPAD = codecs.BOM_UTF8


def marked(path: Path, text: str | None = None) -> Path:
    """The file, or a copy of `text`, with the mark that some editors put in front of UTF-8."""
    content = path.read_bytes() if text is None else text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(WINDOWS_NOTEPAD + content)
    return path


def is_folder_read(folder: Path) -> bool:
    marked(folder / "cards/text/tiny.toml", CARD)
    marked(folder / "profiles/mine.toml", PROFILE)
    return Catalog([ROOT / "models", folder]).profile("mine").defaults == ("tiny",)


def is_option_read(folder: Path) -> bool:
    path = marked(folder / "mine.toml", PROFILE.replace("tiny", "phi-2"))
    return Catalog([ROOT / "models"]).profile(str(path)).name == "mine"


def are_labels_read(folder: Path) -> bool:
    labels = ROOT / "models/labels/imagenet-1k.tsv"
    copied = marked(Path(shutil.copy(labels, folder / "labels.tsv")))
    return Vocabulary.read(copied) == Vocabulary.read(labels)


READERS: dict[str, Callable[[Path], bool]] = {
    "card": lambda folder: read_card(marked(folder / "tiny.toml", CARD)).name == "tiny",
    "profile": lambda folder: read_profile(marked(folder / "mine.toml", PROFILE)).name == "mine",
    "profile of the option": is_option_read,
    "folder of cards": is_folder_read,
    "labels": are_labels_read,
    "peaks": lambda folder: (
        Peaks(marked(folder / "peaks.json", '{"a": 20}')).workspace("a", 0, 100) == 22
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_mark_in_front_of_utf8_is_no_fault(reader: str, tmp_path: Path) -> None:
    assert READERS[reader](tmp_path)


def test_marked_records_of_fetched_weights_are_read(hub: FakeHub, tmp_path: Path) -> None:
    """What lies beside the weights is written by this program, and may be saved in an editor."""
    card = card_for()
    folder = fake_weights(tmp_path, hub).ensure(card)
    marked(folder / RECORD)
    assert fake_weights(tmp_path, hub, offline=True).is_ready(card)
    (folder / RECORD).unlink()
    marked(folder / PINNED)
    assert fake_weights(tmp_path, hub, offline=True).ensure(card) == folder


# ------------------------------------------------------------ paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's home folder; the environment is where Python looks for it."""
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    return tmp_path


def of_path(folder: Path, path: str) -> ModelCard:
    return catalog_of(folder, CARD.replace("/weights", path)).card("tiny")


def test_weights_may_lie_below_the_persons_home(home: Path) -> None:
    (home / "gguf").mkdir()
    card = of_path(home / "models", "~/gguf")
    weights = Weights(home / "fetched")
    assert weights.is_ready(card)
    assert weights.ensure(card) == home / "gguf"
    profile = home / "mine.toml"
    profile.write_text(PROFILE.replace("tiny", "phi-2"), "utf-8")
    named = read_settings(profile="~/mine.toml").profile
    assert Catalog([ROOT / "models"]).profile(named).name == "mine"


def test_the_home_of_nobody_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"source.path: ~nobody-here/x: there is no such home"):
        of_path(tmp_path, "~nobody-here/x")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """The file of a language model, with its projector beside it."""
    save_llava(tmp_path / "llava")
    save_gguf(tmp_path / "llava", tmp_path / "gguf")
    return tmp_path / "gguf" / LANGUAGE_FILE


def test_a_card_may_name_the_gguf_file_itself(gguf: Path, tmp_path: Path) -> None:
    shutil.copy(gguf, gguf.with_name("another.gguf"))
    source = {"kind": "folder", "path": str(gguf)}
    card = tiny_gguf.card("llava", task="text-generation", converses=False, source=source)
    weights = Weights(tmp_path / "fetched")
    assert weights.is_ready(card)
    assert weights.query_bytes(card) == 0
    found = gguf_files(card, weights.ensure(card))
    assert found.language == gguf
    backend = load(card, weights.ensure(card), "cpu")
    backend.close()


def test_the_projector_is_looked_for_beside_a_file_that_is_named(gguf: Path) -> None:
    card = tiny_gguf.card("llava", source={"kind": "folder", "path": str(gguf)})
    found = gguf_files(card, gguf)
    assert (found.language, found.projector) == (gguf, gguf.with_name(PROJECTOR_FILE))


def test_a_file_that_is_no_whole_model_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    card = of_path(tmp_path / "models", str(tmp_path / "model.safetensors"))
    weights = Weights(tmp_path / "fetched")
    assert not weights.is_ready(card)
    with pytest.raises(WeightsError, match=r"alone is no model. Name the folder") as caught:
        weights.ensure(card, stop=threading.Event())
    assert str(tmp_path) in str(caught.value)


# ------------------------------------------------------------ names


WINDOWS_REFUSES = ["con", "nul.v1", "com3", "phi-2."]


@pytest.mark.parametrize("name", [*sorted(ALIASES), *WINDOWS_REFUSES])
def test_a_card_that_would_never_be_reached_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CardError, match=rf"tiny.toml: name: '{name}' .*choose another name$"):
        catalog_of(tmp_path, CARD.replace('"tiny"', f'"{name}"'))


def test_a_profile_that_would_never_be_reached_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"mine.toml: name: 'auto' .*another name$"):
        catalog_of(tmp_path, profile=PROFILE.replace('"mine"', '"auto"'))


def test_every_alias_of_a_request_is_reserved() -> None:
    taken = set().union(*schemas.ALIASES.values(), speech_synthesis.MODELS)
    assert taken <= ALIASES
