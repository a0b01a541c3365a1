"""MiniGPT-4 with and without a Q-Former, from tiny random checkpoints in the published layout,
against a reference that shares no code with it."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_minigpt4
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from text_requests import QUESTION, Pictures, Turn, ask
from tiny_minigpt4 import NEIGHBOURS, VARIANTS, WIDTH, save_minigpt4
from tiny_models import WORDS, causal_config, save_causal
from tiny_seeing import PATCH, SIDE, noise

from multimodal.backends.base import load
from multimodal.backends.hf.forward_passes import forward_passes
from multimodal.backends.hf.minigpt4 import PLACE, MiniGPT4, VisionTowerWithQFormer
from multimodal.catalog.architectures import ModelPart
from multimodal.catalog.cards import Catalog
from multimodal.errors import BackendError, CardError, MultimodalError
from multimodal.events import ImageDescribed
from multimodal.memory.estimate.activation import peak_bytes
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.estimate.modules import build_meta_module, tensors
from multimodal.requests import ImageDescriptionRequest

CPU = torch.device("cpu")
TOKENS = 4
SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I "
    "provide it to you. Please answer my questions."
)
"""Both variants', as its authors wrote it."""

Folders = dict[str, Path]


ONE, OTHER = noise((60, 40), 1), noise((33, 90), 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    found = {variant: tmp_path_factory.mktemp(variant) for variant in VARIANTS}
    for variant, folder in found.items():
        save_minigpt4(folder, variant)
    return found


def loaded(folders: Folders, variant: str, **more: Any) -> MiniGPT4:
    model = load(tiny_minigpt4.card(variant, **more), folders[variant], "cpu")
    assert isinstance(model, MiniGPT4)
    return model


# ------------------------------------------------------------ the reference


def pixels_of(picture: Image.Image) -> torch.Tensor:
    """Resized with PIL's bicubic filter, normalized with CLIP's mean and deviation."""
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.tensor((small / 255 - mean) / deviation).float().permute(2, 0, 1)[None]


def seen_by_reference(folder: Path, variant: str, picture: Image.Image) -> torch.Tensor:
    """The embeddings of one picture, with BLIP-2 as transformers loads it whole."""
    blip = transformers.Blip2ForConditionalGeneration.from_pretrained(folder / "vision").eval()
    saved = torch.load(next(folder.glob("*.pth")), weights_only=True)["model"]
    vision, pixels = blip.vision_model, pixels_of(picture)
    if variant == "qformer":
        image = vision(pixels).last_hidden_state
        found = blip.qformer(
            query_embeds=blip.query_tokens,
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:2], dtype=torch.long),
        ).last_hidden_state
    else:
        image = vision.encoder(inputs_embeds=vision.embeddings(pixels)).last_hidden_state
        image = (image - image.mean(-1, keepdim=True)) / torch.sqrt(
            image.var(-1, unbiased=False, keepdim=True) + 1e-5
        )
        patches = list(image[0, 1:])
        groups = range(0, (SIDE // PATCH) ** 2, NEIGHBOURS)
        found = torch.stack([torch.cat(patches[at : at + NEIGHBOURS]) for at in groups])[None]
    return (found @ saved["llama_proj.weight"].T + saved["llama_proj.bias"])[0]


def reference(folder: Path, variant: str, *segments: str | Image.Image) -> tuple[Any, str]:
    """What goes into the text model for these words and pictures, and its greedy answer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "llm")
    llm = transformers.AutoModelForCausalLM.from_pretrained(folder / "llm").eval()
    with torch.no_grad():
        pieces = [llm.get_input_embeddings()(torch.tensor([tokenizer.bos_token_id]))]
        for segment in segments:
            if isinstance(segment, str):
                ids = tokenizer(segment, add_special_tokens=False)["input_ids"]
                pieces.append(llm.get_input_embeddings()(torch.tensor(ids)))
            else:
                pieces.append(seen_by_reference(folder, variant, segment))
        embedded = torch.cat(pieces)[None]
        made = llm.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
        )
    return embedded, str(tokenizer.decode(made[0], skip_special_tokens=True)).rstrip("\ufffd")


def prompt(variant: str, *turns: Turn, pictures: Pictures) -> list[str | Image.Image]:
    """The conversation as MiniGPT-4's authors put it, in words and pictures."""
    human, machine = "###Human: ", "###Assistant: "
    if variant == "neighbours":
        human, machine = "<s>[INST] ", " [/INST] "
    found: list[str | Image.Image] = [SYSTEM]
    for turn, (role, text) in enumerate(turns):
        words = human if role == "user" else machine
        for picture in [picture for at, picture in pictures if at == turn]:
            found += [found.pop() + words + "<Img>", picture, "</Img> "]  # type: ignore[operator]
            words = ""
        found.append(found.pop() + words + text)  # type: ignore[operator]
    found.append(found.pop() + machine)  # type: ignore[operator]
    return found


def told(folders: Folders, variant: str, *turns: Turn, pictures: Pictures) -> str:
    return reference(folders[variant], variant, *prompt(variant, *turns, pictures=pictures))[1]


# ------------------------------------------------------------ what it answers


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_the_text_model_reads_and_answers_is_the_references(
    folders: Folders, variant: str
) -> None:
    model = loaded(folders, variant)
    words, answer = reference(
        folders[variant], variant, *prompt(variant, QUESTION, pictures=((0, ONE),))
    )
    read: list[torch.Tensor] = []
    llm: Any = model.modules()[0]
    watch = llm.get_decoder().register_forward_pre_hook(
        lambda _module, _given, named: read.append(named["inputs_embeds"]), with_kwargs=True
    )
    said, usage, _ = ask(model, QUESTION, pictures=((0, ONE),))
    watch.remove()
    torch.testing.assert_close(read[0], words, rtol=0, atol=1e-5)
    assert read[0].abs().max() > 1e-2
    assert said == answer
    assert usage.prompt_tokens == words.shape[1]
    assert said != ask(model, QUESTION, pictures=((0, OTHER),))[0], "it looks at the picture"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_new_picture_in_the_second_turn_is_seen(folders: Folders, variant: str) -> None:
    model = loaded(folders, variant)
    answer, *_ = ask(model, QUESTION, pictures=((0, ONE),))
    turns = (QUESTION, ("assistant", answer.strip()), ("user", "And this one?"))
    both = ((0, ONE), (2, OTHER))
    again, usage, _ = ask(model, *turns, pictures=both)
    assert usage.cached_tokens == 0
    assert again == told(folders, variant, *turns, pictures=both)


@pytest.mark.parametrize("variant", VARIANTS)
def test_several_pictures_in_one_turn_are_told_apart(folders: Folders, variant: str) -> None:
    model = loaded(folders, variant)
    said = ask(model, QUESTION, pictures=((0, ONE), (0, OTHER)))[0]
    assert said == told(folders, variant, QUESTION, pictures=((0, ONE), (0, OTHER)))
    assert said != ask(model, QUESTION, pictures=((0, OTHER), (0, ONE)))[0], "their order matters"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_conversation_without_a_picture_is_answered_too(folders: Folders, variant: str) -> None:
    model = loaded(folders, variant)
    assert ask(model, QUESTION, pictures=())[0] == told(folders, variant, QUESTION, pictures=())


def test_a_sign_that_a_person_writes_is_no_picture(folders: Folders) -> None:
    model = loaded(folders, "qformer")
    turn: Turn = ("user", "What does <ImageHere> mean?")
    said, usage, _ = ask(model, turn, pictures=((0, ONE),))
    assert said
    assert usage.prompt_tokens == ask(model, turn, pictures=())[1].prompt_tokens + TOKENS + len(
        model.tokenizer("<Img>", add_special_tokens=False)["input_ids"]
        + model.tokenizer("</Img> ", add_special_tokens=False)["input_ids"]
    )


def make_the_place_an_ordinary_token(folder: Path) -> None:
    """As with GPT-2, where it is an exclamation mark."""
    path, config = folder / "llm/tokenizer.json", folder / "llm/tokenizer_config.json"
    made = json.loads(path.read_text("utf-8"))
    made["added_tokens"][PLACE]["special"] = False
    path.write_text(json.dumps(made), "utf-8")
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"pad_token": None}))


