"""What models that see are shown and asked, against their authors' code restated here with numpy
and PIL, which shares nothing with transformers' processors.

Sources: haotian-liu/LLaVA mm_utils.py and conversation.py, salesforce/LAVIS blip_processors.py and
blip2_opt.py, Idefics3's paper and processor (transformers), Vision-CAIR/MiniGPT-4 conversation.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray
from PIL import Image
from text_requests import text_request
from tiny_models import hub_card, tokenizer
from tiny_seeing import SEEING, SIDE, TEMPLATES, noise, save_llava, save_smolvlm_of_tiles
from transformers import CLIPImageProcessor, CLIPImageProcessorPil

from multimodal.backends.base import load
from multimodal.backends.hf.chat_template import ChatTemplate
from multimodal.backends.hf.image_text import ImageText
from multimodal.backends.hf.picture_processor import load_processor
from multimodal.backends.hf.vision_chat import chat_messages
from multimodal.catalog.cards import ModelCard, read_card
from multimodal.errors import CardError
from multimodal.messages import Role

Pixels = NDArray[np.float64]
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, which LLaVA and the BLIPs use, too."""
SIZES = [(192, 108), (50, 150), (32, 32), (33, 90), (61, 60), (3, 200)]
ROUNDING = 1e-6
"""Of 32-bit numbers between -2 and 3."""


def normalized(
    picture: Image.Image, mean: tuple[float, ...] = MEAN, deviation: tuple[float, ...] = DEVIATION
) -> Pixels:
    """(3, height, width)"""
    values = np.asarray(picture, dtype=np.float64) / 255
    return ((values - mean) / deviation).transpose(2, 0, 1)


def on_a_square(picture: Image.Image) -> Image.Image:
    """In the middle of a square of the mean colour."""
    side = max(picture.size)
    colour = tuple(int(value * 255) for value in MEAN)
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def card_of(name: str, config: dict[str, Any], **more: Any) -> ModelCard:
    facts = {"task": "image-to-text", "chat_template": TEMPLATES.get(name, ""), **more}
    return hub_card("image_text", "AutoModelForImageTextToText", config, **facts)


def prepared(card: ModelCard, folder: Path, picture: Image.Image) -> Pixels:
    """What the loaded model reads of the picture."""
    model = load(card, folder, "cpu")
    assert isinstance(model, ImageText)
    question: tuple[Role, str] = ("user", "What is it?")
    inputs = model.prompt(text_request((question,), pictures=((0, picture),))).inputs
    return np.asarray(inputs["pixel_values"], dtype=np.float64)[0]


def difference(found: Pixels, wanted: Pixels) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max())


PAD = {"picture": {"aspect_ratio": "pad"}}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("llava")
    return folder, save_llava(folder)


