"""Adapters of GGUF models: what llama.cpp makes of one is what PEFT makes of it."""

from __future__ import annotations

from collections.abc import Callable
from operator import eq
from pathlib import Path
from statistics import fmean
from typing import Any

import peft
import pytest
import torch
import transformers
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from text_requests import QUESTION, ask
from tiny_adapters import adapter_card, save_adapter
from tiny_gguf import finish_gguf
from tiny_models import hub_card
from tiny_text_gguf import (
    TEXT_MODELS,
    complete,
    make_model,
    next_logprobs,
    reference_logprobs,
    reference_text,
    serve,
    write_text_model,
)

from multimodal.backends.base import load
from multimodal.backends.llama_cpp.gguf_lora import gguf_lora
from multimodal.catalog.cards import ADAPTER_WEIGHTS, Catalog, ModelCard
from multimodal.errors import BackendError
from multimodal.studio.stacked_adapters import stack_adapters

SMOLLM = "smollm2-135m-instruct"
BEGINNINGS = (
    "The capital of France is",
    "Once upon a time there was a cat who",
    "To boil an egg you",
    "Three colours are red,",
    "Water is made of",
)
TOKENS = list(range(20, 60))
CLOSE = 0.05
"""Between log-probabilities: llama.cpp keeps keys and values in 16 bits."""


def gguf_card(**more: Any) -> ModelCard:
    facts = {
        "name": "tiny",
        "architecture": {"kind": "measured", "weights_bytes": 1_000_000},
        "quantization": (),
        "context_tokens": 256,
        "engine": {"threads": 1},
    }
    return hub_card("llama_cpp", "", {}, **{**facts, **more})


def card_of(adapter: Path) -> ModelCard:
    return adapter_card(gguf_card(), adapter)


def difference(model: Any, server: Any) -> float:
    """The largest between log-probabilities of the next token."""
    expected, found = reference_logprobs(model, TOKENS), next_logprobs(server, TOKENS)
    assert len(found) == len(expected)
    return max(abs(float(expected[token]) - told) for token, told in found.items())


def adapted(kind: str, adapter: Path) -> Any:
    return peft.PeftModel.from_pretrained(make_model(kind), str(adapter)).eval()


