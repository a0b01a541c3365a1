"""Adapters on a model that is in memory: tiny random checkpoints and random adapters of PEFT's."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from text_requests import QUESTION, Turn, ask, text_request
from tiny_adapters import adapter_card, save_adapter
from tiny_engines import leave_and_return
from tiny_models import CAUSAL, Checkpoint, causal_card, every_causal, load_causal

from multimodal.backends.hf.causal_lm import CausalLM
from multimodal.backends.module_adapters import Adapters
from multimodal.catalog.cards import ADAPTER_CONFIG, ADAPTER_WEIGHTS, ModelCard
from multimodal.errors import BackendError
from multimodal.events import TextDelta
from multimodal.memory.devices.storages import storage_bytes

KINDS = ["fp32", "int8", "nf4-double"]
SECOND: Turn = ("user", "The river runs to the sea.")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return every_causal(tmp_path_factory)


@pytest.fixture(scope="module")
def adapters(
    folders: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Path]]:
    """Two of each family."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        family: [save_adapter(folder / f"{family}{seed}", config, seed) for seed in (1, 2)]
        for family, (_, config) in folders.items()
    }


@pytest.fixture(scope="module")
def cards(folders: Any, adapters: Any) -> list[ModelCard]:
    """Of the adapters of the Llama."""
    base = causal_card(folders["llama"][1])
    return [adapter_card(base, folder) for folder in adapters["llama"]]


@pytest.fixture
def llama(folders: dict[str, Checkpoint]) -> Iterator[CausalLM]:
    backend = load_causal(folders["llama"])
    yield backend
    backend.close()


def conversation(model: Any) -> list[str]:
    """What it answers in two turns, the second of which goes on with what is kept of the first."""
    first = ask(model, QUESTION).text
    return [first, ask(model, QUESTION, ("assistant", first), SECOND).text]


