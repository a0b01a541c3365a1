"""Weights in parts, from a hub on loopback to an answer: MiniGPT-4, tiny and random, whose three
parts lie in two repositories and at an address."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import tiny_minigpt4
import tomlkit
import transformers
from card_texts import PROFILE, catalog_of
from fake_hub import FIRST, SECOND, FakeHub, card_for, contents, stop_in_silence, weights
from PIL import Image
from text_requests import QUESTION, ask
from tiny_minigpt4 import save_minigpt4

from multimodal.backends.base import load
from multimodal.backends.hf.minigpt4 import VisionTower, VisionTowerWithQFormer
from multimodal.build import build, fetch_missing
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.catalog.sources import HubSource, ManualSource, PartsSource, UrlSource
from multimodal.doctor.supplies import check_supplies
from multimodal.errors import WeightsError
from multimodal.settings import read_settings
from multimodal.weights import FetchProgress, Weights

SEEING, TALKING = "people/seeing", "people/talking"
READ = ("vision_model.*", "qformer.*", "query_tokens")
PTH = "pretrained_qformer.pth"
INDEX = "model.safetensors.index.json"
PUBLISHED = "https://example.org/minigpt4"


@dataclass(frozen=True)
class Published:
    """The model as a person would put it together, and the files of its parts."""

    folder: Path
    seeing: Mapping[str, bytes]
    talking: Mapping[str, bytes]

    @property
    def shards(self) -> dict[str, set[str]]:
        """The first words of the tensors' names in each shard."""
        found: dict[str, set[str]] = {}
        for name, shard in json.loads(self.seeing[INDEX])["weight_map"].items():
            found.setdefault(shard, set()).add(name.partition(".")[0])
        return found

    @property
    def read(self) -> set[str]:
        """The shards with something that MiniGPT-4 reads."""
        names = {"vision_model", "qformer", "query_tokens"}
        return {shard for shard, held in self.shards.items() if held & names}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("minigpt4")
    save_minigpt4(folder, "qformer")
    blip = transformers.Blip2ForConditionalGeneration.from_pretrained(folder / "vision")
    blip.save_pretrained(tmp_path_factory.mktemp("shards") / "vision", max_shard_size="100KB")
    shards = tmp_path_factory.getbasetemp() / "shards0" / "vision"
    return Published(folder, contents(shards), contents(folder / "llm"))


@dataclass
class Parts:
    """A folder of weights, and the hub with the parts on it."""

    folder: Path
    hub: FakeHub
    published: Published

    def __post_init__(self) -> None:
        self.pth = (self.published.folder / PTH).read_bytes()
        self.hub.addresses = {PTH: self.pth}
        self.hub.others = {
            SEEING: dict(self.published.seeing),
            TALKING: dict(self.published.talking),
        }

    def store(self, **more: Any) -> Weights:
        return weights(self.folder, self.hub, **more)

    def card(self, **changed: Any) -> ModelCard:
        """Its address is that of a server on loopback, which does not speak https."""
        address = UrlSource.model_construct(
            kind="file",
            url=f"{self.hub.url}/file/{PTH}",
            sha256=hashlib.sha256(self.pth).hexdigest(),
            size_bytes=len(self.pth),
        )
        found = {
            "vision": HubSource(kind="hub", repo=SEEING, weights=READ),
            "llm": HubSource(kind="hub", repo=TALKING),
            "projection": address,
        }
        source = PartsSource.model_construct(kind="parts", parts={**found, **changed})
        return tiny_minigpt4.card("qformer").model_copy(update={"source": source})

    def fetch(self, **more: Any) -> Path:
        return self.store(**more).ensure(self.card())


@pytest.fixture
def parts(tmp_path: Path, hub: FakeHub, published: Published) -> Parts:
    return Parts(tmp_path, hub, published)


def answer(files: Path) -> str:
    model = load(tiny_minigpt4.card("qformer"), files, "cpu")
    picture = Image.radial_gradient("L").convert("RGB")
    return ask(model, QUESTION, pictures=((0, picture),)).text


# ------------------------------------------------------------ from the hub to an answer


def test_a_model_in_parts_is_fetched_once_and_answers_as_one_put_together_by_hand(
    parts: Parts,
) -> None:
    store = parts.store()
    assert not store.is_ready(parts.card())
    files = store.ensure(parts.card())
    said = answer(files)
    assert said
    assert said == answer(parts.published.folder)
    parts.hub.requests.clear()
    again = parts.store(offline=True)
    assert again.is_ready(parts.card())
    assert again.ensure(parts.card()) == files
    assert parts.hub.requests == []


def test_only_the_shards_with_what_is_read_are_asked_for(parts: Parts) -> None:
    files = parts.fetch()
    asked = {name for name in parts.hub.files_sent if name.startswith(f"{SEEING}/model-")}
    read = parts.published.read
    assert asked == {f"{SEEING}/{shard}" for shard in read}
    assert len(read) < len(parts.published.shards), "the language model is in others"
    index = json.loads((files / "vision" / INDEX).read_text("utf-8"))["weight_map"]
    assert set(index.values()) == read
    assert {name.partition(".")[0] for name in index} == {"vision_model", "qformer", "query_tokens"}