def test_tokens_that_a_person_writes_are_not_taken_for_the_picture(
    folders: Folders, tmp_path: Path
) -> None:
    """The same tokens and the same picture, once shown late and once early; a template may put a
    picture between words that anybody may write."""
    folder = shutil.copytree(folders["qformer"], tmp_path / "changed")
    make_the_place_an_ordinary_token(folder)
    template = tiny_minigpt4.facts("qformer")["chat_template"]
    words = {"chat_template": template.replace("<Img>", "Img ").replace("</Img>", " end")}
    model, other = (loaded({"qformer": folder}, "qformer", **words) for _ in range(2))
    assert model.tokenizer("<pad>", add_special_tokens=False)["input_ids"] == [PLACE]
    written, no = "Img " + "<pad>" * TOKENS + " end ", ("assistant", "no")
    late = ask(model, ("user", written + "Is"), no, ("user", "it?"), pictures=((2, ONE),))
    turns = (("user", "Is"), no, ("user", written + "it?"))
    early = ask(model, *turns, pictures=((0, ONE),))
    assert early[1].prompt_tokens == late[1].prompt_tokens
    assert early[1].cached_tokens == 0
    assert early[0] == ask(other, *turns, pictures=((0, ONE),))[0] != late[0]


def test_a_picture_is_described_for_another_model(folders: Folders) -> None:
    model = loaded(folders, "qformer")
    request = ImageDescriptionRequest(ONE, question="What is it?")
    *_, described = model.run(request, threading.Event())
    assert isinstance(described, ImageDescribed)
    assert described.answer
    assert described.description == described.answer


