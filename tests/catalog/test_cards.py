"""Cards and profiles: facts in TOML, checked, with helpful refusals."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from card_texts import CARD, PROFILE, card_from, catalog_of
from conftest import ROOT
from fakes import FakeSource, program

from multimodal.backends.registry import has_family
from multimodal.backends.speech.speakers import choose_speaker
from multimodal.catalog.cards import Catalog
from multimodal.catalog.sources import FilesSource, UrlSource
from multimodal.errors import CardError, UnknownModelError
from multimodal.memory.estimate.footprint import footprint, usual_quantization
from multimodal.messages import Task


def test_adding_a_model_is_writing_one_file(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path)
    assert catalog.card("tiny").title == "Tiny"
    assert catalog.profile("mine").default_name(Task.TEXT) == "tiny"
    assert catalog.profile("mine").default_name(Task.SPEECH) is None


def test_a_quantization_is_chosen_with_the_name(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path)
    plain, eight = catalog.card("mistral-7b-instruct"), catalog.card("mistral-7b-instruct:int8")
    assert (eight.name, eight.base) == ("mistral-7b-instruct:int8", plain.name)
    assert eight.title == "Mistral 7B (int8)"
    assert footprint(eight).weights > 1.5 * footprint(plain).weights
    assert eight.source == plain.source, "the same files"
    with pytest.raises(UnknownModelError, match=r"not offered in 'q4'\. Known: nf4-double"):
        catalog.card("mistral-7b-instruct:q4")
    assert catalog.title("gone") == "gone"


def test_a_profile_may_name_a_quantization(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, profile=PROFILE.replace('"tiny"', '"phi-2:int8"'))
    name = catalog.profile("mine").default_name(Task.TEXT)
    assert name == "phi-2:int8"
    with pytest.raises(CardError, match="profile mine: Phi-2 is not offered in 'int3'"):
        catalog_of(tmp_path, profile=PROFILE.replace('"tiny"', '"phi-2:int3"'))


def test_the_footprint_counts_the_cache_of_every_slot(tmp_path: Path) -> None:
    found = footprint(catalog_of(tmp_path).card("tiny"))
    assert found.kv_cache == 2 * 2 * 3 * 4 * 2 * 100 * 2
    assert found.total == 1000 + found.kv_cache


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (CARD.replace("license", "licence"), "unknown field 'licence'; did you mean 'license'?"),
        (CARD.replace('title = "Tiny"\n', ""), "the field 'title' is missing"),
        (CARD.replace("kv_heads", "kv_haeds"), "unknown field 'architecture.kv_haeds'"),
        (CARD.replace("= 2\n", "= 0\n"), "concurrency: Input should be greater than 0"),
        (CARD.replace('"text-generation"', '"dancing"'), "task:"),
        (CARD.replace('"MIT"', "MIT"), "not valid TOML"),
        (CARD.replace('"tiny"', '"Tiny Model"'), "name:"),
    ],
)
def test_a_wrong_card_is_refused_by_file_and_field(
    tmp_path: Path, wrong: str, sentence: str
) -> None:
    with pytest.raises(CardError) as caught:
        catalog_of(tmp_path, wrong)
    assert str(caught.value).startswith("tiny.toml: ")
    assert sentence in str(caught.value)


def test_a_profile_that_names_an_unknown_or_unfit_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="there is no model 'tinny'; did you mean 'tiny'"):
        catalog_of(tmp_path, profile=PROFILE.replace('["tiny"]', '["tinny"]'))
    speech = PROFILE.replace("text-generation", "automatic-speech-recognition")
    with pytest.raises(CardError, match="its card says 'text-generation'"):
        catalog_of(tmp_path, profile=speech)


def test_an_unknown_model_is_answered_with_those_that_exist(catalog: Catalog) -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'whisper-base'"):
        catalog.card("whisper-bas")


def test_a_later_folder_replaces_a_shipped_card(tmp_path: Path) -> None:
    name = "smollm2-135m-instruct"
    catalog_of(tmp_path, CARD.replace('"tiny"', f'"{name}"'), PROFILE.replace("tiny", name))
    assert Catalog([ROOT / "models", tmp_path]).card(name).title == "Tiny"


def test_every_shipped_card_and_profile_loads_and_lies_where_it_belongs(catalog: Catalog) -> None:
    cards = {path.stem: path for path in (ROOT / "models/cards").glob("*/*.toml")}
    assert set(cards) == {card.name for card in catalog.cards}
    for name, path in cards.items():
        card = catalog.card(name)
        assert path.parent.name == card.task
    for name in catalog.profile("embedded").names:
        assert has_family(catalog.card(name).family)
    profiles = {path.stem for path in (ROOT / "models/profiles").glob("*.toml")}
    assert profiles == {profile.name for profile in catalog.profiles}


def test_a_profile_may_be_a_file_of_the_persons_own(catalog: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "desk.toml"
    file.write_text(PROFILE.replace("tiny", "smollm2-135m-instruct"), "utf-8")
    assert catalog.profile(str(file)).budget == 10**9
    file.write_text(PROFILE, "utf-8")
    with pytest.raises(CardError, match="there is no model 'tiny'"):
        catalog.profile(str(file))
    with pytest.raises(CardError, match="cannot be read"):
        catalog.profile(str(tmp_path / "absent.toml"))


def test_an_unknown_profile_is_answered_with_those_that_exist(catalog: Catalog) -> None:
    with pytest.raises(CardError, match="no profile 'embeded'; did you mean 'embedded'"):
        catalog.profile("embeded")


ZEROS = "0" * 64
WHEEL = f"""
[[source.wheels]]
project = "one"
version = "1"
sha256 = "{ZEROS}"
size_bytes = 1
"""


def files(place: str = 'kind = "folder", path = "/weights"', path: str = "x") -> str:
    """The source of a card of one file that lies in that place."""
    return f"""
