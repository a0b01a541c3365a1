"""Pictures through llama.cpp: tiny random models as a language file and a projector (mmproj), in
the published layout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import transformers
from gguf import GGUFReader, GGUFWriter
from local_server import running_server
from PIL import Image
from reference_answers import reference
from text_requests import QUESTION, Pictures, Turn, ask, text_request
from tiny_gguf import (
    LANGUAGE_FILE,
    PICTURE_TOKENS,
    PROJECTOR_FILE,
    SAVED,
    TALK,
    card,
    finish_gguf,
    save_gguf,
)
from tiny_models import hub_card
from tiny_seeing import save_llava

from multimodal.backends.base import Backend, load
from multimodal.backends.llama_cpp.engine import parameters
from multimodal.backends.llama_cpp.gguf_files import gguf_files
from multimodal.catalog.architectures import GgufArchitecture
from multimodal.catalog.cards import Catalog
from multimodal.errors import BackendError, CardError, PromptError
from multimodal.events import ImageDescribed, Notice, TextDelta
from multimodal.memory.estimate.footprint import footprint
from multimodal.requests import ImageDescriptionRequest

RED, BLUE = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))

Turns = tuple[Turn, ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each family, the checkpoint of transformers and the two files of llama.cpp."""
    made = tmp_path_factory.mktemp("gguf")
    for name, save in SAVED.items():
        save(made / name / "checkpoint")
        save_gguf(made / name / "checkpoint", made / name / "gguf")
    return made


@pytest.fixture(scope="module", params=SAVED)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def model(folder: Path, name: str) -> Iterator[Backend]:
    backend = load(card(name), folder / name / "gguf", "cpu")
    yield backend
    backend.close()


@pytest.fixture
def llava(folder: Path) -> Path:
    return folder / "llava" / "gguf"


# ------------------------------------------------------------ conversations


def test_another_picture_gets_another_answer_and_the_same_one_the_same(model: Backend) -> None:
    red, usage, _ = ask(model, QUESTION, pictures=((0, RED),))
    blue, _, _ = ask(model, QUESTION, pictures=((0, BLUE),))
    again, _, _ = ask(model, QUESTION, pictures=((0, RED),))
    none, fewer, _ = ask(model, QUESTION)
    assert red == again
    assert len({red, blue, none}) == 3
    assert usage.prompt_tokens - fewer.prompt_tokens >= 16


@pytest.mark.parametrize("pictures", [(), ((0, RED),), ((0, RED), (0, BLUE))])
def test_it_answers_what_transformers_answers(folder: Path, pictures: Pictures) -> None:
    """SmolVLM does. LLaVA sees otherwise in llama.cpp: its issue 25814."""
    checkpoint = folder / "smolvlm" / "checkpoint"
    config = transformers.AutoConfig.from_pretrained(checkpoint).to_dict()
    theirs: Any = load(
        hub_card("image_text", "AutoModelForImageTextToText", config, task="image-to-text"),
        checkpoint,
        "cpu",
    )
    ours = load(card("smolvlm"), folder / "smolvlm" / "gguf", "cpu")
    said, usage, _ = ask(ours, QUESTION, pictures=pictures)
    expected = reference(theirs, QUESTION, pictures=pictures)
    # Bytes that are no character stand in one of them and are left out in the other.
    assert said.replace("\ufffd", "") == expected.replace("\ufffd", "") != ""
    prompt = theirs.prompt(text_request((QUESTION,), pictures=pictures))
    assert usage.prompt_tokens == len(prompt.tokens)


def test_the_second_turn_looks_no_second_time(model: Backend) -> None:
    text, first, _ = ask(model, QUESTION, pictures=((0, RED),))
    follow: Turns = (QUESTION, ("assistant", text), ("user", "Is it red?"))
    _, second, _ = ask(model, *follow, pictures=((0, RED),))
    assert second.cached_tokens >= first.prompt_tokens - 4
    _, other, _ = ask(model, *follow, pictures=((0, BLUE),))
    assert other.cached_tokens < 10, "another picture is not taken for known"


def test_a_picture_in_the_second_turn_keeps_what_is_known_of_the_first(model: Backend) -> None:
    text, first, _ = ask(model, QUESTION, pictures=((0, RED),))
    turns: Turns = (QUESTION, ("assistant", text), ("user", "And this one?"))
    blue, second, _ = ask(model, *turns, pictures=((0, RED), (2, BLUE)))
    red, _, _ = ask(model, *turns, pictures=((0, RED), (2, RED)))
    assert second.cached_tokens >= first.prompt_tokens - 4
    assert blue != red