@pytest.mark.parametrize("variant", VARIANTS)
def test_turns_left_out_take_their_pictures_along(folders: Folders, variant: str) -> None:
    model = loaded(folders, variant, context_tokens=288)
    turns: list[Turn] = []
    for _ in range(4):
        turns += [("user", "What colour is the car?"), ("assistant", WORDS[:60])]
    pictures = ((0, ONE), (4, OTHER), (8, ONE))
    text, usage, _ = ask(model, *turns, ("user", "Is it?"), pictures=pictures)
    assert usage.prompt_tokens <= 288 - 24
    assert text


def test_the_cards_stop_word_ends_the_answer_and_is_not_said(folders: Folders) -> None:
    free = ask(loaded(folders, "qformer"), QUESTION, pictures=((0, ONE),))[0]
    word = free[len(free) // 2 :][:3]
    sampling = {"temperature": 0, "repeat_penalty": 1, "max_tokens": 24, "stop": [word]}
    said, usage, _ = ask(
        loaded(folders, "qformer", sampling=sampling), QUESTION, pictures=((0, ONE),)
    )
    assert said == free[: free.index(word)]
    assert usage.finish == "stop"


# ------------------------------------------------------------ what it takes


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_text_model_is_quantized(folders: Folders, variant: str) -> None:
    llm, pictures = loaded(folders, variant, quantization=["nf4"]).modules()
    assert any(p.dtype == torch.uint8 for p in llm.parameters())
    assert {p.dtype for p in pictures.parameters()} == {torch.bfloat16}


def test_in_sixteen_bits_the_qformer_is_in_sixteen_bits_too(folders: Folders) -> None:
    """As the estimate says; a card before Ampere takes fp16, a CPU never."""
    cls, folder = VisionTowerWithQFormer, folders["qformer"] / "vision"
    half, full = (cls.from_pretrained(folder, dtype=t) for t in (torch.float16, torch.float32))
    assert {tensor.dtype for tensor in half.parameters()} == {torch.float16}
    shown = pixels_of(ONE)
    with torch.no_grad():
        seen, wanted = half.eval()(shown).float(), full.eval()(shown)
    torch.testing.assert_close(seen, wanted, rtol=0, atol=0.02)
    assert wanted.std() > 0.5


def layer(*widths: int) -> int:
    """Parameters of a linear layer with a bias."""
    return widths[0] * widths[1] + widths[1]


def test_the_shipped_cards_have_the_parameters_of_their_parts(catalog: Catalog) -> None:
    seen, asked, read = 1408, 768, 4096
    block = layer(seen, 3 * seen) + layer(seen, seen) + layer(seen, 6144) + layer(6144, seen)
    vision = 39 * (block + 4 * seen) + layer(3 * 14**2, seen) + 258 * seen + 2 * seen
    block = 4 * layer(asked, asked) + layer(asked, 3072) + layer(3072, asked) + 4 * asked
    crossing = 2 * layer(asked, asked) + 2 * layer(seen, asked) + 2 * asked
    qformer = 12 * block + 6 * crossing + 2 * asked + 32 * asked
    for name, parameters in {
        "minigpt-4-vicuna-7b": vision + qformer + layer(asked, read) + 2 * read,
        "minigpt-4-llama-2-7b": vision + layer(4 * seen, read),
    }.items():
        shape = catalog.card(name).architecture
        found = sum(math.prod(tensor.shape) for tensor in tensors(shape) if tensor.parameter)
        assert found - 6_738_415_616 == parameters, "beside those of Llama-2-7B"
        assert footprint(catalog.card(name)).total < 12e9


def test_a_vision_tower_that_is_a_part_by_itself_takes_room_to_look() -> None:
    """As much as the same tower inside of BLIP-2."""
    blip = {"model_type": "blip-2", "vision_config": tiny_minigpt4.VISION}
    small = {"qformer_config": tiny_minigpt4.QFORMER, "text_config": causal_config("llama")}
    whole = ModelPart(
        library="transformers", model="AutoModelForImageTextToText", config={**blip, **small}
    )
    alone = ModelPart(
        library="transformers", model="Blip2VisionModel", config=dict(tiny_minigpt4.VISION)
    )
    found = [
        peak_bytes(forward_passes, build_meta_module(part), 1, None) for part in (alone, whole)
    ]
    assert found[0] == found[1] > 0


# ------------------------------------------------------------ wrong folders


def refused(folders: Folders, tmp_path: Path, change: Any) -> str:
    """What is said when the folder was changed so."""
    folder = shutil.copytree(folders["qformer"], tmp_path / "changed")
    change(folder)
    with pytest.raises(MultimodalError) as caught:
        load(tiny_minigpt4.card("qformer"), folder, "cpu")
    return str(caught.value)


def test_a_model_that_is_refused_when_most_of_it_is_loaded_holds_nothing(
    folders: Folders, tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["qformer"], tmp_path / "changed")
    shutil.rmtree(folder / "llm")
    save_causal(folder / "llm", "llama", hidden_size=32)
    with pytest.raises(BackendError, match="the text model in llm/ reads 32") as caught:
        load(tiny_minigpt4.card("qformer"), folder, "cpu")
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is VisionTowerWithQFormer], caught


