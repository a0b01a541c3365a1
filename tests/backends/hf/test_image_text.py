"""Models that see, from tiny random checkpoints in the published layout: LLaVA, LLaVA-NeXT,
SmolVLM, BLIP-2 and InstructBLIP. Their published processors are not on this machine; these tests
bring their own, of the same classes."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from reference_answers import reference
from text_requests import QUESTION, Turn, ask, text_request
from tiny_models import DECODING, Checkpoint, hub_card
from tiny_seeing import IMAGE, SEEING, TEMPLATES, noise

from multimodal.backends.base import load
from multimodal.backends.hf.image_text import ImageText
from multimodal.backends.hf.picture_processor import expected_tokens
from multimodal.errors import BackendError, CardError
from multimodal.events import ImageDescribed, TextDelta
from multimodal.requests import ImageDescriptionRequest

RED, BLUE = (Image.new("RGB", (60, 40), colour) for colour in ("red", "blue"))
TALKING = ["llava", "llava-next", "smolvlm"]
"""Those that hold a conversation; the BLIPs answer one question about one picture."""


Folders = dict[str, Checkpoint]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folders = {name: tmp_path_factory.mktemp(name) for name in SEEING}
    return {name: (folder, SEEING[name](folder)) for name, folder in folders.items()}


def loaded(folders: Folders, name: str, **more: Any) -> ImageText:
    folder, config = folders[name]
    facts = {"task": "image-to-text", "chat_template": TEMPLATES.get(name, ""), **more}
    card = hub_card("image_text", "AutoModelForImageTextToText", config, **facts)
    model = load(card, folder, "cpu")
    assert isinstance(model, ImageText)
    return model


@pytest.mark.usefixtures("fp32_arithmetic")
@pytest.mark.parametrize("kind", ["fp32", "nf4-double"])
@pytest.mark.parametrize("name", SEEING)
def test_it_answers_what_generate_answers_about_the_picture(
    folders: Folders, name: str, kind: str
) -> None:
    model = loaded(folders, name, quantization=[kind])
    red, blue = (((0, picture),) for picture in (RED, BLUE))
    said = ask(model, QUESTION, pictures=red)[0]
    assert said == reference(model, QUESTION, pictures=red)
    assert said != ask(model, QUESTION, pictures=blue)[0], "it looks at the picture"


@pytest.mark.parametrize("way", ["plain", *DECODING])
@pytest.mark.parametrize("name", TALKING)
def test_both_turns_are_the_same_whichever_way_they_are_decoded(
    folders: Folders, name: str, way: str
) -> None:
    model = loaded(folders, name, engine=DECODING.get(way, {}))
    picture = ((0, RED),)
    answer, *_ = ask(model, QUESTION, pictures=picture)
    assert answer == reference(model, QUESTION, pictures=picture)
    turns = (QUESTION, ("assistant", answer), ("user", "Is it red?"))
    again, second, _ = ask(model, *turns, pictures=picture)
    assert again == reference(model, *turns, pictures=picture)
    assert bool(second.cached_tokens) == (way != "prompt lookup")
    assert ask(model, QUESTION, pictures=())[0] == reference(model, QUESTION, pictures=())


@pytest.mark.parametrize("way", DECODING)
@pytest.mark.parametrize("name", ["blip-2", "instructblip"])
def test_a_model_that_makes_its_cache_itself_takes_no_option_for_it(
    folders: Folders, name: str, way: str
) -> None:
    with pytest.raises(CardError, match="makes its cache itself"):
        loaded(folders, name, engine=DECODING[way])


@pytest.mark.parametrize("name", TALKING)
def test_a_new_picture_in_the_second_turn_is_seen(folders: Folders, name: str) -> None:
    model = loaded(folders, name)
    answer, *_ = ask(model, QUESTION, pictures=((0, RED),))
    turns = (QUESTION, ("assistant", answer), ("user", "And this one?"))
    both = ((0, RED), (2, BLUE))
    again, usage, _ = ask(model, *turns, pictures=both)
    assert usage.cached_tokens == 0
    assert again == reference(model, *turns, pictures=both)
    assert again != ask(model, *turns, pictures=((0, RED), (2, RED)))[0]


def test_the_same_words_about_another_picture_are_not_taken_for_known(folders: Folders) -> None:
    model = loaded(folders, "llava")
    ask(model, QUESTION, pictures=((0, RED),))
    said, usage, _ = ask(model, QUESTION, pictures=((0, BLUE),))
    assert usage.cached_tokens == 0
    assert said == reference(model, QUESTION, pictures=((0, BLUE),))


@pytest.mark.parametrize("name", TALKING)
def test_several_pictures_in_one_turn_are_told_apart(folders: Folders, name: str) -> None:
    model = loaded(folders, name)
    one, other = ((0, RED), (0, BLUE)), ((0, BLUE), (0, RED))
    said = ask(model, QUESTION, pictures=one)[0]
    assert said == reference(model, QUESTION, pictures=one)
    assert said != ask(model, QUESTION, pictures=other)[0], "their order matters"


def test_a_picture_is_described_for_another_model(folders: Folders) -> None:
    request = ImageDescriptionRequest(RED, question="What is it?")
    *events, described = loaded(folders, "blip-2").run(request, threading.Event())
    assert isinstance(described, ImageDescribed)
    assert described.answer
    assert described.description == described.answer
    assert not any(isinstance(event, TextDelta) for event in events)


def test_turns_left_out_take_their_pictures_along(folders: Folders) -> None:
    model = loaded(folders, "llava", context_tokens=160)
    turns: list[Turn] = []
    for _ in range(3):
        turns += [("user", "What colour is the car?"), ("assistant", "It is red. " * 4)]
    pictures = ((0, RED), (2, BLUE), (4, RED))
    text, usage, _ = ask(model, *turns, ("user", "Is it?"), pictures=pictures)
    assert usage.prompt_tokens <= 160 - 24
    assert text


def test_a_checkpoint_without_a_template_needs_one_in_its_card(folders: Folders) -> None:
    with pytest.raises(CardError, match="has no chat template; write one as 'chat_template'"):
        loaded(folders, "blip-2", chat_template="")


@pytest.mark.parametrize("name", SEEING)
def test_what_stands_for_a_picture_may_be_written_by_a_person(folders: Folders, name: str) -> None:
    model = loaded(folders, name)
    asked: Turn = ("user", "What does the <image> tag do?")
    assert ask(model, asked, pictures=((0, RED),))[0]


# ------------------------------------------------------------ found out at load


def copied(folders: Folders, name: str, to: Path) -> Folders:
    folder, config = folders[name]
    return {name: (shutil.copytree(folder, to / "changed"), config)}


def change(path: Path, changes: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(changes(json.loads(path.read_text("utf-8")))), "utf-8")


def without(*names: str) -> Any:
    """The processor's files as they were before transformers counted a picture's tokens by them."""
    return lambda folder: change(
        folder / "processor_config.json",
        lambda stated: {k: v for k, v in stated.items() if k not in names},
    )


def none_at_all(folder: Path) -> None:
    """Pictures and text in files of their own, and nothing that joins them."""
    path = (folder / "processor_config.json").rename(folder / "preprocessor_config.json")
    change(
        path,
        lambda stated: {**stated["image_processor"], "processor_class": stated["processor_class"]},
    )


OLDER = {
    "llava": [
        without("patch_size"),
        without("vision_feature_select_strategy"),
        without("num_additional_image_tokens"),
        none_at_all,
    ],
    "llava-next": [without("patch_size", "num_additional_image_tokens"), none_at_all],
    "smolvlm": [without("image_seq_len"), none_at_all],
    "blip-2": [without("num_query_tokens"), none_at_all],
    "instructblip": [without("num_query_tokens"), none_at_all],
}


@pytest.mark.parametrize(
    ("name", "older"), [(name, older) for name, ways in OLDER.items() for older in ways]
)
def test_what_an_older_processor_leaves_out_is_read_from_the_models_configuration(
    folders: Folders, tmp_path: Path, name: str, older: Any
) -> None:
    changed = copied(folders, name, tmp_path)
    older(changed[name][0])
    question = text_request((QUESTION,), pictures=((0, RED),))
    now, then = (loaded(found, name).prompt(question) for found in (folders, changed))
    assert then.tokens == now.tokens
    assert then.inputs.keys() == now.inputs.keys()
    assert all(torch.equal(then.inputs[key], now.inputs[key]) for key in now.inputs)


@pytest.mark.parametrize("name", ["blip-2", "instructblip"])
def test_a_configuration_that_does_not_number_the_pictures_token_learns_it(
    folders: Folders, tmp_path: Path, name: str
) -> None:
    changed = copied(folders, name, tmp_path)
    change(
        changed[name][0] / "config.json",
        lambda stated: {k: v for k, v in stated.items() if not k.startswith("image_token")},
    )
    model = loaded(changed, name)
    inner: Any = model.modules()[0]
    assert inner.config.image_token_id == IMAGE


@pytest.mark.parametrize(
    ("name", "field", "wrong"),
    [
        ("llava", "patch_size", 16),
        ("llava", "num_additional_image_tokens", 0),
        ("llava-next", "patch_size", 16),
        ("smolvlm", "image_seq_len", 169),
        ("blip-2", "num_query_tokens", 3),
        ("instructblip", "num_query_tokens", 8),
    ],
)
def test_a_processor_that_counts_otherwise_than_the_model_is_refused_at_load(
    folders: Folders, tmp_path: Path, name: str, field: str, wrong: int
) -> None:
    changed = copied(folders, name, tmp_path)
    change(changed[name][0] / "processor_config.json", lambda stated: stated | {field: wrong})
    with pytest.raises(BackendError, match=r"a picture takes \d+ tokens of its prompt, and its"):
        loaded(changed, name)


@pytest.mark.parametrize("size", [(48, 32), (33, 90), (64, 64), (200, 3), (7, 150)])
@pytest.mark.parametrize("name", SEEING)
def test_as_many_tokens_are_expected_as_the_model_makes_of_any_picture(
    folders: Folders, name: str, size: tuple[int, int]
) -> None:
    """The vision part really looks here; at load, its tokens are only counted."""
    model = loaded(folders, name)
    request = text_request((QUESTION,), pictures=((0, noise(size)),))
    inputs = dict(model.prompt(request).inputs)
    inner: Any = model.modules()[0]
    with torch.no_grad():
        seen = inner.get_image_features(**inputs).pooler_output
    made = sum(len(tokens.flatten(0, -2)) for tokens in seen)
    assert expected_tokens(inner, inputs) == made


def test_a_template_that_leaves_the_picture_out_is_refused_at_load(folders: Folders) -> None:
    words = "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    with pytest.raises(BackendError, match="0 <image> tokens and 1 images"):
        loaded(folders, "llava", chat_template=words)


def test_a_template_that_is_no_jinja_is_refused_at_load(folders: Folders) -> None:
    with pytest.raises(BackendError, match="could not be loaded"):
        loaded(folders, "llava", chat_template="{% for m in messages %}")
