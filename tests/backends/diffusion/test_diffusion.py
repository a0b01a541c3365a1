"""Pictures by tiny random pipelines, read from the layout that is published on the hub."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_diffusion as tiny
import torch
from PIL import Image
from tiny_engines import leave_and_return

from multimodal.backends.base import Backend, load
from multimodal.backends.diffusion.denoising import PREVIEW_LATENTS
from multimodal.backends.diffusion.pipeline import free_bytes_of, keep_decoder_in_range, set_tiling
from multimodal.backends.sampling import MAX_SEED
from multimodal.errors import BackendError, RequestError
from multimodal.events import EngineEvent, ImageGenerated, Notice, Preview, Progress
from multimodal.memory.devices.storages import slots, storage_bytes
from multimodal.messages import Usage
from multimodal.requests import ImageGenerationRequest

CAT = ImageGenerationRequest("a cat", seed=7, preview_every_s=None)
KINDS: list[tuple[tiny.Kind, str]] = [
    ("sd", "DDIMScheduler"),
    ("sd", "LCMScheduler"),
    ("sdxl", "EulerDiscreteScheduler"),
    ("ldm", "DDIMScheduler"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("tiny") / "sd", tiny.pipeline("sd"))


@pytest.fixture(scope="module")
def backend(folder: Path) -> Iterator[Backend]:
    backend = load(tiny.card(folder), folder, "cpu")
    yield backend
    backend.close()


def loaded(folder: Path, kind: tiny.Kind = "sd", checked: bool | None = None, **facts: Any) -> Any:
    """A pipeline that was saved in `folder`; `facts` as its card says them."""
    files = tiny.saved(folder, tiny.pipeline(kind, checked=checked))
    return load(tiny.card(files, **facts), files, "cpu")


def drawn(backend: Backend, request: ImageGenerationRequest) -> list[EngineEvent]:
    return list(backend.run(request, threading.Event()))


def pictures(events: list[EngineEvent]) -> list[Image.Image]:
    made = [event for event in events if isinstance(event, ImageGenerated)]
    return [Image.open(io.BytesIO(event.png)).convert("RGB") for event in made]


def pixels(events: list[EngineEvent]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures(events)]


def notices(events: list[EngineEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def usage(events: list[EngineEvent]) -> Usage:
    assert isinstance(events[-1], Usage)
    return events[-1]


def plain(made: Any, **more: Any) -> bytes:
    """What diffusers itself draws of a cat with seed 7."""
    noise = torch.Generator("cpu").manual_seed(7)
    asked = {"num_inference_steps": 3, "guidance_scale": 5.0} | more
    picture: Image.Image = made("a cat", generator=noise, **asked).images[0]
    return picture.tobytes()


def away(exact: bytes, near: bytes) -> float:
    """By how much the colours of two pictures differ on average."""
    return sum(abs(a - b) for a, b in zip(exact, near, strict=True)) / len(exact)


# ------------------------------------------------------------ pictures


@pytest.mark.parametrize(("kind", "scheduler"), KINDS)
def test_pixels_are_those_of_the_pipeline_alone(
    kind: tiny.Kind, scheduler: str, tmp_path: Path
) -> None:
    files = tiny.saved(tmp_path, tiny.pipeline(kind, scheduler))
    alone = diffusers.DiffusionPipeline.from_pretrained(str(files), use_safetensors=True)
    events = drawn(load(tiny.card(files), files, "cpu"), CAT)
    assert pixels(events) == [plain(alone)]
    assert (usage(events).steps, usage(events).seed, usage(events).finish) == (3, 7, "stop")
    told = [event.fraction for event in events if isinstance(event, Progress)]
    assert told == pytest.approx([0, 1 / 3, 2 / 3])


def test_weights_in_half_precision_are_found(tmp_path: Path) -> None:
    files = tiny.saved(tmp_path, tiny.pipeline("sd").to(torch.float16), variant="fp16")
    assert not (files / "unet/diffusion_pytorch_model.safetensors").exists()
    assert len(pixels(drawn(load(tiny.card(files), files, "cpu"), CAT))) == 1


def test_the_older_layout_of_tokenizers_is_read(folder: Path, tmp_path: Path) -> None:
    """Stable Diffusion 1.5 was published with a vocabulary and merges, not one tokenizer.json."""
    files = tiny.saved(tmp_path, tiny.pipeline("sd"))
    whole = files / "tokenizer/tokenizer.json"
    model = json.loads(whole.read_text("utf-8"))["model"]
    whole.unlink()
    (files / "tokenizer/vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    (files / "tokenizer/merges.txt").write_text("#version: 0.2\n", "utf-8")
    older = load(tiny.card(files), files, "cpu")
    assert pixels(drawn(older, CAT)) == pixels(drawn(load(tiny.card(folder), folder, "cpu"), CAT))


def test_the_card_may_name_another_scheduler(folder: Path) -> None:
    made = diffusers.DiffusionPipeline.from_pretrained(str(folder), use_safetensors=True)
    made.scheduler = diffusers.EulerDiscreteScheduler.from_config(made.scheduler.config)
    quick = load(tiny.card(folder, scheduler="euler"), folder, "cpu")
    assert pixels(drawn(quick, CAT)) == [plain(made)]


@pytest.mark.parametrize(
    "name", ["ddim", "pndm", "euler a", "dpm++ 2m", "dpm++ 2m karras", "unipc", "lcm"]
)
def test_every_scheduler_that_a_card_may_name_draws(folder: Path, name: str) -> None:
    assert len(pixels(drawn(load(tiny.card(folder, scheduler=name), folder, "cpu"), CAT))) == 1


def test_a_seed_gives_the_same_picture_and_chance_another(backend: Backend) -> None:
    by_chance = drawn(backend, replace(CAT, seed=None))
    seed = usage(by_chance).seed
    assert pixels(drawn(backend, replace(CAT, seed=seed))) == pixels(by_chance)
    assert pixels(drawn(backend, CAT)) != pixels(by_chance)


def test_several_pictures_have_seeds_of_their_own(backend: Backend) -> None:
    events = drawn(backend, replace(CAT, count=3))
    alone = [pixels(drawn(backend, replace(CAT, seed=seed)))[0] for seed in (7, 8, 9)]
    assert pixels(events) == alone
    assert [event.seed for event in events if isinstance(event, ImageGenerated)] == [7, 8, 9]
    assert usage(events).steps == 9
    told = {event.text for event in events if isinstance(event, Progress)}
    assert told == {"Drawing 1 of 3", "Drawing 2 of 3", "Drawing 3 of 3"}


@pytest.mark.parametrize("first", [None, MAX_SEED - 2])
def test_every_seed_that_is_told_may_be_entered_again(backend: Backend, first: int | None) -> None:
    events = drawn(backend, replace(CAT, seed=first, count=3))
    told = [event.seed for event in events if isinstance(event, ImageGenerated)]
    assert usage(events).seed == told[0]
    assert all(0 <= seed < MAX_SEED for seed in told), "what a chat takes"
    again = [pixels(drawn(backend, replace(CAT, seed=seed)))[0] for seed in told]
    assert again == pixels(events)


def test_the_request_goes_before_the_card(backend: Backend) -> None:
    events = drawn(backend, replace(CAT, steps=5, guidance=1.0, width=96, height=64))
    assert usage(events).steps == 5
    assert pictures(events)[0].size == (96, 64)
    assert pixels(drawn(backend, replace(CAT, guidance=1.0))) != pixels(drawn(backend, CAT))


# ------------------------------------------------------------ a picture to begin with


def test_a_picture_is_drawn_anew_in_its_own_proportions(backend: Backend) -> None:
    source = Image.effect_mandelbrot((200, 100), (-2, -1, 1, 1), 50).convert("RGB")
    asked = replace(CAT, source=source, strength=0.5)
    events = drawn(backend, asked)
    (made,) = pictures(events)
    assert made.size == (88, 64), "as near to 64 by 64 in all as 8 pixels allow"
    assert usage(events).steps == 3, "as many steps as the card says, not the half of them"
    other = replace(asked, source=Image.new("RGB", (200, 100)))
    assert pixels(drawn(backend, other)) != pixels(events)
    assert pixels(drawn(backend, asked)) == pixels(events)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_drawing_anew_is_what_diffusers_does(kind: tiny.Kind, tmp_path: Path) -> None:
    files = tiny.saved(tmp_path, tiny.pipeline(kind))
    source = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50).convert("RGB")
    alone = diffusers.AutoPipelineForImage2Image.from_pretrained(str(files))
    expected = plain(alone, image=source, strength=0.5, num_inference_steps=6)
    asked = replace(CAT, source=source, strength=0.5)
    assert pixels(drawn(load(tiny.card(files), files, "cpu"), asked)) == [expected]


def test_a_model_that_draws_from_words_alone_says_so(tmp_path: Path) -> None:
    ldm = loaded(tmp_path, "ldm")
    with pytest.raises(RequestError, match="from words alone"):
        drawn(ldm, replace(CAT, source=Image.new("RGB", (64, 64))))
    told = notices(drawn(ldm, replace(CAT, negative_prompt="dogs")))
    assert told == ["Tiny diffusion knows no negative prompt; yours was left out."]


# ------------------------------------------------------------ stop, previews


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_previews_are_small_and_change_nothing(kind: tiny.Kind, tmp_path: Path) -> None:
    model = loaded(tmp_path, kind, max_pixels=10**6)
    large = replace(CAT, width=512, height=256)
    events = drawn(model, replace(large, preview_every_s=0.0))
    shown = [event for event in events if isinstance(event, Preview)]
    assert shown
    with Image.open(io.BytesIO(shown[0].jpeg)) as preview:
        assert preview.format == "JPEG"
        assert preview.size == (8 * PREVIEW_LATENTS, 4 * PREVIEW_LATENTS)
    without = drawn(model, large)
    assert not any(isinstance(event, Preview) for event in without)
    assert pixels(events) == pixels(without)


# ------------------------------------------------------------ what cannot be had is told


def test_a_picture_that_is_flagged_is_held_back(tmp_path: Path) -> None:
    events = drawn(loaded(tmp_path, checked=True), CAT)
    assert pixels(events) == []
    assert "safety checker of Tiny diffusion held back the picture of seed 7" in notices(events)[0]


def test_a_picture_that_is_not_flagged_is_shown(tmp_path: Path) -> None:
    assert len(pixels(drawn(loaded(tmp_path, checked=False), CAT))) == 1


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_what_of_a_prompt_is_not_read_is_told(kind: tiny.Kind, tmp_path: Path) -> None:
    model = loaded(tmp_path, kind)
    fitting, long = "abc def ghi jkl", "Abc def ghi jkl and MORE."
    assert notices(drawn(model, replace(CAT, prompt=fitting))) == []
    told = notices(drawn(model, replace(CAT, prompt=long, negative_prompt=long)))
    left = "Left out: “d MORE.”."
    assert told == [
        f"Tiny diffusion reads 14 tokens of a prompt. {left}",
        f"Tiny diffusion reads 14 tokens of a negative prompt. {left}",
    ]


def test_a_negative_prompt_without_guidance_is_told(backend: Backend) -> None:
    told = notices(drawn(backend, replace(CAT, negative_prompt="dogs", guidance=1.0)))
    assert told == ["The negative prompt has no effect with a guidance of 1 or less."]
    heard = drawn(backend, replace(CAT, negative_prompt="dogs"))
    assert (notices(heard), pixels(heard) != pixels(drawn(backend, CAT))) == ([], True)


def test_odd_sizes_are_rounded_and_told(backend: Backend) -> None:
    events = drawn(backend, replace(CAT, width=70, height=75))
    assert pictures(events)[0].size == (72, 72)
    assert notices(events) == ["Drawn at 72x72, since sides are multiples of 8 pixels."]


@pytest.mark.parametrize("size", [(4096, 4096), (63, 64), (64, 1)])
def test_sizes_out_of_bounds_are_refused_in_one_sentence(
    backend: Backend, size: tuple[int, int]
) -> None:
    told = f"cannot draw {size[0]}x{size[1]} pixels: at least 64 .* such as 1024x1024"
    with pytest.raises(RequestError, match=told):
        drawn(backend, replace(CAT, width=size[0], height=size[1]))


def test_pickles_foreign_code_and_empty_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no model_index\.json"):
        load(tiny.card(tmp_path), tmp_path, "cpu")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (tmp_path / "model_index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(BackendError, match="holds no safetensors"):
        load(tiny.card(tmp_path), tmp_path, "cpu")
    for changed in ({"unet": ["os", "system"]}, {"_class_name": ["my_pipeline", "Mine"]}):
        files = tiny.saved(tmp_path / str(len(changed)), tiny.pipeline("sd"))
        (files / "model_index.json").write_text(json.dumps(index | changed), "utf-8")
        with pytest.raises(BackendError, match="brings code of its own"):
            load(tiny.card(files), files, "cpu")


# ------------------------------------------------------------ memory


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_model_that_left_and_came_back_draws_the_same(kind: tiny.Kind, tmp_path: Path) -> None:
    model = loaded(tmp_path, kind)
    requests = CAT, replace(CAT, source=Image.new("RGB", (64, 64), "red"))
    before = [pixels(drawn(model, request)) for request in requests]
    leave_and_return(model)
    assert [pixels(drawn(model, request)) for request in requests] == before


def test_layers_without_room_visit_while_they_draw(folder: Path) -> None:
    model = load(tiny.card(folder), folder, "cpu")
    before = pixels(drawn(model, CAT))
    leave_and_return(model, at_most_bytes=0)
    assert pixels(drawn(model, CAT)) == before


@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4-double", "fp4-double", "int8"])
def test_only_what_the_card_names_is_packed(folder: Path, kind: str) -> None:
    whole: Any = load(tiny.card(folder), folder, "cpu")
    packed: Any = load(tiny.card(folder, (kind,)), folder, "cpu")
    sizes = [{type(m).__name__: storage_bytes(m) for m in b.modules()} for b in (whole, packed)]
    assert sizes[1]["UNet2DConditionModel"] < sizes[0]["UNet2DConditionModel"]
    assert sizes[1]["AutoencoderKL"] == sizes[0]["AutoencoderKL"]
    assert sizes[1]["CLIPTextModel"] == sizes[0]["CLIPTextModel"]
    events = drawn(packed, CAT)
    assert pixels(events) == pixels(drawn(packed, CAT))
    (exact,), (near,) = pictures(drawn(whole, CAT)), pictures(events)
    assert 0 < away(exact.tobytes(), near.tobytes()) < 20, (
        "near the picture of the whole weights, not equal"
    )


def test_the_safety_checker_takes_nothing_of_the_device(tmp_path: Path) -> None:
    model = loaded(tmp_path, checked=True, quantization=("bf16",))
    kinds = {type(module).__name__ for module in model.modules()}
    assert kinds == {"AutoencoderKL", "CLIPTextModel", "UNet2DConditionModel"}
    assert "held back" in notices(drawn(model, CAT))[0], "it looks in fp32 whatever the others do"


def test_a_decoder_that_overflows_in_half_precision_draws_without_a_copy_of_it() -> None:
    """diffusers would turn it to fp32 and back, which leaves the weights in new storages."""
    made = tiny.pipeline("sdxl")
    side = made.unet.config.sample_size
    # Before 2.12, PyTorch draws other noise in fp16 than in fp32.
    seven = torch.Generator().manual_seed(7)
    noise = torch.randn(1, made.unet.config.in_channels, side, side, generator=seven)
    exact = plain(made, latents=noise)
    made.to(torch.float16, silence_dtype_warnings=True)
    keep_decoder_in_range(made)
    assert made.vae.dtype == torch.bfloat16
    before = {slot.tensor.data_ptr() for slot in slots(made.vae)}
    near = plain(made, latents=noise.half())
    assert {slot.tensor.data_ptr() for slot in slots(made.vae)} == before
    assert away(exact, near) < 4


# ------------------------------------------------------------ a card without room for the decoder


@torch.no_grad()
def test_a_picture_is_decoded_in_tiles_where_it_would_not_fit() -> None:
    vae = tiny.vae().eval()
    latents = torch.randn(1, 4, 96, 96)
    whole = vae.decode(latents).sample
    sizes: list[int] = []
    vae.decoder.register_forward_pre_hook(lambda _module, given: sizes.append(given[0].shape[-1]))
    set_tiling(vae, 768, 768, 768 * 768 * 2600 - 1)
    tiled = vae.decode(latents).sample
    assert max(sizes) == 64
    assert tiled.shape == whole.shape
    sizes.clear()
    vae.decode(latents[..., :64, :64])
    assert sizes == [64], "what fits in one tile is one"
    for free in (768 * 768 * 2600, None):
        set_tiling(vae, 768, 768, free)
        assert torch.equal(vae.decode(latents).sample, whole)


def test_a_decoder_without_tiles_is_left_alone() -> None:
    set_tiling(torch.nn.Linear(1, 1), 1024, 1024, 0)


def test_without_a_card_nothing_is_said_to_be_full() -> None:
    assert free_bytes_of(torch.device("cpu")) is None