def saved(state: Any) -> Any:
    return lambda folder: torch.save(state, next(folder.glob("*.pth")))


def without(*names: str) -> Any:
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)]


def pickled_tower(folder: Path) -> None:
    path = folder / "vision" / "model.safetensors"
    torch.save(load_file(path), path.parent / "pytorch_model.bin")
    path.unlink()


def cut(folder: Path) -> None:
    path = next(folder.glob("*.pth"))
    path.write_bytes(path.read_bytes()[:2000])


STATE = tiny_minigpt4.projection("qformer")
FOREIGN = STATE | {"llama_model.lora_A.weight": torch.zeros(1)}
WIDE = {"llama_proj.weight": torch.zeros(32, WIDTH), "llama_proj.bias": torch.zeros(32)}
REFUSED: dict[str, tuple[Any, str]] = {
    "foreign": (saved({"model": FOREIGN}), "holds the foreign llama_model.lora_A.weight"),
    "missing": (
        saved({"model": {"llama_proj.weight": STATE["llama_proj.weight"]}}),
        "pretrained_qformer.pth lacks llama_proj.bias",
    ),
    "no model": (saved(STATE), "has no 'model' in it"),
    "a list": (saved([1]), "has no 'model' in it"),
    "no layer": (saved({"model": {name: torch.zeros(4) for name in STATE}}), "is no linear layer"),
    "other variant": (
        saved({"model": tiny_minigpt4.projection("neighbours")}),
        "trained on 256 numbers a token",
    ),
    "other width": (
        saved({"model": WIDE}),
        "embeddings of 32 numbers, and the text model in llm/ reads 64",
    ),
    "damaged": (cut, "or is damaged"),
    "no file": (without("*.pth"), "there are 0 files of *.pth"),
    "two files": (lambda folder: (folder / "more.pth").touch(), "there are 2 files of *.pth"),
    "no tower": (without("vision/*.safetensors"), "no file of safetensors in"),
    "pickled tower": (pickled_tower, "there is no file of safetensors in"),
    "no text model": (without("llm/config.json"), "there is no config.json in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_part_is_refused_by_what_is_wrong(
    folders: Folders, tmp_path: Path, name: str
) -> None:
    change, sentence = REFUSED[name]
    assert sentence in refused(folders, tmp_path, change)


class Malicious:
    def __init__(self, touched: Path) -> None:
        self._touched = touched

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._touched),)