@pytest.mark.parametrize("size", SIZES)
def test_llava_1_5_is_shown_the_whole_picture_on_the_mean_colour(
    llava: tuple[Path, dict[str, Any]], size: tuple[int, int]
) -> None:
    folder, config = llava
    picture = noise(size)
    square = on_a_square(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    found = prepared(card_of("llava", config, **PAD), folder, picture)
    assert difference(found, normalized(square)) < ROUNDING
    clip: Any = CLIPImageProcessorPil.from_pretrained(folder)
    theirs = clip(on_a_square(picture), return_tensors="np")["pixel_values"][0]
    assert difference(found, np.asarray(theirs, dtype=np.float64)) == 0


@pytest.mark.parametrize("size", [(1920, 1080), (500, 1500), (336, 336)])
@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-1.5-13b"])
def test_the_shipped_cards_of_llava_1_5_pad_at_its_published_size(
    llava: tuple[Path, dict[str, Any]], tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    """The published preprocessor_config.json asks CLIP's processor for a centre crop."""
    for path in llava[0].glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    stated = json.loads((tmp_path / "processor_config.json").read_text("utf-8"))
    stated.pop("image_processor", None)
    (tmp_path / "processor_config.json").write_text(json.dumps(stated))
    clip = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    assert clip.do_center_crop
    clip.save_pretrained(tmp_path)
    card = read_card(ROOT / f"models/cards/image-to-text/{name}.toml")
    processor = load_processor(card, tmp_path)
    picture = noise(size)
    found = processor.image_processor(picture, return_tensors="np")["pixel_values"][0]
    square = on_a_square(picture).resize((336, 336), Image.Resampling.BICUBIC)
    assert difference(found, normalized(square)) < ROUNDING


def tiles_of_llava_next(picture: Image.Image, grid: list[list[int]]) -> Pixels:
    """The whole picture pressed into a square, then tiles of it, enlarged on a black ground."""
    width, height = picture.size

    def rank(size: tuple[int, int]) -> tuple[int, int]:
        scale = min(size[0] / width, size[1] / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        return used, -(size[0] * size[1] - used)

    wide, high = max(((w, h) for h, w in grid), key=rank)
    if wide / width < high / height:
        small = (wide, min(math.ceil(height * wide / width), high))
    else:
        small = (min(math.ceil(width * high / height), wide), high)
    ground = Image.new("RGB", (wide, high))
    ground.paste(
        picture.resize(small, Image.Resampling.BICUBIC),
        ((wide - small[0]) // 2, (high - small[1]) // 2),
    )
    corners = [(x, y) for y in range(0, high, SIDE) for x in range(0, wide, SIDE)]
    tiles = [ground.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners]
    whole = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.stack([normalized(tile) for tile in (whole, *tiles)])


@pytest.mark.parametrize("size", SIZES)
def test_llava_next_is_shown_the_tiles_of_its_authors(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    config, picture = SEEING["llava-next"](tmp_path), noise(size)
    found = prepared(card_of("llava-next", config), tmp_path, picture)
    wanted = tiles_of_llava_next(picture, config["image_grid_pinpoints"])
    assert difference(found, wanted) < ROUNDING


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["blip-2", "instructblip"])
def test_the_blips_are_shown_the_picture_pressed_into_a_square(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    config, picture = SEEING[name](tmp_path), noise(size)
    found = prepared(card_of(name, config), tmp_path, picture)
    small = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert difference(found, normalized(small)) < ROUNDING


def tiles_of_smolvlm(picture: Image.Image, longest: int) -> Pixels:
    """Enlarged to its longest edge, stretched to whole tiles; the tiles, then the whole in one."""
    width, height = picture.size
    if width >= height:
        size = (longest, int(longest / (width / height)) + int(longest / (width / height)) % 2)
    else:
        size = (int(longest * width / height) + int(longest * width / height) % 2, longest)
    size = (max(size[0], 1), max(size[1], 1))
    stretched = tuple(math.ceil(edge / SIDE) * SIDE for edge in size)
    large = picture.resize(size, Image.Resampling.LANCZOS)
    large = large.resize((stretched[0], stretched[1]), Image.Resampling.LANCZOS)
    corners = [(x, y) for y in range(0, large.height, SIDE) for x in range(0, large.width, SIDE)]
    tiles = [large.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners]
    whole = large.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    half = (0.5,) * 3
    return np.stack([normalized(tile, half, half) for tile in (*tiles, whole)])


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (64, 64)])
def test_smolvlm_is_shown_tiles_and_the_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    config, picture = save_smolvlm_of_tiles(tmp_path), noise(size)
    found = prepared(card_of("smolvlm", config), tmp_path, picture)
    assert difference(found, tiles_of_smolvlm(picture, 2 * SIDE)) < ROUNDING


def test_padding_is_refused_for_a_checkpoint_that_prepares_pictures_otherwise(
    tmp_path: Path,
) -> None:
    config = SEEING["llava-next"](tmp_path)
    with pytest.raises(CardError, match=r"picture\.aspect_ratio: .* by LlavaNextImageProcessorPil"):
        load(card_of("llava-next", config, **PAD), tmp_path, "cpu")


# ------------------------------------------------------------ what is asked

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
TURNS: tuple[tuple[Role, str], ...] = (
    ("user", "What is it?"),
    ("assistant", "A car."),
    ("user", "Is it red?"),
)


def asked(name: str, *turns: tuple[Role, str], pictures: int = 1, system: str | None = None) -> str:
    """The prompt of a shipped card, with the first turn's pictures."""
    card = read_card(ROOT / f"models/cards/image-to-text/{name}.toml")
    picture = noise((8, 8))
    request = text_request(turns, pictures=((0, picture),) * pictures)
    said = chat_messages(request)
    signs = ["<image>"]
    if card.family == "llama_cpp":
        said = [{**turn, "content": "".join(map(written, turn["content"]))} for turn in said]
        signs = []
    template = ChatTemplate(tokenizer(None), card, signs)
    return template.text(card.system_prompt if system is None else system, said)


def written(part: dict[str, str]) -> str:
    """A part of a turn as llama.cpp's templates read it."""
    return part.get("text", "<image>\n")


def vicuna_v1(*turns: tuple[Role, str]) -> str:
    """LLaVA 1.5's conversation: the separators are a space and </s> by turns."""
    prompt = SYSTEM + " "
    for at, (role, text) in enumerate(turns):
        text = "<image>\n" + text if at == 0 else text
        prompt += {"user": "USER", "assistant": "ASSISTANT"}[role] + ": " + text
        prompt += " " if at % 2 == 0 else "</s>"
    return prompt + "ASSISTANT:"


@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-1.5-13b", "llava-1.5-7b-gguf"])
@pytest.mark.parametrize("count", [1, 3])
def test_llava_1_5_is_asked_as_its_authors_ask_it(name: str, count: int) -> None:
    assert asked(name, *TURNS[:count]) == vicuna_v1(*TURNS[:count])


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("count", [1, 3])
def test_llava_next_is_asked_as_its_authors_ask_it(count: int, system: str) -> None:
    prompt = ""
    for at, (role, text) in enumerate(TURNS[:count]):
        text = "<image>\n" + text if at == 0 else text
        if at == 0 and system:
            text = f"<<SYS>>\n{system}\n<</SYS>>\n\n" + text
        prompt += f"[INST] {text} [/INST]" if role == "user" else f" {text} </s>"
    assert asked("llava-next-mistral-7b", *TURNS[:count], system=system) == prompt


def test_the_blips_are_asked_the_last_question_alone() -> None:
    assert asked("blip-2-opt-2.7b", *TURNS) == "Question: Is it red? Answer:"
    assert asked("instructblip-vicuna-7b", *TURNS) == "Is it red?"


def test_instructblips_qformer_reads_the_end_of_a_long_question(tmp_path: Path) -> None:
    """As many tokens as in its training, cut at the left."""
    config = SEEING["instructblip"](tmp_path)
    card = card_of("instructblip", config)
    model = load(card, tmp_path, "cpu")
    assert isinstance(model, ImageText)
    question: tuple[Role, str] = ("user", "Is it red? " * 60 + "Or blue?")
    prompt = model.prompt(text_request((question,), pictures=((0, noise((8, 8))),)))
    read = prompt.inputs["qformer_input_ids"][0].tolist()
    qformer_tokenizer = load_processor(card, tmp_path).qformer_tokenizer
    whole = qformer_tokenizer(f"Question: {question[1]} Answer:")["input_ids"]
    assert read == whole[-128:]
    assert len(prompt.tokens) > len(whole)