def test_conversations_that_take_turns_are_both_remembered(folder: Path, name: str) -> None:
    engine = {**card(name).engine, "prompt_cache_mib": 64}
    model = load(card(name, engine=engine), folder / name / "gguf", "cpu")
    text, first, _ = ask(model, QUESTION, pictures=((0, RED),))
    ask(model, ("user", "The river runs to the sea."), pictures=((0, BLUE),))
    turns: Turns = (QUESTION, ("assistant", text), ("user", "Is it red?"))
    _, second, _ = ask(model, *turns, pictures=((0, RED),))
    assert second.cached_tokens >= first.prompt_tokens - 4


def test_several_pictures_in_one_turn_are_told_apart(model: Backend, name: str) -> None:
    one, usage, _ = ask(model, QUESTION, pictures=((0, RED), (0, BLUE)))
    other, _, _ = ask(model, QUESTION, pictures=((0, BLUE), (0, RED)))
    assert one != other, "their order matters"
    assert usage.prompt_tokens > 2 * PICTURE_TOKENS[name]


def test_a_picture_without_a_word_is_described(model: Backend) -> None:
    silent, _, _ = ask(model, ("user", ""), pictures=((0, RED),))
    asked, _, _ = ask(model, ("user", "Describe this picture."), pictures=((0, RED),))
    assert silent == asked != ""


def test_a_picture_is_described_for_another_model(model: Backend) -> None:
    request = ImageDescriptionRequest(RED, question=QUESTION[1])
    *events, described = model.run(request, threading.Event())
    assert isinstance(described, ImageDescribed)
    assert described.description == described.answer
    assert described.answer == ask(model, QUESTION, pictures=((0, RED),))[0].strip()
    assert not any(isinstance(event, TextDelta) for event in events)


def test_a_model_may_be_closed_as_soon_as_it_is_loaded(llava: Path) -> None:
    """In a process of its own: an engine that hangs in its end holds Python's lock."""
    tried = (
        "import sys; from pathlib import Path; from multimodal.backends.base import load; "
        "from multimodal.catalog.cards import ModelCard; "
        "card = ModelCard.model_validate_json(sys.argv[1]); "
        "[load(card, Path(sys.argv[2]), 'cpu').close() for _ in range(40)]"
    )
    given = [card("llava").model_dump_json(), str(llava)]
    subprocess.run([sys.executable, "-c", tried, *given], check=True, timeout=120)


# ------------------------------------------------------------ too long


def long_talk(pictures: int) -> tuple[Turns, Pictures]:
    turns: list[Turn] = []
    for _ in range(pictures):
        turns += [QUESTION, ("assistant", "It is red, as the sun. " * 3)]
    shown = tuple((2 * at, BLUE if at % 2 else RED) for at in range(pictures))
    return (*turns, ("user", "Is it?")), shown


def test_turns_left_out_take_their_pictures_along_and_are_told(folder: Path, name: str) -> None:
    model = load(card(name, context_tokens=320), folder / name / "gguf", "cpu")
    turns, pictures = long_talk(8)
    said, usage, events = ask(model, *turns, pictures=pictures)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert not any(isinstance(event, TextDelta) for event in events[: events.index(notice)])
    dropped = int(notice.text.split()[2])
    assert 0 < dropped < len(turns)
    assert usage.prompt_tokens <= 320 - 24
    kept = tuple((at - dropped, picture) for at, picture in pictures if at >= dropped)
    again = ask(model, *turns[dropped:], pictures=kept)
    assert not again.notices
    assert (again.text, again.usage.prompt_tokens) == (said, usage.prompt_tokens)


def test_more_pictures_than_it_reads_are_refused_with_the_way_out(model: Backend) -> None:
    with pytest.raises(PromptError, match=r"Tiny reads 512. Shorten it, show fewer pictures"):
        ask(model, QUESTION, pictures=tuple((0, RED) for _ in range(40)))
    assert ask(model, QUESTION, pictures=((0, RED),))[0]


def test_a_turn_may_be_asked_in_less_context(model: Backend) -> None:
    turns, pictures = long_talk(3)
    reply = ask(model, *turns, pictures=pictures, context_tokens=160)
    assert reply.usage.prompt_tokens <= 160 - 24
    assert reply.notices


# ------------------------------------------------------------ what a person may write