def converted(adapter: Path, language: Path) -> Path:
    return gguf_lora(card_of(adapter), language)


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in GGUF of each architecture."""
    folder = tmp_path_factory.mktemp("gguf")
    return {
        kind: write_text_model(folder / kind / "model.gguf", kind, make_model(kind))
        for kind in TEXT_MODELS
    }


@pytest.mark.parametrize("kind", TEXT_MODELS)
def test_llama_cpp_computes_with_it_what_peft_does(
    languages: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    plain = make_model(kind)
    assert difference(plain, serve(languages[kind])) < CLOSE
    adapter = save_adapter(tmp_path, TEXT_MODELS[kind])
    model = adapted(kind, adapter)
    effect = reference_logprobs(model, TOKENS) - reference_logprobs(plain, TOKENS)
    assert effect.abs().max() > 20 * CLOSE
    assert difference(model, serve(languages[kind], converted(adapter, languages[kind]))) < CLOSE


@pytest.mark.parametrize("target", ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"])
def test_each_layer_of_a_llama_is_laid_out_as_its_weights_are(
    languages: dict[str, Path], tmp_path: Path, target: str
) -> None:
    """Queries and keys have their rows in another order there, all others do not."""
    adapter = save_adapter(tmp_path, TEXT_MODELS["llama"], targets=[target], std=0.4)
    model = adapted("llama", adapter)
    effect = reference_logprobs(model, TOKENS) - reference_logprobs(make_model("llama"), TOKENS)
    assert effect.abs().max() > 4 * CLOSE
    server = serve(languages["llama"], converted(adapter, languages["llama"]))
    assert difference(model, server) < CLOSE


@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        (torch.float16, {}),
        (torch.bfloat16, {}),
        (torch.float32, {"use_rslora": True}),
        (torch.float32, {"r": 16, "lora_alpha": 4}),
    ],
)
def test_any_format_and_scale_is_taken(
    languages: dict[str, Path], tmp_path: Path, dtype: torch.dtype, more: Any
) -> None:
    adapter = save_adapter(tmp_path, TEXT_MODELS["llama"], **more)
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    save_file({name: it.to(dtype) for name, it in tensors.items()}, adapter / ADAPTER_WEIGHTS)
    server = serve(languages["llama"], converted(adapter, languages["llama"]))
    assert difference(adapted("llama", adapter), server) < CLOSE


def test_stacked_adapters_are_one_adapter(languages: dict[str, Path], tmp_path: Path) -> None:
    config = TEXT_MODELS["llama"]
    one, two = (save_adapter(tmp_path / str(n), config, n, std=0.1) for n in (1, 2))
    stack_adapters([one, two], tmp_path / "both")
    merged = adapted("llama", one).merge_and_unload()
    model = peft.PeftModel.from_pretrained(merged, str(two)).eval()
    server = serve(languages["llama"], converted(tmp_path / "both", languages["llama"]))
    assert difference(model, server) < CLOSE


def test_the_engine_answers_with_it_and_without_it_as_before(
    languages: dict[str, Path], tmp_path: Path
) -> None:
    base, card = gguf_card(), card_of(save_adapter(tmp_path, TEXT_MODELS["llama"]))
    folder = languages["llama"].parent
    told = []
    for one in (base, card, base):
        backend = load(one, folder, "cpu")
        told.append(ask(backend, QUESTION).text)
        backend.close()
    assert told[0] == told[2]
    assert told[1] != told[0]
    assert [path.name for path in folder.iterdir()] == ["model.gguf"]


def test_it_is_made_once_and_anew_after_more_training(
    languages: dict[str, Path], tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path, TEXT_MODELS["llama"], 1)
    first = converted(adapter, languages["llama"])
    made_ns = first.stat().st_mtime_ns
    assert converted(adapter, languages["llama"]) == first
    assert first.stat().st_mtime_ns == made_ns
    save_adapter(tmp_path, TEXT_MODELS["llama"], 2, r=8)
    second = converted(adapter, languages["llama"])
    assert list(adapter.glob("*.gguf")) == [second] != [first]
    server = serve(languages["llama"], second)
    assert difference(adapted("llama", adapter), server) < CLOSE


# ---------------------------------------------------------------- what is refused


def test_an_adapter_of_another_model_is_refused(languages: dict[str, Path], tmp_path: Path) -> None:
    wide = save_adapter(tmp_path / "wide", {**TEXT_MODELS["llama"], "hidden_size": 128})
    with pytest.raises(BackendError, match=r"another model than model\.gguf\. At model\.layers\.0"):
        converted(wide, languages["llama"])
    deep = save_adapter(tmp_path / "deep", {**TEXT_MODELS["llama"], "num_hidden_layers": 3})
    with pytest.raises(BackendError, match=r"At model\.layers\.2\.\S+ it is made for a linear lay"):
        converted(deep, languages["llama"])
    other = save_adapter(tmp_path / "other", TEXT_MODELS["llama"])
    with pytest.raises(BackendError, match=r"for a linear layer, and model\.gguf has no"):
        converted(other, languages["phi3"])
    assert not list(tmp_path.glob("*/*.gguf")), "nothing half written is left"


def test_the_head_of_a_model_that_has_none_of_its_own_is_refused(
    languages: dict[str, Path], tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path, TEXT_MODELS["gemma"], targets=["lm_head"])
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    lora = {name: it for name, it in tensors.items() if "lora" in name}
    save_file(lora, adapter / ADAPTER_WEIGHTS)
    with pytest.raises(BackendError, match="At lm_head it is made for a linear layer"):
        converted(adapter, languages["gemma"])


def test_a_rank_for_each_layer_is_refused(languages: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, TEXT_MODELS["llama"], rank_pattern={"q_proj": 8})
    with pytest.raises(BackendError, match="an adapter in GGUF has one for all"):
        converted(adapter, languages["llama"])


def test_an_architecture_that_is_not_known_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "falcon")
    finish_gguf(writer)
    adapter = save_adapter(tmp_path / "adapter", TEXT_MODELS["llama"])
    with pytest.raises(BackendError, match=r"of the kind 'falcon'.*gemma, gemma2, llama, phi3"):
        converted(adapter, tmp_path / "model.gguf")


# ---------------------------------------------------------------- a real model


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_real_model_of_four_bits_answers_as_pefts_does(
    weights_of: Callable[[str], Path], catalog: Catalog, tmp_path: Path
) -> None:
    """SmolLM2 as it is shipped. Its weights in the file have four bits, and llama.cpp rounds what
    they are multiplied with as well, so numbers agree less closely than those of tiny models; with
    rows of queries and keys in the wrong order they are out by a multiple."""
    path = weights_of(SMOLLM) / "model.gguf"
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    config = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    adapter = save_adapter(
        tmp_path, config, targets=["q_proj", "k_proj"], std=0.1, r=8, lora_alpha=16
    )
    server = serve(path, gguf_lora(adapter_card(catalog.card(SMOLLM), adapter), path))
    texts = [tokenizer(text)["input_ids"] for text in BEGINNINGS]
    plain = [reference_logprobs(model, tokens) for tokens in texts]
    taught: Any = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
    errors, effects = list[float](), list[float]()
    for tokens, before in zip(texts, plain, strict=True):
        expected, found = reference_logprobs(taught, tokens), next_logprobs(server, tokens, 50)
        errors += [abs(float(expected[token]) - told) for token, told in found.items()]
        effects += [abs(float(expected[token] - before[token])) for token in found]
    assert fmean(errors) < 0.25
    assert fmean(effects) > 2 * fmean(errors)
    greedy = [reference_text(taught, tokenizer, tokens, 8) for tokens in texts]
    said = [complete(server, tokens, 8) for tokens in texts]
    assert sum(map(eq, said, greedy)) > len(texts) / 2, (said, greedy)