def reference(folder: Path, adapter: Path, tokenizer: Any, *turns: Turn) -> str:
    """What PEFT's own model answers, loaded for this and nothing else."""
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model: Any = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
    said = [{"role": role, "content": text} for role, text in turns]
    prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    given = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    made = model.generate(**given, max_new_tokens=24, do_sample=False)
    new = made[0, given["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).rstrip("\ufffd")


@pytest.mark.parametrize("family", CAUSAL)
def test_an_adapted_answer_is_that_of_pefts_own_model(
    folders: Any, adapters: Any, family: str
) -> None:
    folder, config = folders[family]
    model = load_causal(folders[family])
    base = causal_card(config)
    plain = ask(model, QUESTION).text
    for adapter in adapters[family]:
        adapted = model.adapted(adapter_card(base, adapter))
        told = conversation(adapted)
        turns = (QUESTION, ("assistant", told[0]), SECOND)
        assert told[0] == reference(folder, adapter, model.tokenizer, QUESTION) != plain
        assert told[1] == reference(folder, adapter, model.tokenizer, *turns)
    model.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_answers_as_if_there_had_never_been_an_adapter(
    folders: Any, cards: list[ModelCard], kind: str
) -> None:
    untouched, model = (load_causal(folders["llama"], quantization=[kind]) for _ in range(2))
    expected = conversation(untouched)
    inner: Any = model.modules()[0]
    before = {name: id(part) for name, part in inner.named_modules()}
    assert conversation(model) == expected
    told = [conversation(model.adapted(card)) for card in cards]
    assert told[0] != told[1]
    assert expected not in told
    assert conversation(model) == expected, "what was kept of adapted turns is not used"
    assert [conversation(model.adapted(card)) for card in cards] == told
    assert {name: id(part) for name, part in inner.named_modules()} == before
    assert storage_bytes(inner) == storage_bytes(untouched.modules()[0])
    assert not any("peft" in name or "lora" in name for name in vars(inner))
    for backend in (untouched, model):
        backend.close()


@pytest.mark.parametrize("at_most_bytes", [None, 0])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_adapters_go_on_a_model_that_left_the_device_and_came_back(
    folders: Any, cards: list[ModelCard], kind: str, at_most_bytes: int | None
) -> None:
    """Also on one of which every layer only visits the device."""
    model = load_causal(folders["llama"], quantization=[kind])
    expected, adapted = conversation(model), conversation(model.adapted(cards[0]))
    for _ in range(2):
        mirrors = leave_and_return(model, at_most_bytes)
        assert conversation(model.adapted(cards[0])) == adapted
        assert conversation(model) == expected
        del mirrors
    model.close()


def test_nothing_of_one_adapters_conversations_is_used_for_another(
    llama: CausalLM, cards: list[ModelCard]
) -> None:
    long: Turn = ("user", "The cat sleeps in the warm sun. " * 8)
    for model in (llama, *map(llama.adapted, cards)):
        assert ask(model, long).usage.cached_tokens == 0
    for model in (llama, *map(llama.adapted, cards)):
        assert ask(model, long).usage.cached_tokens > 40


def test_an_adapter_that_was_trained_again_is_read_again(
    llama: CausalLM, folders: Any, tmp_path: Path
) -> None:
    config = folders["llama"][1]
    card = adapter_card(causal_card(config), save_adapter(tmp_path, config, 1))
    first = conversation(llama.adapted(card))
    save_adapter(tmp_path, config, 2, r=8)
    second = conversation(llama.adapted(card))
    assert second != first
    assert second == conversation(load_causal(folders["llama"]).adapted(card))


def test_switching_is_measured_and_reads_the_files_once(
    llama: CausalLM, folders: Any, tmp_path: Path
) -> None:
    config = folders["llama"][1]
    card = adapter_card(causal_card(config), save_adapter(tmp_path, config))
    adapted = llama.adapted(card)
    first = ask(adapted, QUESTION)
    assert adapted.switch_s > 0
    weights = tmp_path / ADAPTER_WEIGHTS
    state, whole = weights.stat(), weights.read_bytes()
    weights.write_bytes(whole[:-1000] + bytes(1000))
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    again = llama.adapted(card)
    assert ask(again, QUESTION).text == first.text
    assert again.switch_s > 0


def test_a_stopped_turn_leaves_the_model_without_the_adapter(
    llama: CausalLM, cards: list[ModelCard]
) -> None:
    expected = ask(llama, QUESTION).text
    events = llama.adapted(cards[0]).run(text_request([QUESTION]), threading.Event())
    assert any(isinstance(event, TextDelta) for event in events)
    events.close()
    assert ask(llama, QUESTION).text == expected


def test_turns_with_different_adapters_at_once_do_not_meet(
    llama: CausalLM, cards: list[ModelCard]
) -> None:
    asked: list[Any] = [llama, *(llama.adapted(card) for card in cards)] * 2
    expected = [ask(model, QUESTION).text for model in asked]
    told: dict[int, str] = {}

    def answer(place: int) -> None:
        told[place] = ask(asked[place], QUESTION).text

    threads = [threading.Thread(target=answer, args=(place,)) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [told[place] for place in range(len(asked))] == expected


def test_the_adapters_card_says_how_it_is_sampled(llama: CausalLM, cards: list[ModelCard]) -> None:
    short = cards[0].model_copy(
        update={"sampling": cards[0].sampling.model_copy(update={"max_tokens": 3})}
    )
    assert ask(llama.adapted(short), QUESTION).usage.completion_tokens == 3
    briefed = cards[0].model_copy(update={"system_prompt": "Be brief."})
    plain, told = (ask(llama.adapted(card), QUESTION).usage for card in (cards[0], briefed))
    assert told.prompt_tokens > plain.prompt_tokens


def test_adapters_in_host_memory_are_bounded(
    llama: CausalLM, cards: list[ModelCard], folders: Any
) -> None:
    """The newest is kept whatever it takes."""
    inner: Any = llama.modules()[0]
    adapters = Adapters("Tiny", most_bytes=1)
    for card in cards * 2:
        with adapters.applied(inner, card, torch.device("cpu")):
            pass
        assert adapters.kept == 1


# ---------------------------------------------------------------- what is refused


def changed(adapter: Path, folder: Path, **facts: Any) -> Path:
    """A copy of an adapter whose configuration says something else."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, **facts}))
    return folder


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, "is of the kind IA3; only LoRA can be used"),
    ({"bias": "all"}, "has 'bias', which would change the model"),
    ({"init_lora_weights": "pissa"}, "'init_lora_weights' = 'pissa', which alters the model"),
    ({"modules_to_save": ["lm_head"]}, "has 'modules_to_save', which changes more"),
    ({"use_dora": True}, "has 'use_dora', which changes more"),
    ({"r": 0}, "has a rank of 0"),
    ({"r": "many"}, "is damaged or no configuration of an adapter"),
    ({"r": 8}, r"down_proj \(lora_a\) it is made for \(4, 128\), and Tiny has \(8, 128\)"),
    ({"target_modules": ["c_attn"]}, "made for another model than Tiny, or asks"),
    ({"target_modules": ["q_proj"]}, "Tiny has no such layer"),
]


@pytest.mark.parametrize(("facts", "sentence"), REFUSED, ids=lambda it: str(it)[:40])
def test_an_adapter_that_cannot_be_used_is_refused_and_leaves_nothing(
    llama: CausalLM, adapters: Any, cards: Any, tmp_path: Path, facts: Any, sentence: str
) -> None:
    expected = ask(llama, QUESTION).text
    inner: Any = llama.modules()[0]
    before = {name: id(part) for name, part in inner.named_modules()}
    card = cards[0].model_copy(
        update={"adapter": changed(adapters["llama"][0], tmp_path / "changed", **facts)}
    )
    with pytest.raises(BackendError, match=sentence) as told:
        ask(llama.adapted(card), QUESTION)
    assert str(told.value).startswith("Taught cannot be used: ")
    assert {name: id(part) for name, part in inner.named_modules()} == before
    assert ask(llama, QUESTION).text == expected


def test_tensors_that_are_no_part_of_a_lora_are_named(
    llama: CausalLM, adapters: Any, cards: Any, tmp_path: Path
) -> None:
    folder = changed(adapters["llama"][0], tmp_path / "changed")
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    save_file({**tensors, "base_model.model.extra": torch.zeros(1)}, folder / ADAPTER_WEIGHTS)
    card = cards[0].model_copy(update={"adapter": folder})
    with pytest.raises(BackendError, match=r"holds 'base_model\.model\.extra', which is no part"):
        ask(llama.adapted(card), QUESTION)
    some = dict(list(tensors.items())[:-1])
    save_file(some, folder / ADAPTER_WEIGHTS)
    with pytest.raises(BackendError, match="it is made for nothing, and Tiny has a layer"):
        ask(llama.adapted(card), QUESTION)


def test_a_damaged_adapter_is_named_and_a_pickle_is_not_read(
    llama: CausalLM, adapters: Any, cards: Any, tmp_path: Path
) -> None:
    folder = changed(adapters["llama"][0], tmp_path / "changed")
    card = cards[0].model_copy(update={"adapter": folder})
    whole = (folder / ADAPTER_WEIGHTS).read_bytes()
    (folder / ADAPTER_WEIGHTS).write_bytes(whole[:-8])
    with pytest.raises(BackendError, match=r"adapter_model\.safetensors is damaged"):
        ask(llama.adapted(card), QUESTION)
    (folder / ADAPTER_WEIGHTS).unlink()
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(BackendError, match=r"there is no adapter_model\.safetensors in"):
        ask(llama.adapted(card), QUESTION)
    (folder / ADAPTER_CONFIG).unlink()
    with pytest.raises(BackendError, match=r"there is no adapter_config\.json in"):
        ask(llama.adapted(card), QUESTION)
    shutil.rmtree(folder)
    with pytest.raises(BackendError, match=r"its adapter should be in .*, which is gone"):
        ask(llama.adapted(card), QUESTION)


def test_an_adapter_of_a_wider_model_is_refused(
    llama: CausalLM, folders: Any, cards: Any, tmp_path: Path
) -> None:
    wide = {**folders["llama"][1], "hidden_size": 128}
    card = cards[0].model_copy(update={"adapter": save_adapter(tmp_path, wide)})
    with pytest.raises(BackendError, match=r"made for another model than Tiny\. At model\.layers"):
        ask(llama.adapted(card), QUESTION)