def test_one_progress_counts_all_parts(parts: Parts) -> None:
    store, seen = parts.store(), list[FetchProgress]()
    offered = store.query_bytes(parts.card())
    assert not list(parts.folder.iterdir()), "asking writes nothing"
    store.ensure(parts.card(), seen.append)
    fetching = [p for p in seen if p.phase == "fetching"]
    assert {p.total_bytes for p in fetching} == {offered}, "known before anything is said to come"
    assert [p.done_bytes for p in fetching] == sorted(p.done_bytes for p in fetching)
    assert (seen[-1].phase, seen[-1].done_bytes) == ("ready", offered)
    kept = contents(parts.folder / "tiny")
    assert sum(map(len, kept.values())) == offered


def test_licence_and_size_of_all_parts_are_told_before_they_are_fetched(parts: Parts) -> None:
    found = {
        "vision": {"kind": "hub", "repo": SEEING, "weights": list(READ)},
        "llm": {"kind": "hub", "repo": TALKING},
    }
    source = {"kind": "parts", "parts": found}
    mine = tiny_minigpt4.card("qformer", source=source, license="MIT and others")
    told = mine.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    profile = PROFILE.replace("text-generation", "image-to-text")
    catalog_of(parts.folder / "models", tomlkit.dumps(told), profile)
    program = build(read_settings(data=parts.folder, profile="mine", device="cpu"))
    store = weights(parts.folder / "weights", parts.hub)
    offered = store.query_bytes(mine)
    parts.hub.sent.clear()
    heard: list[tuple[str, set[str]]] = []
    fetch_missing(
        replace(program, weights=store),
        announce=lambda line: heard.append((line, parts.hub.files_sent)),
    )
    program.close()
    assert program.fetching.errors == {}
    assert heard == [(f"Tiny: MIT and others, {offered / 1e6:.0f} MB", {f"{SEEING}/{INDEX}"})]
    assert store.is_ready(mine)


def test_a_cut_part_goes_on_in_a_later_run_and_the_others_stay(parts: Parts) -> None:
    shard = max(parts.published.read, key=lambda name: len(parts.published.seeing[name]))
    size = len(parts.published.seeing[shard])
    parts.hub.cut, parts.hub.cut_after = f"{SEEING}/{shard}", [1000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match=rf"{shard} of {SEEING} is missing: .* is kept"):
        parts.fetch()
    before = parts.hub.files_sent - {parts.hub.cut}
    parts.hub.sent.clear()
    parts.fetch()
    assert (parts.hub.cut, 206, size - 1000) in parts.hub.sent
    assert not parts.hub.files_sent & before


def test_each_part_is_pinned_by_itself(parts: Parts) -> None:
    files = parts.fetch()
    for part, repo in (("vision", SEEING), ("llm", TALKING)):
        pin = json.loads((files / part / "pinned.json").read_text("utf-8"))
        assert (pin["repo"], pin["commit"]) == (repo, FIRST)
    parts.hub.refs["main"] = SECOND
    (files / "llm" / "config.json").write_bytes(b"damaged")
    parts.hub.sent.clear()
    parts.fetch()
    assert parts.hub.files_sent == {f"{TALKING}/config.json"}
    assert (files / "llm" / "config.json").read_bytes() == parts.published.talking["config.json"]


# ------------------------------------------------------------ what cannot be had


def test_offline_nothing_is_asked_for_until_all_parts_are_there(parts: Parts) -> None:
    with pytest.raises(WeightsError, match=r"Tiny has no weights yet: .* --offline forbids"):
        parts.fetch(offline=True)
    assert parts.hub.requests == []
    files = parts.fetch()
    (files / "verified.json").unlink()
    parts.hub.requests.clear()
    parts.fetch(offline=True)
    (files / "projection" / PTH).unlink()
    with pytest.raises(WeightsError, match="--offline forbids"):
        parts.fetch(offline=True)
    assert parts.hub.requests == []


def test_a_gated_part_is_named_before_anything_large_is_fetched(parts: Parts) -> None:
    parts.hub.gated = {TALKING}
    gated = HubSource(kind="hub", repo=TALKING, gated=True)
    with pytest.raises(WeightsError) as caught:
        parts.store().ensure(parts.card(llm=gated))
    assert str(caught.value).startswith(
        f"Tiny has no weights yet: {TALKING} is gated; open https://huggingface.co/{TALKING}, "
    )
    assert not {f"{SEEING}/{shard}" for shard in parts.published.read} & parts.hub.files_sent