class _Watched(BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_error(404)


@pytest.fixture
def watched() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was asked of it."""
    seen: list[str] = []
    with running_server(_Watched, seen=seen) as url:
        yield url, seen


WRITTEN = [
    '{{"type": "image_url", "image_url": {{"url": "{url}/a.png"}}}}',
    "![picture]({url}/a.png) <img src='{url}/a.png'>",
    "file://{file} {file} <__media__> <__image__> <image> [img-1]",
    "data:image/png;base64,AAAA {{{{ messages }}}} {{% raw %}}",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_nothing_a_person_writes_is_fetched_opened_or_taken_for_a_picture(
    model: Backend, watched: tuple[str, list[str]], folder: Path, written: str
) -> None:
    url, seen = watched
    text = written.format(url=url, file=folder / "llava" / "gguf" / LANGUAGE_FILE)
    plain, alone, _ = ask(model, ("user", text))
    _, shown, _ = ask(model, ("user", text), pictures=((0, RED),))
    assert plain
    assert shown.prompt_tokens - alone.prompt_tokens < 60, "one picture and no more"
    assert seen == []


# ------------------------------------------------------------ files


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def test_the_projector_is_told_from_the_language_model_by_its_name(
    llava: Path, tmp_path: Path
) -> None:
    found = gguf_files(card("llava"), llava)
    assert (found.language.name, found.projector) == (LANGUAGE_FILE, llava / PROJECTOR_FILE)
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "llava-MMPROJ-f16.gguf"):
        (tmp_path / name).touch()
    split = gguf_files(card("llava"), tmp_path)
    assert split.language.name == "a-00001-of-00002.gguf"
    assert split.projector == tmp_path / "llava-MMPROJ-f16.gguf"


def test_a_text_model_leaves_a_projector_alone_and_needs_none(llava: Path, tmp_path: Path) -> None:
    text = card("llava", task="text-generation", converses=False)
    beside = load(text, llava, "cpu")
    shutil.copy(llava / LANGUAGE_FILE, tmp_path)
    without = load(text, tmp_path, "cpu")
    assert gguf_files(text, llava).projector is None
    assert ask(beside, QUESTION)[0] == ask(without, QUESTION)[0] != ""


def test_a_folder_without_one_of_each_is_refused(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"there is no \.gguf file in"):
        load(card("llava"), tmp_path, "cpu")
    shutil.copy(llava / LANGUAGE_FILE, tmp_path)
    with pytest.raises(BackendError, match=r"there is no mmproj\*\.gguf file, the projector"):
        load(card("llava"), tmp_path, "cpu")
    copied(llava, tmp_path)
    shutil.copy(llava / LANGUAGE_FILE, tmp_path / "other.gguf")
    with pytest.raises(BackendError, match=r"has several models \(other.gguf, tiny-f32.gguf\)"):
        load(card("llava"), tmp_path, "cpu")


@pytest.mark.parametrize("name", [LANGUAGE_FILE, PROJECTOR_FILE])
@pytest.mark.parametrize("kept", [0, 300, 0.5])
def test_a_file_that_is_cut_short_is_named(
    llava: Path, tmp_path: Path, name: str, kept: float
) -> None:
    whole = (llava / name).read_bytes()
    cut = whole[: int(kept * len(whole)) if kept == 0.5 else int(kept)]
    (copied(llava, tmp_path) / name).write_bytes(cut)
    with pytest.raises(BackendError, match=rf"^Tiny could not be loaded: {name} is damaged or no"):
        load(card("llava"), tmp_path, "cpu")


def test_files_that_changed_places_are_told(llava: Path, tmp_path: Path) -> None:
    copied(llava, tmp_path)
    shutil.copy(llava / LANGUAGE_FILE, tmp_path / PROJECTOR_FILE)
    with pytest.raises(BackendError, match=r"mmproj-tiny-f32.gguf is no projector"):
        load(card("llava"), tmp_path, "cpu")
    shutil.copy(llava / PROJECTOR_FILE, tmp_path / LANGUAGE_FILE)
    with pytest.raises(BackendError, match=r"tiny-f32.gguf is a projector \(mmproj\), not a"):
        load(card("llava"), tmp_path, "cpu")


def test_a_projector_of_another_model_is_told(llava: Path, tmp_path: Path) -> None:
    config = save_llava(tmp_path / "wide", hidden_size=96, head_dim=32)
    assert config["text_config"]["hidden_size"] == 96
    save_gguf(tmp_path / "wide", tmp_path / "other")
    folder = copied(llava, tmp_path / "mixed")
    shutil.copy(tmp_path / "other" / LANGUAGE_FILE, folder)
    with pytest.raises(BackendError, match=r"mmproj-tiny-f32.gguf belongs to another model: tiny"):
        load(card("llava"), folder, "cpu")


def test_a_model_of_a_kind_that_llama_cpp_does_not_know_is_told(
    llava: Path, tmp_path: Path
) -> None:
    copied(llava, tmp_path)
    writer = GGUFWriter(tmp_path / LANGUAGE_FILE, "nonesuch")
    finish_gguf(writer)
    with pytest.raises(BackendError, match=r"cannot run tiny-f32.gguf \(nonesuch\)"):
        load(card("llava", task="text-generation"), tmp_path, "cpu")


def test_the_projector_is_on_the_card_where_the_model_is(llava: Path) -> None:
    files = gguf_files(card("llava"), llava)
    for device, there in (("cpu", False), ("cuda", True)):
        params = parameters(card("llava"), 512, files, device)
        assert (params.mmproj.path, params.mmproj_use_gpu) == (str(files.projector), there)


# ------------------------------------------------------------ cards


@pytest.mark.parametrize("name", SAVED)
def test_the_bytes_of_both_files_are_computed_from_the_configuration(
    folder: Path, name: str
) -> None:
    config = transformers.AutoConfig.from_pretrained(folder / name / "checkpoint").to_dict()
    for part in ("text_config", "vision_config"):
        config[part] = {key: config[part][key] for key in config[part] if key != "dtype"}
    shape = GgufArchitecture(kind="gguf", config=config, projector="f32")
    known = footprint(card(name, architecture=shape, quantization=["f32"])).weights
    held = sum(
        int(tensor.n_bytes)
        for file in (LANGUAGE_FILE, PROJECTOR_FILE)
        for tensor in GGUFReader(folder / name / "gguf" / file).tensors
    )
    assert known == pytest.approx(held, rel=0.01)


PUBLISHED = {"llava-1.5-7b-gguf": 4.081 + 0.624, "smolvlm-500m-gguf": 0.437 + 0.109}
"""Gigabytes of the two files, as their repositories show them."""


@pytest.mark.parametrize(("name", "gigabytes"), PUBLISHED.items())
def test_the_shipped_cards_know_the_size_of_their_files(
    catalog: Catalog, name: str, gigabytes: float
) -> None:
    size = footprint(catalog.card(name))
    assert size.weights / 1e9 == pytest.approx(gigabytes, rel=0.015)
    assert size.kv_cache > 300_000_000
    assert size.resident == size.total


def test_a_projector_of_no_known_kind_is_a_fault_of_the_card() -> None:
    shape = GgufArchitecture(kind="gguf", config={"model_type": "llava"}, projector="q9")
    with pytest.raises(CardError, match="there is no quantization 'q9'"):
        footprint(card("llava", architecture=shape, quantization=["q8_0"]))


def test_llavas_card_writes_the_conversation_it_was_trained_on(
    catalog: Catalog, llava: Path
) -> None:
    shipped = catalog.card("llava-1.5-7b-gguf")
    model = load(card("llava", chat_template=shipped.chat_template), llava, "cpu")
    plain = load(card("llava", chat_template="{{ messages[0]['content'] }}"), llava, "cpu")
    turns: Turns = (QUESTION, ("assistant", "It is red."), ("user", "Is it?"))
    expected = (
        "A chat. USER: What colour is the car? ASSISTANT: It is red.</s>USER: Is it? ASSISTANT:"
    )
    wanted, same, _ = ask(plain, ("user", expected))
    said, usage, _ = ask(model, *turns, system_prompt="A chat.")
    assert (said, usage.prompt_tokens) == (wanted, same.prompt_tokens)


def test_a_file_without_a_chat_template_is_told_of_once_in_a_reply(
    llava: Path, tmp_path: Path
) -> None:
    shutil.copytree(llava, tmp_path / "bare")
    file = tmp_path / "bare" / LANGUAGE_FILE
    named = b"tokenizer.chat_template"
    file.write_bytes(file.read_bytes().replace(named, b"tokenizer.no_such_thing"))
    for made, expected in (
        (load(card("llava"), tmp_path / "bare", "cpu"), 1),
        (load(card("llava", chat_template=TALK), tmp_path / "bare", "cpu"), 0),
        (load(card("llava"), llava, "cpu"), 0),
    ):
        told = ask(made, QUESTION).notices
        assert sum("has no chat template" in text for text in told) == len(told) == expected
        made.close()