def test_a_malicious_checkpoint_is_not_run(folders: Folders, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    sentence = refused(folders, tmp_path, saved({"model": Malicious(touched)}))
    assert "nothing in it was run" in sentence
    assert not touched.exists()


def pickled(state: Any = None) -> Any:
    """The text model as PyTorch saves it; `state` in place of its tensors."""

    def change(folder: Path) -> None:
        path = folder / "llm" / "model.safetensors"
        torch.save(load_file(path) if state is None else state, path.parent / "pytorch_model.bin")
        path.unlink()

    return change


def test_a_text_model_may_be_published_as_a_pickle_of_tensors(
    folders: Folders, tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["qformer"], tmp_path / "pickled")
    pickled()(folder)
    (folder / "projection").mkdir()
    next(folder.glob("*.pth")).rename(folder / "projection" / "mine.pth")
    model = load(tiny_minigpt4.card("qformer"), folder, "cpu")
    assert isinstance(model, MiniGPT4)
    shown = ((0, ONE),)
    assert (
        ask(model, QUESTION, pictures=shown)[0]
        == ask(loaded(folders, "qformer"), QUESTION, pictures=shown)[0]
    )


def test_a_malicious_pickle_of_a_text_model_is_not_run(folders: Folders, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    sentence = refused(folders, tmp_path, pickled({"lm_head.weight": Malicious(touched)}))
    assert "consist of more than tensors, or are damaged; nothing in them was run" in sentence
    assert not touched.exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"chat_template": "{{ messages }}"}, "must write <ImageHere> for a picture"),
        ({"architecture": {"kind": "measured", "weights_bytes": 1}}, "of the kind 'modules'"),
    ],
)
def test_a_card_that_leaves_open_what_the_model_is_is_refused(
    folders: Folders, more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CardError, match=sentence):
        loaded(folders, "qformer", **more)


def test_a_template_that_forgets_a_picture_is_told(folders: Folders) -> None:
    once = "{% if messages[-1]['content'][0]['type'] == 'image' %}<ImageHere>{% endif %} Well?"
    model = loaded(folders, "qformer", chat_template=once)
    with pytest.raises(CardError, match="wrote <ImageHere> 1 times for 2 pictures"):
        ask(model, QUESTION, pictures=((0, ONE), (0, OTHER)))


def test_a_template_that_shows_a_picture_where_there_is_none_is_refused_at_load(
    folders: Folders,
) -> None:
    with pytest.raises(CardError, match="wrote <ImageHere> 1 times for 0 pictures"):
        loaded(folders, "qformer", chat_template="Look: <ImageHere>")