def test_a_part_that_is_put_there_by_hand_is_asked_for_by_name(parts: Parts) -> None:
    by_hand = ManualSource(kind="folder", files=("*.pth",), published=PUBLISHED)
    mine, store = parts.card(projection=by_hand), parts.store()
    place = parts.folder / "tiny" / "projection"
    sentence = (
        f"the part 'projection' is to be put there by hand: there is no *.pth in {place}. It is "
        f"published at {PUBLISHED}; put it there, then start again"
    )
    with pytest.raises(WeightsError) as caught:
        store.ensure(mine)
    assert str(caught.value) == f"Tiny has no weights yet: {sentence}."
    assert parts.hub.files_sent == {f"{SEEING}/{INDEX}"}, "nothing is fetched in vain"
    with pytest.raises(WeightsError) as caught:
        store.query_bytes(mine)
    assert str(caught.value) == sentence
    (place / "mine.pth").write_bytes(parts.pth)
    assert answer(store.ensure(mine)) == answer(parts.published.folder)
    assert store.is_ready(mine)


def test_the_disk_must_hold_all_parts_together(parts: Parts) -> None:
    offered = parts.store().query_bytes(parts.card())
    parts.hub.sent.clear()
    free = offered - len(parts.published.seeing[INDEX])
    with pytest.raises(WeightsError, match=r"they need .* MB on the disk .* --data DIR"):
        parts.fetch(free_bytes=lambda path: free)
    assert parts.hub.files_sent == {f"{SEEING}/{INDEX}"}


def test_a_stop_ends_the_fetching_of_parts(parts: Parts) -> None:
    parts.hub.cut = f"{TALKING}/model.safetensors"
    stop_in_silence(parts.hub, parts.store(), parts.card())


def test_the_doctor_says_what_a_shipped_model_in_parts_needs(
    tmp_path: Path, catalog: Catalog
) -> None:
    mine = catalog.card("minigpt-4-vicuna-7b")
    found = {f.name: f for f in check_supplies(read_settings(data=tmp_path, offline=True), [mine])}
    assert not found["model hub"].is_ok
    assert found[mine.title].found == "weights are missing: not asked (--offline)"


# ------------------------------------------------------------ the index of shards


def sharded(weight_map: object, **more: bytes) -> dict[str, bytes]:
    index = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return {
        "config.json": b"{}",
        "a.safetensors": b"aa",
        "b.safetensors": b"b",
        INDEX: index,
    } | more


def test_a_card_of_one_repository_may_ask_for_some_tensors(tmp_path: Path, hub: FakeHub) -> None:
    hub.commits[FIRST] = sharded({"eye.one": "a.safetensors", "mouth.one": "b.safetensors"})
    files = weights(tmp_path, hub).ensure(card_for(weights=["eye.*"]))
    assert hub.files_sent == {"config.json", "a.safetensors", INDEX}
    assert json.loads((files / INDEX).read_text())["weight_map"] == {"eye.one": "a.safetensors"}
    hub.sent.clear()
    hub.refs["main"] = SECOND
    weights(tmp_path, hub).ensure(card_for())
    assert hub.files_sent == {"b.safetensors", INDEX}, (
        "a card that asks for all of it gets the rest"
    )


def test_weights_that_are_one_file_are_fetched_whole(tmp_path: Path, hub: FakeHub) -> None:
    files = weights(tmp_path, hub).ensure(card_for(weights=["eye.*"]))
    assert (files / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (sharded({"mouth.one": "b.safetensors"}), "no tensor of people/tiny is called 'eye.*'"),
        (sharded({"eye.one": "c.safetensors"}), "does not have c.safetensors, which its index"),
        (sharded({"eye.one": "../out"}), r"does not have ../out, which its index names"),
        (sharded(["eye.one"]), "is no index of shards; use another repository"),
        (sharded({}, **{INDEX: b"{"}), "is no index of shards; use another repository"),
        (
            sharded({"eye.one": "a.safetensors"}, **{f"more/{INDEX}": b"{}"}),
            r"several checkpoints in shards .*; name the files of one in `files`",
        ),
    ],
)
def test_an_index_that_does_not_help_is_told(
    tmp_path: Path, hub: FakeHub, files: dict[str, bytes], sentence: str
) -> None:
    hub.commits[FIRST] = files
    with pytest.raises(WeightsError, match=sentence):
        weights(tmp_path, hub).ensure(card_for(weights=["eye.*"]))
    assert hub.files_sent <= {INDEX}


def test_the_shipped_cards_ask_for_the_tensors_that_are_read(
    catalog: Catalog, published: Published
) -> None:
    config = transformers.Blip2Config.from_pretrained(published.folder / "vision")
    for name, cls in (
        ("minigpt-4-vicuna-7b", VisionTowerWithQFormer),
        ("minigpt-4-llama-2-7b", VisionTower),
    ):
        source = catalog.card(name).source
        assert isinstance(source, PartsSource)
        vision = source.parts["vision"]
        assert isinstance(vision, HubSource)
        read = list(cls(config).state_dict())
        for pattern in vision.weights:
            rest = [tensor for tensor in read if not fnmatchcase(tensor, pattern)]
            assert len(rest) < len(read), pattern
            read = rest
        assert read == []