[source]
kind = "files"
[[source.files]]
path = "{path}"
sha256 = "{ZEROS}"
size_bytes = 1
places = [{{ {place} }}]
"""


def parts(ear: str) -> str:
    return f'[source]\nkind = "parts"\nparts.ear = {{ {ear} }}\n'


ADDRESS = f'kind = "file", url = "https://host/a.pt", sha256 = "{ZEROS}"'
OUTSIDE = ("../x", "/x", "a/../x", ".hidden", "a//b", "a\\\\b", "", "a.py")
BY_HAND = 'kind = "folder", repo = "a/b", files = ["../*"], published = "x"'
ONLY_SHIPPED = "source: only shipped cards are fetched from"
FAULTS = {
    "a wheel of no file": (
        files('kind = "wheels", members = ["other:x"]') + WHEEL,
        ".*'other:x' names no wheel of this card",
    ),
    "a misspelt place": (
        files('kind = "hub", repo = "a", pth = "x"'),
        "unknown field 'source.files.0.places.0.pth'",
    ),
    "half a place": (
        files('kind = "hub", repo = "a"'),
        "the field 'source.files.0.places.0.path' is missing",
    ),
    "a place outside": (
        files('kind = "hub", repo = "a", path = "../x"'),
        "source.files.0.places.0.path: ",
    ),
    **{f"the file {path}": (files(path=path), "source.files.0.path: ") for path in OUTSIDE},
    "a misspelt part": (
        parts('kind = "hub", repo = "a/b", revison = "1"'),
        "unknown field 'source.parts.ear.revison'",
    ),
    "a part outside": (parts(BY_HAND), ""),
    "an address": (f"[source]\n{ADDRESS}".replace(", ", "\n"), ONLY_SHIPPED),
    "a part at an address": (parts(ADDRESS), ONLY_SHIPPED),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_source_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    source, sentence = FAULTS[name]
    with pytest.raises(CardError, match=f"tiny.toml: {sentence}"):
        catalog_of(tmp_path, card_from(source))


def test_the_address_of_a_shipped_card_names_its_checksum(catalog: Catalog) -> None:
    whisper = catalog.card("whisper-small").source
    assert isinstance(whisper, UrlSource)
    assert whisper.sha256 in whisper.url


def test_the_embedded_profile_fits_its_own_budget(catalog: Catalog) -> None:
    profile = catalog.profile("embedded")
    # On the smallest machine the voice comes and goes; all others stay beside each other.
    staying = [name for task, (name, *_) in profile.models.items() if task is not Task.TTS]
    assert sum(footprint(catalog.card(name)).total for name in staying) <= profile.budget
    for name in profile.names:
        assert footprint(catalog.card(name)).total <= profile.budget, name


def test_a_better_text_model_leaves_room_for_whisper_in_the_smallest_budget(
    catalog: Catalog,
) -> None:
    def bytes_of(*names: str) -> int:
        return sum(footprint(catalog.card(name)).total for name in names)

    budget = 2_500_000_000
    assert bytes_of("qwen2.5-coder-1.5b-instruct", "whisper-base") <= budget
    small = "qwen2.5-coder-0.5b-instruct"
    assert bytes_of(small, "whisper-base", "picture-describer") <= budget


def test_voices_of_the_hub_speak_with_the_network_of_those_of_the_index(catalog: Catalog) -> None:
    """The same artefacts, so that nothing is fetched again under another name."""
    index, hub = (catalog.card(name) for name in ("kokoro-82m", "kokoro-82m-more-voices"))
    assert isinstance(index.source, FilesSource)
    assert isinstance(hub.source, FilesSource)
    voices = {voice.file for voice in hub.voices}
    assert [f.path for f in hub.source.files[: len(voices)]] == [v.file for v in hub.voices]
    shared = [file for file in hub.source.files if file.path not in voices]
    assert [file.path for file in shared] == ["kokoro-v1.0.int8.onnx", "vocab.json"]
    assert all(file in index.source.files for file in shared)
    assert hub.source.wheels == index.source.wheels
    assert hub.architecture == index.architecture


@pytest.mark.parametrize("name", ["embedded", "laptop", "gpu-8gb", "gpu-12gb", "gpu-24gb"])
def test_every_profile_speaks_french_and_english(catalog: Catalog, name: str) -> None:
    pytest.importorskip("espeakng_loader")
    cards = [catalog.card(card) for card in catalog.profile(name).names]
    french, english = (choose_speaker(cards, language) for language in ("fr", "en"))
    assert french is not None
    assert french.name == "kokoro-82m-more-voices"
    assert english is not None
    assert english.name == "piper-joe-en-us", "the one that is quickest"


def test_the_readme_lists_the_embedded_models_as_their_cards_do(catalog: Catalog) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition("<!-- models -->")[2].partition("<!-- /models -->")[0]
    embedded = set(catalog.profile("embedded").names)
    rows = [
        f"| {card.task} | {card.title} | `{card.family}` | {card.license} "
        f"| {footprint(card).total / 1e9:.2f} GB |"
        for card in catalog.cards
        if card.name in embedded
    ]
    assert table.strip().splitlines()[2:] == rows


def specialists(catalog: Catalog) -> list[str]:
    """A row for every model of a profile that is not among the embedded ones."""
    profiles = [p for p in catalog.profiles if p.name not in {"embedded"}]
    offered = {catalog.card(name).base for p in profiles for name in p.names}
    offered -= set(catalog.profile("embedded").names)
    return [
        f"| {card.task} | {card.title} | `{card.name}` | `{card.family}` | {card.license} "
        f"| {footprint(card).resident / 1e9:.1f} GB |"
        for card in catalog.cards
        if card.name in offered
    ]


@pytest.mark.slow
def test_the_readme_lists_the_specialists_as_their_cards_do(catalog: Catalog) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition("<!-- specialists -->")[2].partition("<!-- /specialists -->")[0]
    assert table.strip().splitlines()[2:] == specialists(catalog)


# ---------------------------------------------------------------- names of models


@pytest.mark.parametrize(
    ("name", "kind", "tokens"),
    [
        ("llama-2-13b-chat@2048", "nf4-double", 2048),
        ("llama-2-13b-chat:int8@2048", "int8", 2048),
        ("llama-2-13b-chat:int8", "int8", 4096),
    ],
)
def test_a_name_says_quantization_and_context(
    catalog: Catalog, name: str, kind: str, tokens: int
) -> None:
    card = catalog.card(name)
    assert (card.name, card.base) == (name, "llama-2-13b-chat")
    assert (usual_quantization(card), card.context_tokens) == (kind, tokens)
    whole = catalog.card(name.partition("@")[0])
    assert (footprint(card).total < footprint(whole).total) == (tokens < 4096)


@pytest.mark.parametrize("context", ["8192", "0", "-1", "x", "9" * 90])
def test_a_context_is_never_longer_than_the_models(catalog: Catalog, context: str) -> None:
    with pytest.raises(UnknownModelError, match="reads at most 4,096 tokens"):
        catalog.card(f"llama-2-13b-chat@{context}")


@pytest.mark.parametrize("asked", ["llama-2-13b-chat", "llama-2-13b-chat@4096"])
def test_whoever_asks_gets_the_context_that_the_profile_allows(tmp_path: Path, asked: str) -> None:
    with closing(program(tmp_path, FakeSource(), profile="gpu-12gb")) as made:
        assert made.card(asked).name == "llama-2-13b-chat@3840"
        assert made.card("llama-2-13b-chat:fp4").name == "llama-2-13b-chat:fp4@3840"
        assert made.card("gpt2").name == "gpt2"


def test_the_large_card_profile_lists_what_was_ordered(catalog: Catalog) -> None:
    profile = catalog.profile("gpu-12gb")
    families = {catalog.card(name).family for name in profile.names}
    assert profile.default_name(Task.TEXT) == "mistral-7b-instruct"
    assert profile.default_name(Task.IMAGE) == "llava-1.5-7b"
    assert (profile.default_name(Task.SPEECH) or "").startswith("whisper")
    assert families >= {
        *("causal_lm", "image_text", "minigpt4", "openai_whisper", "wav2vec2"),
        *("seamless", "diffusion"),
    }
    bases = {catalog.card(name).base for name in profile.names}
    assert bases >= {
        *("llama-2-7b-chat", "llama-2-13b-chat", "llama-3-8b-instruct", "mistral-7b-instruct"),
        *("phi-2", "gemma-2b-it", "gemma-7b-it", "gpt2", "llava-1.5-7b", "llava-1.5-13b"),
        *("minigpt-4-vicuna-7b", "blip-2-opt-2.7b", "whisper-small", "wav2vec2-base-960h"),
        *("seamless-m4t-v2-large", "stable-diffusion-1.5"),
    }
